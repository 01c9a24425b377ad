"""A peer's process: started with a model, asked for greedy continuations, ended. See worker.py for the protocol."""

import contextlib
import json
import selectors
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from mtp.errors import MTPError

ANSWER_S = 900
"""Longest that a peer may take to load or to answer."""


class PeerProcess:
    """One engine with one model, in its own interpreter."""

    def __init__(self, python: Path, peer: str, job: dict[str, Any]) -> None:
        """Start it and load the model; `job` is the first line of the protocol.

        Raises:
            MTPError: it does not start, does not take the model, or does not answer.
        """
        script = Path(__file__).parent / f"{peer}_worker.py"
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the process)
        try:
            self._process = subprocess.Popen(
                [str(python), str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log
            )
        except OSError as error:
            raise MTPError(f"{python} does not start: {error.strerror}") from error
        try:
            self.version = str(self._ask(job)["version"])
        except MTPError:
            self.close()
            raise

    def run(self, prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
        """Greedy continuations (ids) of all prompts together."""
        outputs: list[list[int]] = self._ask({"prompts": prompts, "new_tokens": new_tokens})["outputs"]
        return outputs

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def _ask(self, job: dict[str, Any]) -> dict[str, Any]:
        pipe_in, pipe_out = self._process.stdin, self._process.stdout
        if pipe_in is None or pipe_out is None:
            raise RuntimeError("the process was started without pipes")
        try:
            pipe_in.write(json.dumps(job).encode() + b"\n")
            pipe_in.flush()
        except OSError as error:
            raise MTPError(f"it has ended: {self._last_words()}") from error
        with selectors.DefaultSelector() as selector:
            selector.register(pipe_out, selectors.EVENT_READ)
            if not selector.select(ANSWER_S):
                raise MTPError(f"it did not answer within {ANSWER_S} s")
        line = pipe_out.readline()
        if not line:
            raise MTPError(f"it has ended: {self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise MTPError(str(answer["error"]))
        return answer

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"
