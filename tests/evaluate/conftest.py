import pytest
import torch

from mtp.checkpoint import save_model
from mtp.config import ModelConfig
from mtp.model import MTPModel
from mtp.tokenizer import Tokenizer
from tests.data.datasets import write_dataset

VOCABULARY = 300
TOKENIZER = Tokenizer.train(["hello world"] * 3, vocab_size=VOCABULARY)
TOKENS = TOKENIZER.vocab_size
"""Fewer than VOCABULARY: a small corpus has few merges, and the model's last ids then never occur."""


def tiny_model(kind="sequential", n_future=4, vocab_size=VOCABULARY) -> MTPModel:
    torch.manual_seed(0)
    config = ModelConfig.model_validate(
        {
            "vocab_size": vocab_size,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "kv_lora_rank": 8,
            "qk_nope_head_dim": 8,
            "qk_rope_head_dim": 4,
            "v_head_dim": 8,
            "max_position_embeddings": 64,
            "initializer_range": 0.2,
            "prediction": {"kind": kind, "n_future": n_future},
        }
    )
    return MTPModel(config).eval()


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("validation")
    write_dataset(folder, shard_rows=(10, 5), seq_len=16, vocab_size=TOKENS)
    return folder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("models") / "tiny", tiny_model(), TOKENIZER)
