import pytest
import torch

from mtp.model import MTPModel
from tests.model.configurations import KINDS, small

TOKENS = torch.randint(0, 97, (2, 8), generator=torch.Generator().manual_seed(2))
WITH_MODULES = [kind for kind in KINDS if kind != "none"]


def horizon_loss(model, horizon, **options):
    hiddens, heads = model(TOKENS, **options), model.heads(**options)
    logits = hiddens[horizon - 1] @ heads[horizon - 1].T
    return -logits.log_softmax(-1).gather(-1, TOKENS.roll(-horizon, 1).unsqueeze(-1)).mean()


@pytest.mark.parametrize("kind", KINDS)
def test_every_horizon_sends_the_backbone_the_gradient_that_finite_differences_give(kind):
    torch.manual_seed(0)
    model = MTPModel(small(kind, n_routed_experts=0)).double()
    weight = model.model.layers[0].self_attn.o_proj.weight
    for horizon in range(1, model.config.n_future + 1):
        (gradient,) = torch.autograd.grad(horizon_loss(model, horizon), weight)
        for row, column in ((0, 0), (7, 3), (20, 15)):
            losses = []
            for step in (1e-5, -1e-5):
                with torch.no_grad():
                    weight[row, column] += step
                    losses.append(horizon_loss(model, horizon).item())
                    weight[row, column] -= step
            assert gradient[row, column].item() == pytest.approx((losses[0] - losses[1]) / 2e-5, rel=1e-4, abs=1e-9)
            assert gradient[row, column] != 0


@pytest.mark.parametrize("kind", WITH_MODULES)
def test_detached_horizons_send_the_main_model_nothing_and_the_modules_the_same(kind):
    torch.manual_seed(0)
    model = MTPModel(small(kind)).train()
    horizon = model.config.n_future
    modules = [p for p in model.prediction.parameters() if p.requires_grad]
    whole = torch.autograd.grad(horizon_loss(model, horizon), modules, allow_unused=True)
    horizon_loss(model, horizon, detach_backbone=True).backward()
    own = {id(parameter) for parameter in modules}
    assert all(parameter.grad is None for parameter in model.parameters() if id(parameter) not in own)
    for parameter, expected in zip(modules, whole, strict=True):
        if expected is not None:
            torch.testing.assert_close(parameter.grad, expected)


def test_training_detached_modules_leaves_the_main_model_bit_identical():
    torch.manual_seed(0)
    model = MTPModel(small()).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        sum(horizon_loss(model, horizon, detach_backbone=True) for horizon in (2, 3)).backward()
        optimizer.step()
        for layer in model.expert_layers():
            layer.update_expert_bias(layer.tokens_per_expert, 0.1)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed
    assert all(name.startswith("prediction.") for name in changed)


@pytest.mark.parametrize("kind", KINDS)
def test_activation_checkpointing_changes_no_gradient(kind):
    torch.manual_seed(0)
    model = MTPModel(small(kind)).train()
    gradients = []
    for enabled in (False, True):
        model.checkpoint_activations(enabled)
        model.zero_grad()
        sum(horizon_loss(model, horizon) for horizon in range(1, model.config.n_future + 1)).backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)
