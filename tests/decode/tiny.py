"""Tiny models for tests, of every kind, trained for seconds on a toy language so that drafts are sometimes right."""

from functools import cache

import torch

from mtp.config import ModelConfig
from mtp.model import MTPModel

VOCAB = 48
BLUR = 1.0
KINDS = {
    "sequential": {"kind": "sequential", "n_future": 4},
    "shared": {"kind": "sequential", "n_future": 4, "share_modules": True},
    "one_module": {"kind": "sequential", "n_future": 2},
    "parallel_0": {"kind": "parallel", "n_future": 4, "depth": 0},
    "parallel_2": {"kind": "parallel", "n_future": 3, "depth": 2, "tie_heads": True},
    "independent": {"kind": "independent", "n_future": 4},
    "none": {"kind": "none", "n_future": 1},
}


def tiny_config(prediction: dict, **changes) -> ModelConfig:
    values = {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "intermediate_size": 64,
        "moe_intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "kv_lora_rank": 16,
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 4,
        "v_head_dim": 8,
        "n_routed_experts": 4,
        "max_position_embeddings": 128,
        "initializer_range": 0.1,
        "prediction": prediction,
    }
    return ModelConfig.model_validate(values | changes)


def toy_rows(rows: int, length: int, generator: torch.Generator, vocab: int = VOCAB) -> torch.Tensor:
    """A language of two moods: a step of 7 after an even token and of 11 after an odd one; one time in five, a jump.

    Harder to look ahead in than to continue, so that later drafts are worse than earlier ones.
    """
    columns = [torch.randint(0, vocab, (rows, 1), generator=generator)]
    for _ in range(length - 1):
        last = columns[-1]
        jump = torch.rand(rows, 1, generator=generator) < 0.2
        columns.append(torch.where(jump, last * last + 3, last + torch.where(last % 2 == 0, 7, 11)) % vocab)
    return torch.cat(columns, dim=1)


def train(model: MTPModel, steps: int, rows: int = 16, length: int = 24) -> MTPModel:
    """Plain cross-entropy over all horizons."""
    generator = torch.Generator().manual_seed(7)
    optimizer = torch.optim.AdamW(model.parameters(), lr=8e-3)
    for _ in range(steps):
        tokens = toy_rows(rows, length, generator, model.config.vocab_size)
        loss = torch.zeros(())
        for k, hidden in enumerate(model(tokens), start=1):
            logits = model.logits(hidden[:, :-k], horizon=k)
            loss = loss + torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, k:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@cache
def tiny_model(kind: str, steps: int = 30) -> MTPModel:
    """A model of one of KINDS; the same for every caller."""
    torch.manual_seed(0)
    model = train(MTPModel(tiny_config(KINDS[kind])), steps)
    with torch.no_grad():  # a trained toy drafts too well: drafts have to be wrong at times, at every position
        for parameter in model.prediction.parameters():
            parameter += BLUR * parameter.std().nan_to_num(0.05) * torch.randn_like(parameter)
    return model


def random_prompts(count: int, seed: int, longest: int = 40, vocab: int = VOCAB) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest + 1, (count,), generator=generator).tolist()
    return [torch.randint(0, vocab, (length,), generator=generator).tolist() for length in lengths]
