import pytest
from pydantic import ValidationError

from mtp.config import build_config
from mtp.config.objective import LambdaConfig
from mtp.errors import UsageError
from mtp.objective import lambdas_at


def lambdas(config: dict, n: int = 4, step: int = 0, total: int = 100, tokens: int = 0) -> list[float]:
    return lambdas_at(LambdaConfig.model_validate(config), n, step, total, tokens)


def test_horizon_one_always_weighs_one():
    assert lambdas({"initial": 0.0}, n=1) == [1.0]
    assert lambdas({"schedules": [{"kind": "decay"}]}, step=100) == [1.0, 0.0, 0.0, 0.0]


def test_constant_keeps_the_initial_values():
    assert lambdas({"schedules": [{"kind": "constant"}]}, step=99) == [1.0, 0.3, 0.3, 0.3]
    assert lambdas({"initial": [0.5, 0.2, 0.1]}) == [1.0, 0.5, 0.2, 0.1]


def test_step_is_deepseek_v3s_three_tenths_then_one_tenth():
    config = {"schedules": [{"kind": "step"}]}
    assert lambdas(config, n=2, step=66) == [1.0, 0.3]
    assert lambdas(config, n=2, step=67) == [1.0, pytest.approx(0.1)]


def test_decay_is_the_seed_texts_power_law():
    config = {"schedules": [{"kind": "decay", "alpha": 2.0}]}
    assert lambdas(config, n=2, step=50) == [1.0, pytest.approx(0.3 * 0.25)]
    assert lambdas(config, n=2, step=100) == [1.0, 0.0]
    assert lambdas(config, n=2, step=130) == [1.0, 0.0]


def test_curriculum_is_the_seed_texts_table():
    config = {"schedules": [{"kind": "curriculum", "starts": [10_000, 20_000, 30_000]}]}
    for step, expected in [
        (0, [1.0, 0.0, 0.0, 0.0]),
        (9_999, [1.0, 0.0, 0.0, 0.0]),
        (10_000, [1.0, 0.3, 0.0, 0.0]),
        (20_000, [1.0, 0.3, 0.3, 0.0]),
        (30_000, [1.0, 0.3, 0.3, 0.3]),
    ]:
        assert lambdas(config, step=step, total=40_000) == expected


def test_schedules_compose_by_multiplication():
    config = {"schedules": [{"kind": "curriculum", "starts": [0, 50]}, {"kind": "step", "at": 0.5, "factor": 0.5}]}
    assert lambdas(config, n=3, step=0) == [1.0, 0.3, 0.0]
    assert lambdas(config, n=3, step=50) == [1.0, 0.15, 0.15]


def test_tokens_count_instead_of_steps():
    config = {
        "unit": "tokens",
        "span": 1000,
        "schedules": [{"kind": "decay"}, {"kind": "curriculum", "starts": [100]}],
    }
    assert lambdas(config, n=2, step=90, tokens=99) == [1.0, 0.0]
    assert lambdas(config, n=2, step=1, tokens=500) == [1.0, pytest.approx(0.15)]


def test_every_value_may_differ_between_horizons():
    config = {
        "schedules": [{"kind": "decay", "alpha": [1.0, 0.0]}, {"kind": "step", "at": [0.1, 0.9], "factor": [0.5, 0.25]}]
    }
    assert lambdas(config, n=3, step=50) == [1.0, pytest.approx(0.3 * 0.5 * 0.5), 0.3]


def test_values_beyond_n_future_wait_for_a_larger_one():
    assert lambdas({"initial": [0.5, 0.2, 0.1]}, n=2) == [1.0, 0.5]


def test_a_missing_horizon_is_named():
    with pytest.raises(UsageError, match=r"initial lists values for horizons 2\.\.3, .* horizon 4"):
        lambdas({"initial": [0.5, 0.2]})
    with pytest.raises(UsageError, match=r"starts lists values for horizons 2\.\.2"):
        lambdas({"schedules": [{"kind": "curriculum", "starts": [5]}]})


def test_a_training_of_no_steps_has_lambdas():
    assert lambdas({"schedules": [{"kind": "decay"}]}, n=2, step=0, total=0) == [1.0, 0.3]


@pytest.mark.parametrize("schedule", [{"kind": "step", "at": 1.5}, {"kind": "decay", "alpha": -1}, {"kind": "cosine"}])
def test_values_that_cannot_be_are_refused(schedule):
    with pytest.raises(ValidationError):
        LambdaConfig.model_validate({"schedules": [schedule]})
    with pytest.raises(UsageError, match=r"objective\.lambdas\.schedules"):
        build_config({"objective": {"lambdas": {"schedules": [schedule]}}})
