import torch

from mtp.config import ModelConfig
from mtp.config.objective import ObjectiveConfig
from mtp.config.train import TrainConfig
from mtp.model import MTPModel
from mtp.objective import MTPObjective
from mtp.train.engine import Engine, load_deepspeed
from mtp.train.experts import ExpertBalance
from mtp.train.loss_module import LossModule
from mtp.train.step import StepRunner
from tests.train.gloo import on_ranks

CPU = torch.device("cpu")
ROWS, LENGTH, STEPS = 8, 24, 3
MODEL = ModelConfig.model_validate(
    {
        "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "moe_intermediate_size": 16,
        "num_hidden_layers": 2, "num_attention_heads": 2, "kv_lora_rank": 16, "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 8, "v_head_dim": 8, "n_routed_experts": 4, "max_position_embeddings": 64,
        "prediction": {"kind": "sequential", "n_future": 3},
    }
)  # fmt: skip
load_deepspeed(CPU)


def rows(step):
    """Documents of uneven lengths and padding, so that every rank holds another number of valid targets."""
    generator = torch.Generator().manual_seed(step)
    tokens = torch.randint(0, 64, (ROWS, LENGTH), generator=generator)
    ends = torch.randint(3, LENGTH, (ROWS, 1), generator=generator)
    slots = torch.arange(LENGTH)
    document = (slots >= ends // 2).int() + (slots >= ends).int()
    document[:2][:, slots > 15] = -1
    return tokens, document


def run(world, stage, accumulation, objective=None):
    torch.manual_seed(0)
    config = TrainConfig.model_validate(
        {
            "num_workers": world,
            "batch_size": ROWS,
            "zero_stage": stage,
            "micro_batch_size": ROWS // world // accumulation,
            "optimizer": {"eps": 1e-4},  # Adam turns rounding of near-zero gradients into whole steps; this does not
        }
    )
    loss_config = ObjectiveConfig.model_validate({"balance_alpha": 0.01, **(objective or {})})
    model, mtp_objective = MTPModel(MODEL), MTPObjective(loss_config, MODEL.n_future)
    experts = ExpertBalance(model, speed=0.01)
    engine = Engine(LossModule(model, mtp_objective), config, CPU, accumulation)
    experts.restore_precision()
    runner = StepRunner(engine, mtp_objective, experts, CPU, config.rows_per_forward)
    rank = torch.distributed.get_rank()
    mine = slice(rank * ROWS // world, (rank + 1) * ROWS // world)
    results = []
    for step in range(STEPS):
        tokens, document = rows(step)
        results.append(runner.run(tokens[mine], document[mine], [1.0, 0.3, 0.2], lr=1e-2))
    weights = {name: engine.whole_weight(name).clone() for name in engine.parameter_names()}
    bias = [layer.gate.e_score_correction_bias.clone() for layer in model.expert_layers()]
    return results, weights, bias


def assert_same(got, expected):
    for one, other in zip(got[0], expected[0], strict=True):
        torch.testing.assert_close(one.loss, other.loss, rtol=1e-5, atol=0)
        torch.testing.assert_close(one.grad_norm, other.grad_norm, rtol=1e-5, atol=0)
        torch.testing.assert_close(one.sums, other.sums, rtol=1e-5, atol=1e-6)
        assert one.tokens == other.tokens
    torch.testing.assert_close(got[1], expected[1], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(got[2], expected[2])


def test_stage_matrix():
    (expected,) = on_ranks(1, run, 1, 1, 1)
    assert len({round(result.loss, 3) for result in expected[0]}) == STEPS
    for stage in (0, 1, 2, 3):
        for accumulation in (1, 2):
            for got in on_ranks(2, run, 2, stage, accumulation):
                assert_same(got, expected)
