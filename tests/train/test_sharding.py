from pathlib import Path

import pytest

from mtp.config import build_config, load_config
from mtp.errors import UsageError
from mtp.model import MTPModel
from mtp.train.acceleration import accelerate
from mtp.train.sharding import check_sharding
from tests.test_docs import ROOT, commands
from tests.train.small import SIZES

REFUSED = [
    ({"dtype": "bfloat16", "zero_stage": 0}, {}, "keeps no fp32 master weights.*use zero_stage 1"),
    ({"offload": {"optimizer": "cpu"}, "zero_stage": 0}, {}, "only an optimizer that ZeRO shards.*use zero_stage 1"),
    ({"offload": {"parameters": "cpu"}, "zero_stage": 2}, {}, "only ZeRO 3 takes weights apart.*use zero_stage 3"),
    ({"expert_parallel": 2}, {"n_routed_experts": 0}, "no routed experts.*set train.expert_parallel=1"),
    ({"expert_parallel": 3, "num_workers": 3, "batch_size": 6}, {}, "by train.expert_parallel.*divisor"),
    ({"expert_parallel": 2, "num_workers": 1}, {}, "some set of experts would be incomplete.*multiple of 2"),
    ({"expert_parallel": 2, "num_workers": [2, 4], "batch_size": 12}, {}, r"num_workers \(3\) does not divide"),
    ({"expert_parallel": 2}, {"n_group": 4, "topk_group": 2}, "groups of one expert.*lower model.n_group"),
]


def config(train, model):
    sizes = {**SIZES, "vocab_size": 300, "n_routed_experts": 4, **model}
    return build_config({"train": train, "model": sizes, "data": {"vocab_size": 300, "seq_len": 32}})


@pytest.mark.parametrize(("train", "model", "sentence"), REFUSED, ids=lambda value: str(value)[:40])
def test_what_deepspeed_cannot_do_is_refused_with_the_reason_and_the_cure(train, model, sentence):
    with pytest.raises(UsageError, match=sentence):
        check_sharding(config(train, model))


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_every_stage_takes_expert_parallelism(stage):
    check_sharding(config({"zero_stage": stage, "expert_parallel": 2}, {}))


@pytest.mark.parametrize("workers", [[1, 3], [2, 1]])
def test_every_number_of_workers_that_may_occur_must_divide_the_batch(workers):
    with pytest.raises(UsageError, match=r"num_workers"):
        config({"num_workers": workers, "batch_size": 8}, {})


def test_every_training_command_of_the_scaling_page_passes_the_checks():
    trainings = [words[3:] for words in commands(ROOT / "docs" / "scaling.md") if words[:2] == ["train", "--config"]]
    assert len(trainings) > 8
    for words in trainings:
        check_sharding(load_config(Path("configs/small.yaml"), words))


def test_compiling_without_a_compiler_is_refused():
    from torch._inductor import config as inductor

    with (
        inductor.patch({"cpp.cxx": ("/nowhere/g++",)}),
        pytest.raises(UsageError, match=r"no C\+\+ compiler.*set train\.compile=false"),
    ):
        accelerate(MTPModel(config({}, {}).model), config({"compile": True}, {}).train)
