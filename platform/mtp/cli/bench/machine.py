"""What this machine is and what it can do at best, measured in the same run as the contestants.

Every figure of a benchmark also stands as a fraction of one of these limits.
"""

import importlib.metadata
import os
import platform
import time
from collections.abc import Callable

MATMUL_SIZE = 2048
COPY_BYTES = 256 << 20
MATVEC_SHAPE = (16384, 4096)
REPEATS = 5

PACKAGES = ("torch", "ray", "deepspeed", "mlflow", "transformers", "pyarrow", "tokenizers")


def describe() -> dict[str, object]:
    """Processor, cores, threads, memory."""
    import psutil
    import torch

    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "system": platform.platform(),
    }


def versions() -> dict[str, str]:
    """Python and the packages that the figures depend on; a package that is not installed is named as missing."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "missing"
    return found


def limits(device: str = "cpu") -> dict[str, float]:
    """Best of a few runs: fp32 matmul FLOP/s, bytes/s of a large copy and of a large matrix-vector product."""
    import torch

    a = torch.randn(MATMUL_SIZE, MATMUL_SIZE, device=device)
    source = torch.ones(COPY_BYTES // 4, device=device)
    target = torch.empty_like(source)
    matrix = torch.randn(*MATVEC_SHAPE, device=device)
    vector = torch.randn(MATVEC_SHAPE[1], device=device)
    wait = torch.cuda.synchronize if torch.device(device).type == "cuda" else lambda: None
    return {
        "matmul_flops": 2 * MATMUL_SIZE**3 / _best(lambda: a @ a, wait),
        "copy_bytes_per_s": 2 * COPY_BYTES / _best(lambda: target.copy_(source), wait),
        "matvec_bytes_per_s": 4 * matrix.numel() / _best(lambda: matrix @ vector, wait),
    }


def _best(run: Callable[[], object], wait: Callable[[], None]) -> float:
    """Seconds of the fastest of a few runs after a warm-up."""
    run()
    wait()
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        run()
        wait()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123 - a kernel file
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor()
