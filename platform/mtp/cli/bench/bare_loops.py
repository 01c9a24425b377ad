"""The peers of `mtp bench train --platform`: plain PyTorch, alone and in Ray Train, and Hugging Face's Trainer.

All read the rows that the platform reads, in its order, from memory, with the platform's optimizer settings.
"""

import importlib.util
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtp.config import Config

if TYPE_CHECKING:
    import torch

WARMUP = 1 / 6
"""Share of the steps that are not counted, as in the platform's run."""


def bare_loop_rate(config: Config, threads: int) -> float:
    """Tokens a second of forward, loss, backward, clipping and AdamW."""
    import torch

    from mtp.model import MTPModel
    from mtp.objective import MTPObjective

    torch.set_num_threads(threads)
    torch.manual_seed(config.train.seed)
    model, n = MTPModel(config.model), config.model.n_future
    objective = MTPObjective(config.objective, n)
    settings = config.train.optimizer
    optimizer = torch.optim.AdamW(model.parameters(), settings.lr, settings.betas, settings.eps, fused=True)
    lambdas = torch.tensor([1.0] + [0.3] * (n - 1))
    marks = []
    for tokens, document in _batches(config):
        targets = objective.targets(tokens, document)
        output = objective(model(tokens, document), model.heads(), targets, lambdas, objective.denominators(targets))
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.grad_clip)
        optimizer.step()
        optimizer.zero_grad()
        marks.append(time.perf_counter())
    return _rate(config, marks)


def ray_train_rate(config: Config, threads: int) -> float:
    """Tokens a second of the same loop in a worker of Ray Train: what is left when Ray has taken its part.

    The process must be connected to Ray.
    """
    from mtp.train.lone_worker import run_alone

    with tempfile.TemporaryDirectory(prefix="mtp-bench-") as folder:
        answer = Path(folder) / "rate"
        settings = {"config": config, "threads": threads, "answer": answer}
        run_alone(_report_rate, settings, config.train.cpus_per_worker)
        return float(answer.read_text())


def _report_rate(settings: dict[str, Any]) -> None:
    """Ray Train's `train_loop_per_worker`."""
    settings["answer"].write_text(str(bare_loop_rate(settings["config"], settings["threads"])))


def trainer_rate(config: Config, threads: int) -> float | None:
    """Tokens a second of Hugging Face's Trainer on the same model; None where it is not installed."""
    if not (importlib.util.find_spec("transformers") and importlib.util.find_spec("accelerate")):
        return None
    import torch
    import transformers

    from mtp.checkpoint.config_json import to_hf

    torch.set_num_threads(threads)
    model = transformers.DeepseekV3ForCausalLM(
        transformers.DeepseekV3Config(**to_hf(config.model, dtype=torch.float32))
    )
    marks: list[float] = []

    class Clock(transformers.TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            marks.append(time.perf_counter())

    rows = [
        {"input_ids": row, "labels": row} for tokens, _ in _batches(config) for row in tokens
    ]  # every position counts as the platform's do, but across documents too
    with tempfile.TemporaryDirectory(prefix="mtp-bench-") as folder:
        arguments = transformers.TrainingArguments(
            output_dir=folder,
            max_steps=config.train.steps,
            per_device_train_batch_size=config.train.batch_size,
            learning_rate=config.train.optimizer.lr,
            weight_decay=config.train.optimizer.weight_decay,
            max_grad_norm=config.train.optimizer.grad_clip,
            optim="adamw_torch_fused",
            logging_steps=config.train.log_every,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        )
        trainer = transformers.Trainer(model=model, args=arguments, train_dataset=rows, callbacks=[Clock()])
        trainer.remove_callback(transformers.trainer_callback.PrinterCallback)
        trainer.train()
    return _rate(config, marks)


def _batches(config: Config) -> "list[tuple[torch.Tensor, torch.Tensor]]":
    """The platform's batches, in memory."""
    from mtp.data import open_training_data

    data = open_training_data(config.data)
    size, steps = config.train.batch_size, config.train.steps or 1
    tokens, document = data.first_rows(config.data.seed, size * steps)
    return list(zip(tokens.split(size), document.split(size), strict=True))


def _rate(config: Config, marks: list[float]) -> float:
    """From the times at which steps ended."""
    first = max(int(len(marks) * WARMUP), 1) - 1
    tokens = (len(marks) - 1 - first) * config.train.batch_size * config.data.seq_len
    return tokens / (marks[-1] - marks[first])
