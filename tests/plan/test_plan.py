"""What `mtp plan` predicts, against what models and engines really hold."""

import ctypes
import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mtp.config import Config, ModelConfig, build_config, load_config
from mtp.errors import UsageError
from mtp.model import MTPModel
from mtp.model.accounting import model_on_meta, parameter_counts
from mtp.plan import Accelerator, accelerator, make_plan
from mtp.plan.activations import saved_elements
from mtp.plan.memory import memory

ROOT = Path(__file__).resolve().parents[2]
CPU = Accelerator(
    "cpu", 8e9, {"float32": 1e11, "bfloat16": 1e9}, 16e9, 1e9, 1e9, per_node=1 << 20, fused_attention=False
)
SIZES = {
    "vocab_size": 4096, "hidden_size": 512, "intermediate_size": 2048, "moe_intermediate_size": 256,
    "num_hidden_layers": 6, "num_attention_heads": 8, "kv_lora_rank": 128, "qk_nope_head_dim": 64,
    "qk_rope_head_dim": 32, "v_head_dim": 64, "prediction": {"kind": "sequential", "n_future": 2},
}  # fmt: skip
ROWS, LENGTH = 2, 128


def settings(workers=1, model=None, **train) -> Config:
    return build_config(
        {
            "data": {"seq_len": LENGTH, "vocab_size": SIZES["vocab_size"]},
            "model": {**SIZES, **(model or {})},
            "train": {"num_workers": workers, "batch_size": ROWS * workers, **train},
        }
    )


