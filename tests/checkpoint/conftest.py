import pytest
import torch

from mtp.tokenizer import Tokenizer


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer():
    return Tokenizer.train(["def main():\n    return 'hello world'\n"] * 50, 280)
