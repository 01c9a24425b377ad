import pytest
import torch
from torch import nn

from mtp.config.train import TrainConfig
from mtp.train.engine import Engine
from tests.train.gloo import on_ranks

CPU = torch.device("cpu")
STEPS = 4
ROWS = 8


class Toy(nn.Module):
    """Odd sizes, a bias, a shared weight used outside its own module: what ZeRO has to get right."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Linear(5, 7)
        self.norm = nn.LayerNorm(7)
        self.head = nn.Linear(7, 3, bias=False)

    def forward(self, x, target):
        hidden = torch.tanh(self.norm(self.embed(x)))
        return ((hidden @ self.head.weight.T + self.head(hidden**2) - target) ** 2).sum() / ROWS


def settings(world, **changes):
    changes = {"optimizer": {"lr": 1e-2, "grad_clip": 0.5}, **changes}
    return TrainConfig.model_validate({"num_workers": world, "batch_size": ROWS, **changes})


def batch(step):
    generator = torch.Generator().manual_seed(step)
    return torch.randn(ROWS, 5, generator=generator), torch.randn(ROWS, 3, generator=generator)


def plain_losses():
    module = Toy()
    decayed = [p for p in module.parameters() if p.ndim > 1]
    others = [p for p in module.parameters() if p.ndim == 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95))
    losses, norms = [], []
    for step in range(STEPS):
        loss = module(*batch(step))
        optimizer.zero_grad()
        loss.backward()
        norms.append(float(nn.utils.clip_grad_norm_(module.parameters(), 0.5)))
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses, norms, {name: p.detach().clone() for name, p in module.named_parameters()}


def train(engine, steps, accumulation, world, poison=None):
    losses, outcomes = [], []
    for step in steps:
        x, target = batch(step)
        rank = torch.distributed.get_rank()
        mine = slice(rank * ROWS // world, (rank + 1) * ROWS // world)
        total = torch.zeros(())
        for micro in range(accumulation):
            rows = ROWS // world // accumulation
            piece = slice(mine.start + micro * rows, mine.start + (micro + 1) * rows)
            loss = engine.forward(x[piece], target[piece])
            if step == poison and rank == 0:
                loss = loss * float("nan")
            engine.backward(loss)
            total += loss.detach()
        torch.distributed.all_reduce(total)
        losses.append(float(total))
        outcomes.append(engine.step(1e-2))
    return losses, outcomes


def weights(engine):
    return {name: engine.state.whole_weight(name).clone() for name in engine.state.parameter_names()}


def every_accumulation(stage):
    """Losses, norms and weights of 2 ranks with 1 and 2 micro-batches a step."""
    runs = []
    for accumulation in (1, 2):
        engine = Engine(
            Toy(), settings(2, zero_stage=stage, micro_batch_size=ROWS // 2 // accumulation), CPU, accumulation
        )
        losses, outcomes = train(engine, range(STEPS), accumulation, 2)
        runs.append((losses, [outcome.grad_norm for outcome in outcomes], weights(engine)))
    return runs


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_two_ranks_equal_plain_torch_whatever_the_accumulation(stage):
    losses, norms, final = plain_losses()
    for runs in on_ranks(2, every_accumulation, stage):
        for got_losses, got_norms, got_final in runs:
            torch.testing.assert_close(got_losses, losses, rtol=1e-5, atol=0)
            torch.testing.assert_close(got_norms, norms, rtol=1e-5, atol=0)
            torch.testing.assert_close(got_final, final, rtol=1e-5, atol=1e-7)


def poisoned_run(stage):
    engine = Engine(Toy(), settings(2, zero_stage=stage), CPU, 1)
    train(engine, range(2), 1, 2)
    before = weights(engine)
    _, outcomes = train(engine, [2], 1, 2, poison=2)
    after = weights(engine)
    losses, good = train(engine, [3], 1, 2)
    return outcomes[0].applied, before, after, good[0].applied, losses


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_gradient_that_is_not_finite_on_one_rank_moves_no_weight_on_any(stage):
    for applied, before, after, applied_next, losses in on_ranks(2, poisoned_run, stage):
        assert not applied
        torch.testing.assert_close(after, before, rtol=0, atol=0)
        assert applied_next
        assert torch.isfinite(torch.tensor(losses)).all()


def trial_steps(stage):
    """Two steps at rate 0, then a reset: what the budget in minutes does before training."""
    engine = Engine(Toy(), settings(2, zero_stage=stage), CPU, 1)
    for step in range(2):
        x, target = batch(step)
        engine.backward(engine.forward(x[:4], target[:4]))
        engine.step(0.0)
    engine.state.reset_optimizer(0)
    losses, _ = train(engine, range(STEPS), 1, 2)
    return losses


@pytest.mark.parametrize("stage", [0, 1, 3])
def test_steps_at_rate_zero_and_a_reset_leave_no_trace(stage):
    losses, *_ = plain_losses()
    torch.testing.assert_close(on_ranks(2, trial_steps, stage)[0], losses, rtol=1e-5, atol=0)


def lone_run(changes):
    engine = Engine(Toy(), settings(1, **changes), CPU, 1)
    losses, outcomes = train(engine, range(STEPS), 1, 1)
    return engine.zero_stage, losses, [outcome.grad_norm for outcome in outcomes]


@pytest.mark.parametrize("changes, expected", [({}, 0), ({"zero_stage": 3}, 0), ({"offload": {"optimizer": "cpu"}}, 1)])
def test_a_lone_worker_has_nothing_to_split(changes, expected):
    [(stage, losses, norms)] = on_ranks(1, lone_run, changes)
    assert stage == expected
    torch.testing.assert_close((losses, norms), plain_losses()[:2], rtol=1e-5, atol=0)
