"""vLLM's CPU build as a contestant. Runs in the peer's own interpreter; speaks the protocol of worker.py.

As shipped its fused operators give wrong log-probabilities for this architecture on processors (off by up to 4 nats
from position 1 on), so they are turned off: then its greedy outputs are Hugging Face's.
"""

import os
from typing import Any

from worker import serve  # type: ignore[import-not-found]


class VLLM:
    """One loaded model."""

    def __init__(self, job: dict[str, Any]) -> None:
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        os.environ["OMP_NUM_THREADS"] = str(job["threads"])
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        if job["latent"] != [512, 64]:  # the only one that its MLA kernels know
            os.environ["VLLM_MLA_DISABLE"] = "1"
        import torch
        import vllm  # type: ignore[import-not-found]

        torch.cpu._is_amx_tile_supported = lambda: False  # vLLM's experts for AMX take no fp32; those for vectors do
        self._vllm = vllm
        drafting = {"method": "mtp", "num_speculative_tokens": job["drafts"]} if job["drafts"] else None
        self._model = vllm.LLM(
            model=job["model"],
            dtype="float32",
            enforce_eager=True,
            max_model_len=job["max_len"],
            max_num_seqs=job["batch"],
            enable_prefix_caching=False,
            compilation_config={"custom_ops": ["none"]},
            speculative_config=drafting,
        )
        self.version = f"vllm {vllm.__version__}"

    def run(self, prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
        """Greedy continuations of all prompts at once."""
        wish = self._vllm.SamplingParams(temperature=0.0, max_tokens=new_tokens, ignore_eos=True, detokenize=False)
        found = self._model.generate([{"prompt_token_ids": prompt} for prompt in prompts], wish, use_tqdm=False)
        return [list(one.outputs[0].token_ids) for one in found]


if __name__ == "__main__":
    serve(VLLM)
