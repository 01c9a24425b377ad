"""From YAML and overrides to a validated configuration, and what a typo gets."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mtp.config import Config, build_config, dump_config, load_config
from mtp.errors import UsageError


def write(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return path


def test_overrides_win_over_the_file_and_the_file_over_defaults(tmp_path):
    path = write(tmp_path, "train:\n  batch_size: 8\n  optimizer: {lr: 1e-2, weight_decay: 0.2}\n")
    config = load_config(path, ["train.optimizer.lr=3e-4"])
    assert config.train.batch_size == 8
    assert config.train.optimizer.lr == 3e-4
    assert config.train.optimizer.weight_decay == 0.2
    assert config.train.optimizer.grad_clip == Config().train.optimizer.grad_clip


@given(
    st.floats(1e-6, 1, allow_nan=False),
    st.integers(1, 1000),
    st.sampled_from([None, "corpus", "a: b", "1e3"]),
)
def test_a_dumped_configuration_loads_as_an_equal_one(lr, steps, corpus):
    tree = {"train": {"optimizer": {"lr": lr}, "steps": steps}, "data": {"corpus": corpus}}
    config = build_config(tree)
    assert build_config(yaml.safe_load(dump_config(config))) == config


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.optimzer.lr=1", "unknown key train.optimzer; did you mean optimizer?"),
        ("trian.steps=1", "unknown key trian; did you mean train?"),
        ("model.rope_scaling.fctor=2", "did you mean factor?"),
        ("train.steps=many", "train.steps"),
        ("train.steps", "not of the form key.sub=value"),
        ("=1", "not of the form key.sub=value"),
        ("train.batch_size=7", "does not divide by num_workers"),
        ("model.n_routed_experts=4 ", None),
        ("model.vocab_size=300", "differ"),
        ("train.optimizer.lr=.nan", "train.optimizer.lr"),
        ("objective.lambdas.schedules=[{kind: stp}]", "'step'"),
    ],
)
def test_a_wrong_override_is_told_in_one_sentence(override, expected):
    if expected is None:
        assert build_config({}, [override])
        return
    with pytest.raises(UsageError) as caught:
        build_config({}, [override])
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("train: [1", "not valid YAML"),
        ("- a\n- b\n", "holds a list"),
        ("train:\n  steps: 1\n  steps: 2\n", "stands twice"),
        ("!!python/object/apply:os.system ['true']", "not valid YAML"),
    ],
)
def test_a_broken_file_is_told_in_one_sentence(tmp_path, text, expected):
    with pytest.raises(UsageError) as caught:
        load_config(write(tmp_path, text))
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"nothing\.yaml"):
        load_config(tmp_path / "nothing.yaml")