SHAPES = {
    "dense": {},
    "experts": {"n_routed_experts": 8},
    "low-rank queries": {"q_lora_rank": 96, "n_routed_experts": 8},
    "parallel": {"prediction": {"kind": "parallel", "n_future": 3, "depth": 2}},
    "independent": {"prediction": {"kind": "independent", "n_future": 3}},
    "recursed": {"prediction": {"kind": "sequential", "n_future": 4, "share_modules": True}},
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_activations_that_a_forward_saves_are_those_that_are_counted(shape):
    small = {"vocab_size": 512, "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 3}
    config = ModelConfig.model_validate({**SIZES, **small, "moe_intermediate_size": 96, **shape})
    torch.manual_seed(0)
    model = MTPModel(config)
    kept: dict[int, torch.Tensor] = {}
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    tokens = torch.randint(512, (ROWS, LENGTH))
    table = {part.untyped_storage().data_ptr() for part in model.model.rotary.prefix(LENGTH, model.lm_head.weight)}

    def pack(tensor):
        if tensor.untyped_storage().data_ptr() not in parameters | table:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        states = model(tokens)
    found = sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) / 4 / tokens.numel()
    predicted = saved_elements(model_on_meta(config), LENGTH, CPU, checkpointing=False)
    assert predicted.backbone + predicted.modules == pytest.approx(found, rel=0.05)
    assert len(states) == config.n_future


def test_parts_of_a_plan_add_up_and_sharding_only_lowers_the_states():
    config = settings(model={"n_routed_experts": 8})
    plan = make_plan(config, 2, accelerator("H100-80GB"), price=2.0)
    states = [stage.memory["states"] for stage in plan.stages]
    assert states[1] > states[2] > states[3]
    for stage in plan.stages:
        parts = stage.memory
        assert parts["states"] == pytest.approx(
            parts["weights"] + parts["modules"] + parts["gradients"] + parts["optimizer"]
        )
        assert stage.step_s == pytest.approx(stage.compute_s + stage.communication_s + stage.optimizer_s)
        assert stage.cost == pytest.approx(2.0 * stage.gpu_hours)
        assert stage.fits


def test_checkpointed_activations_and_offloaded_states_take_less():
    plain = make_plan(settings(), 2, CPU).stages[3].memory
    less = make_plan(settings(activation_checkpointing=True, offload={"optimizer": "cpu"}), 2, CPU).stages[3].memory
    assert less["activations"] < plain["activations"] / 2 and less["optimizer"] == 0


def test_expert_parallelism_divides_the_experts_that_a_rank_holds():
    held = [
        make_plan(settings(2, {"n_routed_experts": 8}, expert_parallel=ways), 2, CPU).stages[1].memory
        for ways in (1, 2)
    ]
    experts = 4 * parameter_counts(settings(model={"n_routed_experts": 8}).model).routed_experts
    assert sum(held[0][part] - held[1][part] for part in ("weights", "modules")) == pytest.approx(experts / 2)


def test_plans_that_cannot_be_are_refused():
    with pytest.raises(UsageError, match=r"gives 8 GPUs less than a row each"):
        make_plan(settings(), 8, CPU)
    with pytest.raises(UsageError, match=r"does not divide 2 GPUs"):
        make_plan(settings(4, {"n_routed_experts": 8}, expert_parallel=4, batch_size=8), 2, CPU)
    with pytest.raises(UsageError, match=r"no figures for the GPU 'H1'; known are A100-40GB"):
        accelerator("H1")


def test_deepseek_v3s_arithmetic_alone_is_within_a_tenth_of_the_published_gpu_hours():
    config = load_config(ROOT / "configs/deepseek-v3.yaml", ["train.activation_checkpointing=false"])
    plan = make_plan(config, 2048, accelerator("H800-80GB"))
    assert plan.tokens == pytest.approx(14.8e12, rel=0.01)
    hours = plan.stages[1].compute_s * 2048 / 3600 * (plan.tokens / plan.tokens_per_step)
    assert hours == pytest.approx(2.664e6, rel=0.1)


MEASURED = {
    "dense, ZeRO 0": (1, {}, {"zero_stage": 0}),
    "dense, ZeRO 1 on 2": (2, {}, {"zero_stage": 1}),
    "experts, ZeRO 2 on 2": (2, {"n_routed_experts": 8}, {"zero_stage": 2}),
    "experts, ZeRO 3 on 2": (2, {"n_routed_experts": 8}, {"zero_stage": 3}),
}


@pytest.mark.long
@pytest.mark.parametrize("case", MEASURED.values(), ids=MEASURED)
def test_real_processes_hold_the_bytes_that_were_planned(case):
    """States within 2 %, the peak of a step within 15 %.

    In processes of their own whose allocator gives freed memory back at once, so that the peak is of live bytes.
    """
    workers, model, train = case
    config = settings(workers, model, **train)
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "131072"}
    found = subprocess.run(
        [sys.executable, "-m", "tests.plan.test_plan", str(workers), config.model_dump_json()],
        capture_output=True, text=True, check=False, cwd=ROOT, env=environment, timeout=300,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    counts = parameter_counts(config.model)
    planned = memory(config, model_on_meta(config.model), counts, workers, train["zero_stage"], CPU)
    for rank in json.loads(found.stdout.splitlines()[-1]):
        assert planned.weights + planned.modules == pytest.approx(rank["weights"], rel=0.02)
        assert planned.optimizer == pytest.approx(rank["optimizer"], rel=0.02)
        assert planned.gradients == pytest.approx(rank["gradients"], rel=0.02)
        assert planned.peak == pytest.approx(rank["peak"], rel=0.15)


def measure(tree: str) -> dict[str, float]:
    """One rank: bytes of its weights, gradients and optimizer states, and the peak of a step above its start."""
    from mtp.objective import MTPObjective
    from mtp.train.engine import Engine
    from mtp.train.experts import ExpertBalance
    from mtp.train.loss_module import LossModule
    from mtp.train.step import StepRunner

    config = Config.model_validate_json(tree)
    torch.set_num_threads(1)
    before = resident()
    model, world = MTPModel(config.model), torch.distributed.get_world_size()
    objective = MTPObjective(config.objective, config.model.n_future)
    module = LossModule(model, objective)
    experts = ExpertBalance(module, 0.001)
    engine = Engine(module, config.train, torch.device("cpu"), 1)
    experts.engine_made()
    runner = StepRunner(engine, objective, experts, torch.device("cpu"), ROWS)
    tokens = torch.randint(config.model.vocab_size, (ROWS, LENGTH))
    gradients = []
    step = engine.step

    def counted(lr):
        gradients.append(gradient_bytes(engine, world))
        return step(lr)

    engine.step = counted
    for _ in range(2):
        resident()
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        runner.run(tokens, torch.zeros_like(tokens), lambdas=[1.0, 0.3], lr=1e-4)
    return {
        "peak": status("VmHWM") - before,
        "weights": sum(getattr(p, "ds_tensor", p).numel() * 4 for p in module.parameters()),
        "optimizer": optimizer_bytes(engine),
        "gradients": gradients[-1],
    }


def optimizer_bytes(engine) -> int:
    """Adam's moments, and the masters that ZeRO keeps."""
    outer = engine._engine.optimizer
    inner = outer.optimizer if engine.zero_stage else outer
    moments = sum(t.numel() * 4 for state in inner.state.values() for t in state.values() if t.numel() > 1)
    masters = {0: [], 3: getattr(outer, "fp32_partitioned_groups_flat", [])}.get(
        engine.zero_stage, getattr(outer, "single_partition_of_fp32_groups", [])
    )
    return moments + sum(master.numel() * 4 for master in masters)


def gradient_bytes(engine, world) -> int:
    """What is there before the step: whole gradients (ZeRO 0, 1), or this rank's part of them."""
    outer = engine._engine.optimizer
    if engine.zero_stage == 3:
        return sum(t.numel() * 4 for t in outer._DeepSpeedZeroOptimizer_Stage3__param_id_to_grad_partition.values())
    if engine.zero_stage == 2:
        return sum(t.numel() * 4 for group in outer.averaged_gradients.values() for t in group)
    return sum(p.numel() * 4 for p in engine.module.parameters() if p.requires_grad)


def status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def resident() -> int:
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return status("VmRSS")


if __name__ == "__main__":
    from tests.train.gloo import on_ranks

    print(json.dumps(on_ranks(int(sys.argv[1]), measure, sys.argv[2])))
