"""GPT-2's reversible spelling of bytes as printable characters, which byte-level vocabularies are written in.

Printable Latin-1 bytes stand for themselves; the other 68 are moved to U+0100 and up, in order. Knows nothing about
vocabularies.
"""


def _spelling() -> dict[str, int]:
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    moved = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(moved)}


BYTE_OF = _spelling()
"""The byte that each of the 256 characters spells."""


def spelled_bytes(token: str) -> bytes | None:
    """The bytes that a vocabulary entry spells, or None if it is not written in this alphabet."""
    try:
        return bytes(BYTE_OF[character] for character in token)
    except KeyError:
        return None
