"""Runs one function of ours over many inputs as a Ray Data pipeline and hands the results back as they come.

Inputs and results are pydantic models that travel as JSON, so that no task unpickles anything but code. Knows
nothing about what the function does.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import ray.data
from pydantic import BaseModel

from mtp.data.stream.quiet import quiet_context
from mtp.data.stream.task_errors import NO_PROBLEM, problem_text, raise_problem
from mtp.errors import MTPError

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
        try:
            return {"json": function(kind.model_validate_json(row["json"])).model_dump_json(), "problem": NO_PROBLEM}
        except MTPError as error:
            return {"json": "", "problem": problem_text(error)}

    rows = ray.data.from_items([{"json": item.model_dump_json()} for item in inputs], override_num_blocks=len(inputs))
    results = rows.map(call, num_cpus=num_cpus).iter_batches(batch_size=None, batch_format="pyarrow")
    for table in results:
        for row in table.to_pylist():
            raise_problem(row["problem"])
            yield result.model_validate_json(row["json"])
