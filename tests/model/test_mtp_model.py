import re

import pytest
import torch

from mtp.errors import MTPError
from mtp.model import MOE_LAYER_PATTERN, PREDICTION_MODULES, MTPModel
from mtp.model.moe import MoE
from tests.model.configurations import KINDS, small


def tokens(*shape, high=97):
    return torch.randint(0, high, shape)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (torch.zeros(2, 0, dtype=torch.int64), r"\(2, 0\).*at least one token"),
        (torch.zeros(5, dtype=torch.int64), "the model takes"),
        (torch.tensor([[1, 2, 97, 3]]), "token id 97 is outside the vocabulary of 97"),
        (torch.tensor([[1, 2, -4, 3]]), "token id -4 is outside"),
        (torch.zeros(1, 2, dtype=torch.int64), r"2 tokens are shorter than n_future \(3\)"),
        (torch.zeros(1, 129, dtype=torch.int64), r"longer than max_position_embeddings \(128\)"),
    ],
)
def test_rows_that_the_model_cannot_read_are_refused_with_the_reason(bad, said):
    with pytest.raises(MTPError, match=said):
        MTPModel(small())(bad)


def test_documents_of_another_shape_are_refused():
    with pytest.raises(MTPError, match=r"document has shape \(1, 4\), tokens \(1, 5\)"):
        MTPModel(small())(tokens(1, 5), torch.zeros(1, 4, dtype=torch.int32))


def test_sequential_modules_join_the_embedding_first_and_chain_the_normed_state():
    torch.manual_seed(0)
    model = MTPModel(small()).eval()
    row = tokens(2, 9)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:  # or a norm could be left out after another: with weights of 1 it changes nothing
                weight.uniform_(0.5, 1.5)
        hiddens = model(row)
        embedded = model.model.embed_tokens(row)
        rotation = model.model.rotary.prefix(9, embedded)
        for k, module in enumerate(model.prediction.modules_by_depth, start=1):
            previous = hiddens[k - 1][:, : 9 - k]
            joined = torch.cat((module.enorm(embedded[:, k:]), module.hnorm(previous)), dim=-1)
            part = tuple(angle[: 9 - k] for angle in rotation)
            expected = module.norm(module.block(module.eh_proj(joined), part, None))
            torch.testing.assert_close(hiddens[k][:, : 9 - k], expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(hiddens[0], model.model(embedded, rotation, None))


def test_a_valid_state_of_horizon_k_sees_exactly_the_tokens_up_to_k_minus_1_ahead():
    torch.manual_seed(0)
    for kind in KINDS:
        model = MTPModel(small(kind)).double()
        model.model.embed_tokens.weight.requires_grad_(False)
        row, seen = torch.arange(10).unsqueeze(0), []
        for horizon in range(1, model.config.n_future + 1):
            with torch.no_grad():
                before = model(row)[horizon - 1][0, 4]
                seen.append([])
                for position in range(10):
                    other = row.clone()
                    other[0, position] = 50
                    if not torch.allclose(model(other)[horizon - 1][0, 4], before, atol=1e-7):
                        seen[-1].append(position)
            ahead = horizon - 1 if model.prediction.chained else 0
            assert seen[-1] == list(range(5 + ahead)), (kind, horizon)


def test_shared_modules_are_one_module_run_again():
    model = MTPModel(small("shared"))
    assert len(model.prediction.modules_by_depth) == 1
    assert len(model(tokens(1, 8))) == 4


def test_parallel_heads_are_their_own_or_the_output_head():
    own, tied = MTPModel(small("parallel2")), MTPModel(small("parallel1"))
    assert len({id(head) for head in own.heads()}) == 3
    assert all(head is tied.lm_head.weight for head in tied.heads())
    states = tied(tokens(1, 8))
    assert not torch.allclose(states[1], states[2])


@pytest.mark.parametrize("kind", KINDS)
def test_the_embedding_and_the_head_stand_in_the_state_dict_once(kind):
    model = MTPModel(small(kind))
    assert sum("embed_tokens" in name for name in model.state_dict()) == 1
    assert sum("lm_head" in name for name in model.state_dict()) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_autoeps_pattern_matches_exactly_the_moe_layers(kind):
    model = MTPModel(small(kind))
    matched = {name for name, _ in model.named_modules() if re.fullmatch(MOE_LAYER_PATTERN, name)}
    moe = {name for name, module in model.named_modules() if isinstance(module, MoE)}
    assert moe <= matched
    assert all(not hasattr(model.get_submodule(name), "experts") for name in matched - moe)


def test_fresh_matrices_have_the_configured_deviation():
    torch.manual_seed(0)
    model = MTPModel(small(hidden_size=128, vocab_size=500, initializer_range=0.05))
    for name, parameter in model.named_parameters():
        if "norm" in name:
            assert (parameter == 1).all(), name
        elif parameter.numel() > 2000:
            assert parameter.std().item() == pytest.approx(0.05, rel=0.1), name


def test_the_embedding_may_have_a_deviation_of_its_own():
    torch.manual_seed(0)
    model = MTPModel(small(hidden_size=128, vocab_size=500, initializer_range=0.05, embedding_initializer_range=0.5))
    assert model.model.embed_tokens.weight.std().item() == pytest.approx(0.5, rel=0.1)
    assert model.lm_head.weight.std().item() == pytest.approx(0.05, rel=0.1)
    with pytest.raises(ValueError, match="tied"):
        small(embedding_initializer_range=0.5, tie_word_embeddings=True)


def test_every_kind_of_the_configuration_is_registered():
    assert set(PREDICTION_MODULES) == {"none", "sequential", "parallel", "independent"}


def test_compiled_and_eager_models_agree():
    torch.manual_seed(0)
    model = MTPModel(small(num_hidden_layers=2)).train()
    row = tokens(2, 8)
    document = torch.tensor([[0] * 5 + [1] * 3, [0] * 8])
    compiled = torch.compile(model, backend="aot_eager")
    for eager, other in zip(model(row, document), compiled(row, document), strict=True):
        torch.testing.assert_close(eager, other, atol=1e-5, rtol=1e-5)
    sum(state.sum() for state in compiled(row, document)).backward()
    assert all(parameter.grad is not None for name, parameter in model.named_parameters() if "lm_head" not in name)
