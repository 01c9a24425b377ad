"""What a replica needs of an engine: requests of token ids in, steps out, whatever computes them.

Knows neither of the two engines (native_engine.py, vllm_engine.py), no HTTP of ours and no ray.
"""

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import NamedTuple, Protocol

from mtp.config import ServeConfig
from mtp.decode import Request, StepOutput
from serve.engine_metrics import EngineMetrics, EngineState


class EngineStoppedError(RuntimeError):
    """The engine has ended by an error of ours; the replica has to be replaced."""


class ServingEngine(Protocol):
    """An engine at work."""

    @property
    def max_model_len(self) -> int:
        """Most tokens of prompt and output together."""

    @property
    def cache_use(self) -> float:
        """Share of the cache in use, 0 to 1."""

    @property
    def alive(self) -> bool:
        """Whether it works; Ray Serve replaces a replica whose engine does not."""

    def submit(self, request: Request) -> AbstractAsyncContextManager[AsyncGenerator[list[StepOutput], None]]:
        """The outputs of a request that has been taken; leaving the block early cancels it.

        Raises:
            UsageError: the engine refuses the request.
            EngineStoppedError: the engine has stopped, or cannot go on where another one was lost.
        """


class Running(NamedTuple):
    """A started engine, and what is counted of it."""

    engine: ServingEngine
    metrics: EngineMetrics


MakeMetrics = Callable[[Callable[[], EngineState]], EngineMetrics]
"""Given how to read the engine's state."""
StartEngine = Callable[[Path, ServeConfig, MakeMetrics], Running]
"""Load the model of a folder, warm it up and probe it; raises MTPError if that fails."""
