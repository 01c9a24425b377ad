"""What is done to the model itself before it is sharded: recomputed activations, compiled layers.

Knows the model's switches and whether a compiler is there; knows nothing of DeepSpeed.
"""

from mtp.config import TrainConfig
from mtp.errors import UsageError
from mtp.model import MTPModel


def accelerate(model: MTPModel, config: TrainConfig) -> None:
    """Switch on what the configuration asks for.

    Raises:
        UsageError: layers shall be compiled, and this machine has no C++ compiler.
    """
    model.checkpoint_activations(config.activation_checkpointing)
    if config.compile:
        _require_compiler()
        model.compile_layers()


def _require_compiler() -> None:
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except (InvalidCxxCompiler, RuntimeError):
        raise UsageError(
            "train.compile is true, but the worker's machine has no C++ compiler, which torch.compile needs; "
            "install g++ (or name one in CXX), or set train.compile=false"
        ) from None
