"""Where a version comes from: data, tokenizer, code, configuration, parent. Tags on every version, rows on its card.

Knows which facts there are and their names; knows nothing of figures.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mtp.errors import MTPError
from mtp.registry.runs import source_commit

FORMAT = 1
"""Of what a version's tags and files mean; raised when an older mtp would misread them."""
FORMAT_TAG = "mtp.format"


@dataclass(frozen=True)
class Lineage:
    """Facts about one version's origin; None where they are not known."""

    run_id: str | None = None
    tokenizer_sha256: str | None = None
    source_commit: str | None = None
    parent: str | None = None
    """`models:/NAME/VERSION` that it was resumed or refreshed from."""

    def tags(self) -> dict[str, str]:
        """Those on the version."""
        named = {
            "tokenizer_sha256": self.tokenizer_sha256,
            "source_commit": self.source_commit,
            "parent": self.parent,
        }
        return {FORMAT_TAG: str(FORMAT), **{name: value for name, value in named.items() if value}}

    def rows(self) -> list[tuple[str, str | None]]:
        """For the card's table."""
        return [
            ("tokenizer (sha256)", self.tokenizer_sha256 and f"`{self.tokenizer_sha256[:16]}`"),
            ("code commit", self.source_commit and f"`{self.source_commit[:12]}`"),
            ("parent version", self.parent and f"`{self.parent}`"),
            ("run", self.run_id and f"`{self.run_id}`"),
        ]


def lineage_of(folder: Path, run_id: str, parent: str | None) -> Lineage:
    """What is known when the model in `folder` is registered."""
    tokenizer = hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest()
    return Lineage(run_id, tokenizer, source_commit(), parent)


def refuse_newer(tags: Mapping[str, str], what: str) -> None:
    """Check that this mtp knows what a version's tags mean.

    Raises:
        MTPError: a newer mtp registered it.
    """
    written = tags.get(FORMAT_TAG, "1")
    if not written.isdigit() or int(written) > FORMAT:
        raise MTPError(
            f"{what} was registered by a newer mtp (format {written}, this one knows {FORMAT}); upgrade mtp to use it"
        )
