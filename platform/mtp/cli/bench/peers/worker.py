"""The loop of a peer's process: one JSON object a line in, one out. Runs in any interpreter; imports nothing of mtp.

    in   {"model": folder, "batch": 8, "max_len": 192, "threads": 2, "drafts": 0}      first line: load
    in   {"prompts": [[ids], ...], "new_tokens": 128}                                  any further line: generate
    out  {"version": ...} | {"outputs": [[ids], ...]} | {"error": one sentence}

Whatever libraries print goes to standard error: the protocol has a stream of its own.
"""

import json
import os
import sys
from collections.abc import Callable
from typing import Any


def serve(load: Callable[[dict[str, Any]], Any]) -> None:
    """Answer until the input ends. `load(job)` gives an object with `version` and `run(prompts, new_tokens)`."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(**values: Any) -> None:
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    try:
        peer = load(json.loads(sys.stdin.readline()))
        answer(version=peer.version)
        for line in sys.stdin:
            job = json.loads(line)
            answer(outputs=peer.run(job["prompts"], job["new_tokens"]))
    except Exception as error:  # whatever a foreign library raises is told to the bench, which names it
        answer(error=f"{type(error).__name__}: {error}")
        raise
