"""Which trials a sweep has: every combination or random ones, the same every time, all valid before any starts."""

import pytest

from mtp.config import build_config
from mtp.data.storage import Location
from mtp.errors import MTPError, UsageError
from mtp.sweep import SweepRecord, TrialRecord, plan_trials, sweep_figure


def config(parameters, **sweep):
    return build_config({"sweep": {"parameters": parameters, **sweep}})


def test_a_grid_tries_every_combination_once():
    trials = plan_trials(config({"train.optimizer.lr": [1e-3, 3e-3, 1e-3], "train.zero_stage": [1, 2]}))
    assert [trial.values for trial in trials] == [
        {"train.optimizer.lr": lr, "train.zero_stage": stage} for lr in (1e-3, 3e-3) for stage in (1, 2)
    ]
    assert trials[1].config.train.zero_stage == 2 and trials[2].config.train.optimizer.lr == 3e-3
    assert len({trial.config.train.run_name for trial in trials}) == 4


def test_random_trials_are_the_same_every_time_and_lie_in_their_ranges():
    ranges = {
        "train.optimizer.lr": {"low": 1e-4, "high": 1e-2, "log": True},
        "train.log_every": {"low": 1, "high": 3, "whole": True},
        "train.dtype": ["float32"],
    }
    first, again = (plan_trials(config(ranges, method="random", trials=30)) for _ in range(2))
    assert [trial.name for trial in first] == [trial.name for trial in again]
    rates = [trial.config.train.optimizer.lr for trial in first]
    assert all(1e-4 <= rate <= 1e-2 for rate in rates) and min(rates) < 1e-3 < max(rates)
    assert {trial.config.train.log_every for trial in first} == {1, 2, 3}


def test_another_base_configuration_makes_other_trials_and_another_storage_path_does_not():
    def name(**train):
        tree = {"train": train, "sweep": {"parameters": {"train.optimizer.lr": [1e-3]}}}
        return plan_trials(build_config(tree))[0].name

    assert name() == name(storage_path="/elsewhere", run_name="x") != name(seed=1)


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({}, "sweep.parameters is empty"),
        ({"train.optimzer.lr": [1]}, r"trial train.optimzer.lr=1: unknown key train.optimzer; did you mean optimizer"),
        ({"train.zero_stage": [1, 7]}, r"trial train.zero_stage=7: .*zero_stage"),
        ({"tracking.uri": ["x"]}, "tracking.uri does not change a training"),
        ({"train.optimizer.lr": {"low": 1, "high": 2}}, "has a range, which a grid cannot try"),
        ({"train.optimizer.lr": []}, "train.optimizer.lr has no values"),
    ],
)
def test_what_cannot_be_swept_is_refused(parameters, reason):
    with pytest.raises(UsageError, match=reason):
        plan_trials(config(parameters))


def test_the_record_comes_back_and_damage_is_named(tmp_path):
    folder = Location.of(tmp_path)
    record = SweepRecord(parent_run_id="p")
    record.trials["a"] = TrialRecord(name="a", values={"k": 1}, status="finished", value=0.5)
    record.trials["b"] = TrialRecord(name="b", values={"k": 2}, status="failed", error="no")
    record.write(folder)
    read = SweepRecord.read(folder)
    assert read == record and read.finished("a") and not read.finished("b") and not read.finished("c")
    (tmp_path / "sweep.json").write_text("{")
    with pytest.raises(MTPError, match=r"sweep\.json is damaged"):
        SweepRecord.read(folder)


def test_the_figure_has_a_panel_a_key_and_copes_with_words_and_failures():
    trials = [
        TrialRecord(name=str(i), values={"lr": 10.0**-i, "kind": kind}, status="finished", value=float(i))
        for i, kind in enumerate(("a", "b", "a"), start=1)
    ]
    trials.append(TrialRecord(name="x", values={"lr": 1.0, "kind": "b"}, status="failed"))
    figure = sweep_figure(trials, "eval/loss_h1")
    assert [axes.get_xlabel() for axes in figure.axes] == ["lr", "kind"]
    assert figure.axes[0].get_xscale() == "log"
