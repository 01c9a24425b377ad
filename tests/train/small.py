"""A small MoE model with three horizons and a batch of uneven documents, trained step by step on gloo ranks."""

import pyarrow.fs as fs
import torch

from mtp.config import ModelConfig
from mtp.config.objective import ObjectiveConfig
from mtp.config.train import TrainConfig
from mtp.model import MTPModel
from mtp.objective import MTPObjective
from mtp.train.acceleration import accelerate
from mtp.train.engine import Engine
from mtp.train.experts import ExpertBalance
from mtp.train.loss_module import LossModule
from mtp.train.manifest import write_file
from mtp.train.state import SavedState, collect, shard_name
from mtp.train.step import StepRunner

CPU = torch.device("cpu")
LOCAL = fs.LocalFileSystem()
ROWS, LENGTH = 8, 24
SIZES = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "moe_intermediate_size": 16,
    "num_hidden_layers": 2, "num_attention_heads": 2, "kv_lora_rank": 16, "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8, "v_head_dim": 8, "max_position_embeddings": 64,
    "prediction": {"kind": "sequential", "n_future": 3},
}  # fmt: skip


def rows(step):
    """Documents of uneven lengths and padding, so that every rank holds another number of valid targets."""
    generator = torch.Generator().manual_seed(step)
    tokens = torch.randint(0, 64, (ROWS, LENGTH), generator=generator)
    ends = torch.randint(3, LENGTH, (ROWS, 1), generator=generator)
    slots = torch.arange(LENGTH)
    document = (slots >= ends // 2).int() + (slots >= ends).int()
    document[:2][:, slots > 15] = -1
    return tokens, document


class Training:
    """What a worker builds, without Ray; from the checkpoint in `folder` if it is given."""

    def __init__(
        self,
        world,
        stage=1,
        accumulation=1,
        experts=4,
        folder=None,
        wrote=None,
        objective=None,
        model=None,
        applied=2,
        **train,
    ):
        self.world, self.rank = world, torch.distributed.get_rank()
        config = TrainConfig.model_validate(
            {
                "num_workers": world,
                "batch_size": ROWS,
                "zero_stage": stage,
                "micro_batch_size": ROWS // world // accumulation,
                "optimizer": {"eps": 1e-4},  # or Adam turns rounding of tiny gradients into whole steps
                **train,
            }
        )
        loss_config = ObjectiveConfig.model_validate({"balance_alpha": 0.01, **(objective or {})})
        torch.manual_seed(0)
        self.model = MTPModel(ModelConfig.model_validate({**SIZES, "n_routed_experts": experts, **(model or {})}))
        mtp_objective = MTPObjective(loss_config, self.model.config.n_future)
        accelerate(self.model, config)
        module = LossModule(self.model, mtp_objective)
        saved = SavedState(LOCAL, str(folder), wrote) if folder else None
        if saved:
            saved.load_weights(module)
        self.experts = ExpertBalance(module, speed=0.01)
        self.engine = Engine(module, config, CPU, accumulation)
        self.experts.engine_made()
        if saved:
            saved.load_optimizer(self.engine, applied)
        self.objective = mtp_objective
        self.runner = StepRunner(self.engine, mtp_objective, self.experts, CPU, config.rows_per_forward(world))

    def steps(self, numbers, lr=1e-2):
        mine = slice(self.rank * ROWS // self.world, (self.rank + 1) * ROWS // self.world)
        results = []
        for step in numbers:
            tokens, document = rows(step)
            results.append(self.runner.run(tokens[mine], document[mine], [1.0, 0.3, 0.2], lr=lr))
        return results

    def save(self, folder):
        share = collect(self.engine, self.rank)
        write_file(LOCAL, f"{folder}/{shard_name(self.rank)}", serialized(share))
        torch.distributed.barrier()

    def weights(self):
        return {name: self.engine.state.whole_weight(name).clone() for name in self.engine.state.weight_names()}

    def biases(self):
        return [bias.clone() for bias in self.experts.biases()]


def serialized(share):
    from safetensors.torch import save

    return save(share)
