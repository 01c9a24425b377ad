"""A tokenizer larger than what gRPC takes by itself reaches the gateway, on a real cluster."""

import json

import torch

from mtp.checkpoint import save_model
from mtp.model import MTPModel
from mtp.tokenizer import Tokenizer
from tests.decode.tiny import KINDS, tiny_config

GRPC_LIMIT = 4 * 2**20
LONG_TOKENS, LENGTH = 50, 120_000


def with_long_tokens(tokenizer_json):
    """The tokenizer with entries that no merge reaches, so that text is encoded as before."""
    content = json.loads(tokenizer_json)
    vocabulary = content["model"]["vocab"]
    size = max(vocabulary.values()) + 1
    for number in range(LONG_TOKENS):
        vocabulary["x" * LENGTH + str(number)] = size + number
    return json.dumps(content)


def test_a_tokenizer_of_six_megabytes_is_served(client, endpoint_config, model_folder, tmp_path):
    from serve.deploy import deploy, undeploy

    (tmp_path / "tokenizer.json").write_text(with_long_tokens((model_folder / "tokenizer.json").read_text()))
    assert (tmp_path / "tokenizer.json").stat().st_size > GRPC_LIMIT
    tokenizer = Tokenizer.load(tmp_path)
    torch.manual_seed(1)
    model = MTPModel(tiny_config(KINDS["sequential"], vocab_size=tokenizer.vocab_size))
    folder = save_model(tmp_path / "long", model, tokenizer)
    deploy(str(folder), endpoint_config)
    try:
        asked = {"model": "long", "prompt": "def f(x):", "max_tokens": 8, "ignore_eos": True}
        answer = client.post("/v1/completions", json=asked)
        assert answer.json()["usage"]["completion_tokens"] == 8
    finally:
        undeploy(model="long")
    assert client.post("/v1/completions", json={**asked, "model": "toy"}).is_success
