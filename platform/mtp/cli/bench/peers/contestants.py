"""Which engines run beside ours in a cell, started once a model: theirs without drafts, and with their own MTP.

What cannot run is no error: its entry in the report says why.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from mtp.cli.bench.harness import Contestant
from mtp.cli.bench.peers.environments import interpreter
from mtp.cli.bench.peers.huggingface import HuggingFace
from mtp.cli.bench.peers.process import PeerProcess
from mtp.errors import MTPError

DRAFTS = 1
"""What the others draft a step: they run one module, and llama.cpp knows exactly one."""
NAMES = ("huggingface", "vllm", "llamacpp")
MOST = {"huggingface": 8, "huggingface_mtp": 1}
"""Largest batch: Hugging Face is slow, and drafts for one prompt alone."""


class Runs(Protocol):
    """What a contestant needs of an engine."""

    version: str

    def run(self, prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
        """Greedy continuations (ids) of all prompts together."""
        ...


@dataclass(frozen=True)
class RunningPeer:
    """`name` is what ratios call it: vllm, vllm_mtp, llamacpp, ..."""

    name: str
    engine: Runs

    def takes(self, batch: int) -> bool:
        """Whether it runs in cells of this batch size."""
        return batch <= MOST.get(self.name, batch)


@dataclass(frozen=True)
class Peers:
    """The peers of one model."""

    running: list[RunningPeer]
    missing: list[dict[str, Any]]
    """Entries of the report."""


@contextmanager
def started(
    model: str,
    folder: Path | None,
    wanted: Sequence[str],
    named: Mapping[str, Path],
    job: Mapping[str, Any],
    on_start: Callable[[str], None],
) -> Iterator[Peers]:
    """Start `wanted` with the exported model in `folder` (None: there is none); they end with the block.

    Args:
        model: its name in the report.
        folder: in the public layout.
        wanted: of NAMES.
        named: interpreters that the user named, by peer.
        job: batch, max_len, threads and latent; see worker.py.
        on_start: is told who starts.
    """
    running, missing = [], []
    with ExitStack() as stack:
        for peer in wanted:
            for drafts in (0, DRAFTS):
                name = f"{peer}_mtp" if drafts else peer
                on_start(name)
                try:
                    if folder is None:
                        raise MTPError("the smoke run's model is not kept as a folder that others could read")
                    running.append(RunningPeer(name, _start(peer, folder, named, {**job, "drafts": drafts}, stack)))
                except MTPError as error:
                    missing.append(missing_entry(f"{model} {name}", str(error)))
        yield Peers(running, missing)


def _start(peer: str, folder: Path, named: Mapping[str, Path], job: dict[str, Any], stack: ExitStack) -> Runs:
    if peer == "huggingface":
        return HuggingFace(folder, modules=job["drafts"] > 0)
    process = PeerProcess(interpreter(peer, named), peer, {**job, "model": str(folder)})
    stack.callback(process.close)
    return process


def missing_entry(name: str, reason: str) -> dict[str, Any]:
    """What the report says of a contestant that did not run."""
    return {"name": name, "unit": "", "median": None, "detail": {"missing": reason}}


def contestant(
    peer: RunningPeer, name: str, cell: list[list[list[int]]], new_tokens: int, expected: list[list[int]]
) -> Contestant | dict[str, Any]:
    """A peer in one cell, whose prompts come batch by batch, its greedy outputs compared with ours."""

    def run() -> list[list[int]]:
        return [output for prompts in cell for output in peer.engine.run(prompts, new_tokens)]

    try:
        found = run()
    except Exception as error:  # of a foreign library: it goes into the report, and the others go on
        return missing_entry(name, f"{type(error).__name__}: {error}")
    detail = {"version": peer.engine.version, "same greedy outputs": agreement(found, expected)}
    return Contestant(name, run, len(found) * new_tokens, detail=detail)


def agreement(found: list[list[int]], expected: list[list[int]]) -> str:
    """How many outputs are ours, and where the others first differ.

    Example:
        agreement([[1, 2], [1, 3]], [[1, 2], [1, 2]]) == "1 of 2; others differ from token 1 on"
    """
    firsts = [
        next((place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
        for one, other in zip(found, expected, strict=True)
        if one != other
    ]
    same = f"{len(expected) - len(firsts)} of {len(expected)}"
    return f"{same}; others differ from token {', '.join(map(str, sorted(firsts)[:5]))} on" if firsts else same
