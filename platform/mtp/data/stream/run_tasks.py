"""Runs one function of ours over many inputs as a Ray Data pipeline and hands the results back as they come.

Inputs and results are pydantic models that travel as JSON, so that no task unpickles anything but code. Knows
nothing about what the function does.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import ray.data
from pydantic import BaseModel

from mtp.data.stream.quiet import quiet_context
from mtp.data.stream.task_errors import raise_cause

Input = TypeVar("Input", bound=BaseModel)
Result = TypeVar("Result", bound=BaseModel)


def run_tasks(
    function: Callable[[Input], Result], inputs: Sequence[Input], result: type[Result], num_cpus: float = 1
) -> Iterator[Result]:
    """`function` of each input, in any order; one task an input, as many at once as the cluster has CPUs.

    Raises:
        MTPError: the one that `function` raised; other inputs may have been finished by then.
    """
    quiet_context()
    kind = type(inputs[0])

    def call(row: dict[str, str]) -> dict[str, str]:
        return {"json": function(kind.model_validate_json(row["json"])).model_dump_json()}

    rows = ray.data.from_items([{"json": item.model_dump_json()} for item in inputs], override_num_blocks=len(inputs))
    results = rows.map(call, num_cpus=num_cpus).iter_batches(batch_size=None, batch_format="pyarrow")
    try:
        for table in results:
            for text in table["json"].to_pylist():
                yield result.model_validate_json(text)
    except Exception as error:
        raise_cause(error)
