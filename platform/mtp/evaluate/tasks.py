"""Tasks of lm-eval, the field's harness of benchmarks, as files of its own YAML format; nothing is downloaded by us.

Knows how a task file becomes scores; the model behind them is lm_eval_model.py.
"""

import importlib.util
import logging
import re
from pathlib import Path

import torch
from pydantic import BaseModel

from mtp.checkpoint import load_model
from mtp.errors import MTPError, UsageError
from mtp.tokenizer import Tokenizer

_NAME = re.compile(r"^task:\s*[\"']?([\w.-]+)", re.MULTILINE)


class TaskScores(BaseModel):
    """What one task file gave."""

    task: str
    documents: int
    scores: dict[str, float]
    """By metric, such as `acc` or `exact_match.strict`: with the filter's name where the task has one."""


def task_name(file: str) -> str:
    """The name that a task file gives itself.

    Raises:
        UsageError: there is no such file, it names no task, or lm-eval is not installed.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise UsageError("evaluate.tasks needs lm-eval, which is not installed; install mtp-platform[lm-eval]")
    try:
        found = _NAME.search(Path(file).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the task file {file} of evaluate.tasks: {error}") from None
    if found is None:
        raise UsageError(f"{file} of evaluate.tasks has no line `task: NAME`; it must be a task file of lm-eval")
    return found.group(1)


def score_task(
    model_dir: str | Path, file: str, *, limit: int | None = None, batch_size: int = 8, device: str = "cpu"
) -> TaskScores:
    """Score the model in `model_dir` on one task file; `limit`: only so many of its documents.

    Paths in the file are relative to the working directory, as lm-eval has it. A task may name Python code
    (`!function`), which runs: use files that you trust.

    Raises:
        UsageError: as `task_name`.
        MTPError: lm-eval cannot use the file, or a document of it failed.
    """
    name = task_name(file)
    import lm_eval
    from lm_eval.tasks import TaskManager

    from mtp.evaluate.lm_eval_model import EngineLM

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    dtype = torch.float32 if torch.device(device).type == "cpu" else None
    model = EngineLM(load_model(model_dir, device, dtype), Tokenizer.load(model_dir), batch_size)
    try:
        manager = TaskManager(include_path=str(Path(file).resolve().parent), include_defaults=False)
        found = lm_eval.simple_evaluate(model, tasks=[name], limit=limit, task_manager=manager, bootstrap_iters=0)
    except MTPError:
        raise
    except Exception as error:  # whatever a task file can get wrong, lm-eval and datasets raise as they like
        raise MTPError(f"lm-eval cannot run the task {name} of {file}: {type(error).__name__}: {error}") from error
    scores = {
        key.removesuffix(",none").replace(",", "."): float(value)
        for key, value in found["results"][name].items()
        if isinstance(value, int | float) and "stderr" not in key and key != "sample_len"
    }
    return TaskScores(task=name, documents=found["n-samples"][name]["effective"], scores=scores)
