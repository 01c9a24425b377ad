"""Runs one function of ours over many inputs as Ray tasks and hands the results back as they come.

Plain tasks, all submitted at once: a core's next one waits there already when its last one ends. Ray Data hands out
its tasks from a loop that looks every tenth of a second, which left a quarter of the cores idle here. Inputs and
results are pydantic models that travel as JSON, so that no task unpickles anything but code. Knows nothing about what
the function does.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import ray
from pydantic import BaseModel

from mtp.data.stream.task_errors import NO_PROBLEM, problem_text, raise_problem
from mtp.errors import MTPError

Input = TypeVar("Input", bound=BaseModel)
Result = TypeVar("Result", bound=BaseModel)

_WATCHED = 256
"""Tasks that are waited for at once, the oldest first: looking at all of a hundred thousand takes long."""


def run_tasks(function: Callable[[Input], Result], inputs: Sequence[Input], result: type[Result]) -> Iterator[Result]:
    """`function` of each input, in any order; one task an input, as many at once as the cluster has CPUs.

    Raises:
        MTPError: the one that `function` raised; other inputs may have been finished by then.
    """
    task = ray.remote(run_task)
    shared = ray.put((function, type(inputs[0])))
    pending: list[Any] = [task.remote(shared, item.model_dump_json()) for item in inputs]
    try:
        while pending:
            done, watched = ray.wait(pending[:_WATCHED])
            pending = watched + pending[_WATCHED:]
            for text, problem in ray.get(done):
                raise_problem(problem)
                yield result.model_validate_json(text)
    finally:
        for left in pending:
            ray.cancel(left)


def run_task(work: tuple[Callable[[BaseModel], BaseModel], type[BaseModel]], text: str) -> tuple[str, str]:
    """One task: the result of the input in `text`, and the problem where there is none."""
    function, kind = work
    try:
        return function(kind.model_validate_json(text)).model_dump_json(), NO_PROBLEM
    except MTPError as error:
        return "", problem_text(error)
