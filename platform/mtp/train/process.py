"""How a worker's process is set up: threads, seeds, garbage, silence. Knows nothing of training."""

import gc
import logging
import os
import random
import warnings

import numpy as np
import torch

from mtp.data.stream.quiet import quiet_context


def seed_everything(seed: int) -> None:
    """One seed for all generators: every rank builds the same model."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def share_cores(workers_here: int, device: torch.device, wanted: int | None = None) -> int:
    """Give this worker `wanted` threads, or its part of the node's cores; the threads it may use."""
    threads = wanted or max(1, (os.cpu_count() or 1) // workers_here) if device.type == "cpu" else 1
    torch.set_num_threads(threads)
    return threads


def pause_less() -> None:
    """Leave all that exists now to the end of the process: the garbage collector would walk through a million objects
    of the libraries every few steps, a tenth of a small model's step.
    """
    gc.collect()
    gc.freeze()


def quiet() -> None:
    """Leave out what a user can do nothing about; errors and our own events come through."""
    quiet_context()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
