"""`mtp bench train --model-only`: our training step against Hugging Face's, the machine's peak, and what FLOPs predict.

A step is forward, loss, backward and AdamW on one batch of random tokens. Hugging Face's model has the same weights and
must find the same loss before it is timed; it has no MTP, so it is compared with one horizon.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mtp.cli.bench.harness import Contestant, Measured, OnRound, pairwise, take_turns
from mtp.cli.bench.report import Ratio
from mtp.config import ModelConfig, ObjectiveConfig
from mtp.errors import MTPError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from mtp.model import MTPModel

LOSS_TOLERANCE = 1e-4
"""Relative difference of the two losses on equal weights, in fp32."""

HUGGINGFACE, OURS = "huggingface", "ours n=1"


@dataclass(frozen=True)
class StepSize:
    """The model and batch that a step is measured on."""

    hidden_size: int = 512
    seq_len: int = 512
    rows: int = 4
    layers: int = 4
    vocab_size: int = 8192

    @property
    def tokens(self) -> int:
        """Tokens of one step."""
        return self.rows * self.seq_len

    def config(self, n_future: int) -> ModelConfig:
        """DeepSeek-V3 of this width: a dense layer, then 8 experts of which each token takes 2 and a shared one."""
        d = self.hidden_size
        return ModelConfig(
            vocab_size=self.vocab_size,
            hidden_size=d,
            intermediate_size=d * 11 // 4,
            moe_intermediate_size=d * 11 // 16,
            num_hidden_layers=self.layers,
            num_attention_heads=d // 64,
            q_lora_rank=None,
            kv_lora_rank=d // 4,
            qk_nope_head_dim=64,
            qk_rope_head_dim=32,
            v_head_dim=64,
            n_routed_experts=8,
            num_experts_per_tok=2,
            max_position_embeddings=self.seq_len,
            prediction={"kind": "sequential" if n_future > 1 else "none", "n_future": n_future},  # type: ignore[arg-type]
        )


SMOKE = StepSize(hidden_size=64, seq_len=32, rows=2, layers=2, vocab_size=512)


def bench_model_step(
    size: StepSize, rounds: int, peak_flops: float, on_round: OnRound
) -> tuple[list[dict[str, Any] | Measured], list[Ratio]]:
    """Contestants (a dict for one that is missing) and ratios."""
    import torch

    torch.manual_seed(0)
    tokens = torch.randint(size.vocab_size, (size.rows, size.seq_len))
    contestants = [_ours(size, n, tokens) for n in (1, 2, 4)]
    peer = _huggingface(size, tokens)
    measured = take_turns([*contestants, *([peer] if peer else [])], rounds, on_round)
    ratios = list(_ratios(size, measured, peak_flops))
    missing: list[dict[str, Any] | Measured] = []
    if peer is None:
        missing.append({"name": HUGGINGFACE, "unit": "", "median": None, "detail": {"missing": "transformers"}})
    return [*measured.values(), *missing], ratios


def _ratios(size: StepSize, measured: dict[str, Measured], peak_flops: float) -> Iterator[Ratio]:
    from mtp.model import flops_per_token

    ours = measured[OURS]
    flops = {n: flops_per_token(size.config(n), size.seq_len) for n in (1, 2, 4)}
    if HUGGINGFACE in measured:
        yield Ratio.of("step_vs_huggingface", pairwise(ours, measured[HUGGINGFACE]), 2.0, "higher")
    yield Ratio.of("mfu", [rate * flops[1] / peak_flops for rate in ours.rates], 0.6, "higher")
    for n in (2, 4):
        predicted = flops[n] / flops[1]
        overheads = [ratio / predicted for ratio in pairwise(ours, measured[f"ours n={n}"])]
        yield Ratio.of(f"mtp_overhead_vs_flops_n{n}", overheads, 1.10, "lower")


def _ours(size: StepSize, n_future: int, tokens: "Tensor") -> Contestant:
    from mtp.model import flops_per_token, parameter_counts

    config = size.config(n_future)
    model = _model(config)
    detail = {
        "parameters": f"{parameter_counts(config).total:,}",
        "FLOPs a token": f"{flops_per_token(config, size.seq_len):.3g}",
        "batch": f"{size.rows} x {size.seq_len}",
    }
    step = _step(model, lambda: _our_loss(model, tokens))
    return Contestant(f"ours n={n_future}", step, size.tokens, detail=detail)


def step_of(size: StepSize, n_future: int) -> Callable[[], None]:
    """A training step with so many horizons, on random tokens."""
    import torch

    torch.manual_seed(0)
    tokens = torch.randint(size.vocab_size, (size.rows, size.seq_len))
    model = _model(size.config(n_future))
    return _step(model, lambda: _our_loss(model, tokens))


def _huggingface(size: StepSize, tokens: "Tensor") -> Contestant | None:
    """Hugging Face's model with our weights; None where transformers is not installed."""
    try:
        import transformers
    except ImportError:
        return None
    import torch

    from mtp.checkpoint.config_json import to_hf

    config = size.config(1)
    ours = _model(config)
    keys = to_hf(config, dtype=torch.float32)
    theirs = transformers.DeepseekV3ForCausalLM(transformers.DeepseekV3Config(**keys))
    theirs.load_state_dict(ours.state_dict())
    theirs.train()

    def loss() -> "Tensor":
        result: Tensor = theirs(input_ids=tokens, labels=tokens, use_cache=False).loss
        return result

    with torch.no_grad():
        expected, found = float(_our_loss(ours, tokens)), float(loss())
    if abs(found - expected) > LOSS_TOLERANCE * expected:
        raise MTPError(f"{HUGGINGFACE} finds loss {found} with our weights, we find {expected}; not the same work")
    return Contestant(HUGGINGFACE, _step(theirs, loss), size.tokens, detail={"transformers": transformers.__version__})


def _model(config: ModelConfig) -> "MTPModel":
    import torch

    from mtp.model import MTPModel

    torch.manual_seed(1)  # the same weights for contestants of the same shape
    return MTPModel(config)


def _our_loss(model: "MTPModel", tokens: "Tensor") -> "Tensor":
    import torch

    from mtp.objective import MTPObjective

    n = model.config.n_future
    objective = MTPObjective(ObjectiveConfig(), n)
    targets = objective.targets(tokens, torch.zeros_like(tokens, dtype=torch.int32))
    lambdas = torch.tensor([1.0] + [0.3] * (n - 1))
    return objective(model(tokens), model.heads(), targets, lambdas, objective.denominators(targets)).loss


def _step(model: "torch.nn.Module", loss: Callable[[], "Tensor"]) -> Callable[[], None]:
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def run() -> None:
        loss().backward()
        optimizer.step()
        optimizer.zero_grad()

    return run
