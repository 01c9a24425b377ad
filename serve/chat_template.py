"""Messages to a prompt: by the template in the model's folder, rendered in a sandbox, else by a plain default.

Templates are Jinja, as Hugging Face writes them. One comes with a model, so it is code of somebody else's: it runs in
an immutable sandbox, sees the messages alone, opens no file, and its output is bounded. Special tokens that the
template itself writes become ids; what users typed never does.
"""

import secrets
from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from mtp.errors import MTPError, UsageError
from mtp.tokenizer import Tokenizer

MAX_PROMPT_CHARACTERS = 20_000_000


class ChatTemplate:
    """One model's way to write a conversation."""

    def __init__(self, source: str | None, special_tokens: dict[str, str]) -> None:
        """Raises MTPError if the template does not parse."""
        self._special = special_tokens
        self._template = None
        if source is not None:
            sandbox = ImmutableSandboxedEnvironment(
                trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
            )
            sandbox.globals["raise_exception"] = _refuse
            sandbox.globals["range"] = _short_range
            try:
                self._template = sandbox.from_string(source)
            except TemplateError as error:
                raise MTPError(f"the model's chat template does not parse: {error}") from None

    def encode(self, messages: Sequence[dict[str, Any]], tokenizer: Tokenizer) -> list[int]:
        """The ids of a conversation, the assistant's turn left open.

        Each message's text is rendered as a marker that no user can guess, and put back after the template's own
        special tokens have become ids.

        Raises:
            UsageError: the template refuses the conversation.
        """
        if self._template is None:
            return tokenizer.encode(plain(messages))
        marker = secrets.token_hex(16)
        marked = [
            {**message, "content": f"{marker}:{place};"} if isinstance(message["content"], str) else message
            for place, message in enumerate(messages)
        ]
        try:
            text = self._template.render(messages=marked, add_generation_prompt=True, **self._special)
        except UsageError:
            raise
        except Exception as error:  # a template is somebody else's program: whatever it raises, the request is at fault
            raise UsageError(f"the model's chat template refuses these messages: {error}") from None
        if len(text) + sum(len(str(message["content"])) for message in messages) > MAX_PROMPT_CHARACTERS:
            raise UsageError(f"the conversation is longer than {MAX_PROMPT_CHARACTERS} characters")
        return _encode(text, marker, [str(message["content"]) for message in messages], tokenizer)


def plain(messages: Sequence[dict[str, Any]]) -> str:
    """One paragraph a message, each led by its role; the assistant's turn is left open.

    [user: Hi] gives "user: Hi\\n\\nassistant:".
    """
    return "".join(f"{message['role']}: {message['content']}\n\n" for message in messages) + "assistant:"


def _encode(text: str, marker: str, contents: list[str], tokenizer: Tokenizer) -> list[int]:
    """Template text between special tokens and users' text, each run encoded by itself only where ids are special."""
    names = tokenizer.special_tokens
    ids: list[int] = []
    plain_text = ""
    for part, special in _split(text, marker, contents, names):
        if special is None:
            plain_text += part
            continue
        if plain_text:
            ids += tokenizer.encode(plain_text)
            plain_text = ""
        ids.append(special)
    return ids + (tokenizer.encode(plain_text) if plain_text else [])


def _split(text: str, marker: str, contents: list[str], names: dict[str, int]) -> list[tuple[str, int | None]]:
    found: list[tuple[str, int | None]] = []
    pieces = text.split(marker)
    for place, piece in enumerate(pieces):
        rest = piece
        if place:
            number, _, rest = piece.removeprefix(":").partition(";")
            found.append((contents[int(number)], None))
        while rest:
            name, at = _next_special(rest, names)
            if name is None:
                found.append((rest, None))
                break
            found += [(rest[:at], None), (name, names[name])]
            rest = rest[at + len(name) :]
    return found


def _next_special(text: str, names: dict[str, int]) -> tuple[str | None, int]:
    places = [(at, -len(name), name) for name in names if (at := text.find(name)) >= 0]
    if not places:
        return None, -1
    at, _, name = min(places)
    return name, at


def _refuse(message: str) -> None:
    raise UsageError(f"the model's chat template refuses these messages: {message}")


def _short_range(*bounds: int) -> range:
    found = range(*bounds)
    if len(found) > 100_000:
        raise UsageError("the model's chat template loops for too long")
    return found
