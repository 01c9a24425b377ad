"""Runs functions on the cluster, with resources of their own: a job's driver only directs.

Knows Ray; knows nothing about what the function does.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
Item = TypeVar("Item")


def on_cluster(
    cpus: float, gpus: int, function: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs
) -> Result:
    """`function(*args, **kwargs)` in a Ray task that reserves `cpus` and `gpus`; what it raises is raised here."""
    import ray
    from ray.exceptions import RayTaskError

    task = ray.remote(num_cpus=cpus, num_gpus=gpus)(function)
    try:
        result: Result = ray.get(task.remote(*args, **kwargs))
    except RayTaskError as error:
        raise error.cause from error
    return result


def _call(function: Callable[[Item], Result], item: Item) -> Result:
    """What a task of `spread` runs: Ray makes tasks of plain functions only, and ours may be a partial one."""
    return function(item)


def spread(
    function: Callable[[Item], Result], items: Iterable[Item], *, at_once: int, cpus: float, gpus: int = 0
) -> Iterator[Result]:
    """`function(item)` of every item as Ray tasks, at most `at_once` at a time; results as they come, in any order.

    What a task raises is raised here, and the tasks that still run are cancelled, as when the iteration is given up.
    """
    import ray
    from ray.exceptions import RayTaskError

    task = ray.remote(num_cpus=cpus, num_gpus=gpus)(_call)
    waiting = iter(items)
    running = [task.remote(function, item) for item in islice(waiting, at_once)]
    try:
        while running:
            (done,), running = ray.wait(running)
            result: Result = ray.get(done)
            running += [task.remote(function, item) for item in islice(waiting, 1)]
            yield result
    except RayTaskError as error:
        raise error.cause from error
    finally:
        for reference in running:
            ray.cancel(reference)
