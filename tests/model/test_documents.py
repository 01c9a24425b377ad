import pytest
import torch

from mtp.model import MTPModel
from mtp.model.blockwise_attention import blockwise_attention
from mtp.model.masks import document_blocks, document_mask, flex_attend, sdpa_attend
from tests.model.configurations import KINDS, YARN, small

LENGTH = 20


def states(model, tokens, document=None):
    with torch.no_grad():
        return model(tokens, document)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("before", "after"), [(0, 9), (9, 0), (4, 7)])
@pytest.mark.parametrize("neighbour", ["padding", "document"])
def test_what_shares_a_row_with_a_document_changes_none_of_its_valid_states(kind, before, after, neighbour):
    torch.manual_seed(3)
    model = MTPModel(small(kind, rope_scaling=YARN)).eval()
    alone = torch.randint(0, 97, (1, LENGTH))
    row = torch.cat((torch.randint(0, 97, (1, before)), alone, torch.randint(0, 97, (1, after))), dim=1)
    outside = -1 if neighbour == "padding" else 0
    document = torch.tensor([[outside] * before + [1] * LENGTH + [2 if outside == 0 else -1] * after])
    for horizon, (lone, packed) in enumerate(zip(states(model, alone), states(model, row, document), strict=True), 1):
        valid = LENGTH - horizon  # position i has a target for horizon k when i + k is in the document
        inside = packed[:, before : before + valid]
        torch.testing.assert_close(
            model.logits(inside, horizon), model.logits(lone[:, :valid], horizon), atol=1e-4, rtol=1e-4
        )


def test_without_documents_a_row_is_one_document():
    model = MTPModel(small()).eval()
    tokens = torch.randint(0, 97, (2, LENGTH))
    for plain, masked in zip(states(model, tokens), states(model, tokens, torch.zeros_like(tokens)), strict=True):
        torch.testing.assert_close(plain, masked)


def test_document_mask_is_the_past_of_the_same_document():
    mask = document_mask(torch.tensor([[0, 0, 1, -1, -1]]))
    expected = [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 1, 1]]
    assert mask.tolist() == [[[[bool(x) for x in row] for row in expected]]]


@pytest.mark.parametrize("length", [1, 63, 64, 65, 200, 513])
@pytest.mark.parametrize("masked", [False, True])
def test_blockwise_attention_equals_scaled_dot_product_attention_in_value_and_gradient(length, masked):
    torch.manual_seed(length)
    query, key = (torch.randn(2, 3, length, 12, dtype=torch.float64, requires_grad=True) for _ in range(2))
    value = torch.randn(2, 3, length, 8, dtype=torch.float64, requires_grad=True)
    documents = (torch.arange(length) // 37).expand(2, -1)
    mask = document_mask(documents) if masked else None
    reference = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, scale=0.3
    )
    blockwise = blockwise_attention(query, key, value, mask, 0.3)
    torch.testing.assert_close(blockwise, reference)
    upstream = torch.randn_like(reference)
    inputs = (query, key, value)
    for got, expected in zip(
        torch.autograd.grad(blockwise, inputs, upstream), torch.autograd.grad(reference, inputs, upstream), strict=True
    ):
        torch.testing.assert_close(got, expected)


def test_flex_attention_under_its_block_mask_equals_the_dense_mask():
    torch.manual_seed(0)
    document = torch.tensor([[0] * 100 + [1] * 90 + [-1] * 10, [0] * 7 + [1] * 193], dtype=torch.int32)
    query, key = (torch.randn(2, 3, 200, 24) for _ in range(2))
    value = torch.randn(2, 3, 200, 16)
    flex = flex_attend(query, key, value, document_blocks(document), 0.2)
    assert flex.shape == value.shape
    torch.testing.assert_close(flex, sdpa_attend(query, key, value, document_mask(document), 0.2))


def test_a_model_gives_the_same_states_through_either_kernel(monkeypatch):
    torch.manual_seed(0)
    model = MTPModel(small()).eval()
    tokens = torch.randint(model.config.vocab_size, (2, 40))
    document = torch.tensor([[0] * 25 + [1] * 15, [0] * 36 + [-1] * 4], dtype=torch.int32)
    with torch.no_grad():
        dense = model(tokens, document)
        monkeypatch.setattr("mtp.model.mtp_model.attention_mask", lambda document, shape: document_blocks(document))
        for state, other in zip(dense, model(tokens, document), strict=True):
            torch.testing.assert_close(state, other)
