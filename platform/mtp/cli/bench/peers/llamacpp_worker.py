"""llama.cpp as a contestant: a server (package xllamacpp) on the loopback address, asked with token ids.

Runs in the peer's own interpreter and imports nothing of mtp; speaks the protocol of worker.py.
"""

import http.client
import importlib.metadata
import json
import tempfile
from pathlib import Path
from typing import Any

import xllamacpp  # type: ignore[import-not-found]
from llamacpp_gguf import write_gguf  # type: ignore[import-not-found]
from worker import serve  # type: ignore[import-not-found]


class LlamaCpp:
    """One loaded model."""

    def __init__(self, job: dict[str, Any]) -> None:
        self._folder = tempfile.TemporaryDirectory()
        path = Path(self._folder.name) / "model.gguf"
        write_gguf(Path(job["model"]), path, modules=job["drafts"] > 0)
        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_parallel = job["batch"]
        params.n_ctx = job["batch"] * job["max_len"]
        params.n_batch = params.n_ubatch = 512
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = job["threads"]
        params.port = 0
        params.warmup = False
        params.cache_prompt = False
        params.cache_ram_mib = 0
        if job["drafts"]:
            params.speculative.types = [xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_DRAFT_MTP]
            params.speculative.draft.n_max = job["drafts"]
            params.load_mtp = True
        self._server = xllamacpp.Server(params)
        self._host, _, self._port = self._server.listening_address.removeprefix("http://").rpartition(":")
        self.version = f"xllamacpp {importlib.metadata.version('xllamacpp')}"

    def run(self, prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
        """Greedy continuations of all prompts at once."""
        wish = {
            "prompt": prompts if len(prompts) > 1 else prompts[0],
            "n_predict": new_tokens,
            "ignore_eos": True,
            "temperature": 0.0,
            "samplers": ["temperature"],
            "return_tokens": True,
            "cache_prompt": False,
        }
        connection = http.client.HTTPConnection(self._host, int(self._port), timeout=600)  # idle ones are cut off
        connection.request("POST", "/completion", json.dumps(wish), {"Content-Type": "application/json"})
        answer = json.loads(connection.getresponse().read())
        connection.close()
        if isinstance(answer, dict) and "error" in answer:
            raise RuntimeError(str(answer["error"]))
        parts = answer if isinstance(answer, list) else [answer]
        return [part["tokens"] for part in sorted(parts, key=lambda part: part.get("index", 0))]


if __name__ == "__main__":
    serve(LlamaCpp)
