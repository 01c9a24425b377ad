"""Runs a function on N gloo ranks in forked processes, as a Ray Train worker group would, without Ray."""

import multiprocessing
import os
import pickle
import queue
import socket
import traceback
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
import torch.distributed as dist

from mtp.train.engine import load_deepspeed

load_deepspeed(torch.device("cpu"))  # once, before ranks are forked
import_module("torch._dynamo")  # or every rank would, at its first optimizer


def on_ranks(world: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """`function(*arguments)` inside a process group of `world` ranks; its results by rank."""
    context = multiprocessing.get_context("fork")
    results: Any = context.Queue()
    port = _free_port()
    processes = [
        context.Process(target=_rank_main, args=(rank, world, port, results, function, arguments))
        for rank in range(world)
    ]
    for process in processes:
        process.start()
    gathered: dict[int, Any] = {}
    try:
        while len(gathered) < world:
            rank, failure, value = results.get(timeout=180)
            if failure:
                raise AssertionError(f"rank {rank}:\n{failure}")
            gathered[rank] = pickle.loads(value)
    except queue.Empty:
        raise AssertionError(f"ranks {sorted(set(range(world)) - set(gathered))} gave no result") from None
    finally:
        for process in processes:
            process.join(timeout=5 if len(gathered) == world else 0)
            if process.is_alive():
                process.kill()
    return [gathered[rank] for rank in range(world)]


def _rank_main(rank: int, world: int, port: int, results: Any, function: Callable, arguments: tuple) -> None:
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    torch.set_num_threads(1)
    try:
        dist.init_process_group("gloo", rank=rank, world_size=world)
        # Plain pickle sends tensors by value; the queue's own would share memory of a process that has gone.
        results.put((rank, None, pickle.dumps(function(*arguments))))
        dist.barrier()
    except BaseException:
        results.put((rank, traceback.format_exc(), None))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
