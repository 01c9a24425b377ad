"""What one accelerator of each kind can do, by its maker's data sheet. Knows numbers; knows nothing of models."""

from dataclasses import dataclass

from mtp.errors import UsageError

GB = 1e9


@dataclass(frozen=True)
class Accelerator:
    """One device and its share of the network.

    Attributes:
        memory: bytes.
        flops: {dtype: FLOP/s}, dense.
        bandwidth: bytes/s of its memory.
        inside_node: bytes/s that it sends to its neighbours on the node, one direction.
        between_nodes: bytes/s that it sends to other nodes.
        per_node: devices in a node.
        fused_attention: attention keeps no probabilities, and norms no normalised copy (CPUs in fp32 keep both).
    """

    name: str
    memory: float
    flops: dict[str, float]
    bandwidth: float
    inside_node: float
    between_nodes: float
    per_node: int = 8
    fused_attention: bool = True


def _gpu(
    name: str, memory_gb: float, bf16: float, fp32: float, bandwidth: float, inside: float, between: float = 50
) -> Accelerator:
    """From TFLOP/s and GB/s."""
    flops = {"bfloat16": bf16 * 1e12, "float32": fp32 * 1e12}
    return Accelerator(name, memory_gb * GB, flops, bandwidth * GB, inside * GB, between * GB)


ACCELERATORS: dict[str, Accelerator] = {
    gpu.name: gpu
    for gpu in (
        # fp32 is the tensor cores' TF32 where PyTorch is allowed to use it, else far less.
        _gpu("A100-40GB", 40, 312, 156, 1555, 300, 25),
        _gpu("A100-80GB", 80, 312, 156, 2039, 300, 25),
        _gpu("L40S-48GB", 48, 362, 183, 864, 32, 25),
        _gpu("H100-80GB", 80, 989, 494, 3350, 450),
        _gpu("H800-80GB", 80, 989, 494, 3350, 200),
        _gpu("H200-141GB", 141, 989, 494, 4800, 450),
        _gpu("B200-180GB", 180, 2250, 1100, 8000, 900),
    )
}


def accelerator(name: str) -> Accelerator:
    """The accelerator of that name.

    Raises:
        UsageError: there is none; it names those that are known.
    """
    if name not in ACCELERATORS:
        raise UsageError(f"no figures for the GPU {name!r}; known are {', '.join(ACCELERATORS)}")
    return ACCELERATORS[name]
