"""The peers of `mtp bench train --platform`: a loop of plain PyTorch, and Hugging Face's Trainer.

Both read the rows that the platform reads, in its order, from memory, with the platform's optimizer settings. They go
on until their process is ended (live_turns.py).
"""

import itertools
import tempfile
from typing import TYPE_CHECKING, Any

from mtp.cli.bench.live_turns import BeforeStep
from mtp.config import Config

if TYPE_CHECKING:
    import torch


def bare_loop(config: Config, threads: int, before_step: BeforeStep) -> None:
    """Forward, loss, backward, clipping and AdamW."""
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
    for tokens, document in itertools.cycle(_batches(config)):
        before_step()
        targets = objective.targets(tokens, document)
        output = objective(model(tokens, document), model.heads(), targets, lambdas, objective.denominators(targets))
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.grad_clip)
        optimizer.step()
        optimizer.zero_grad()


def trainer(config: Config, threads: int, before_step: BeforeStep) -> None:
    """Hugging Face's Trainer on the same model; it needs transformers with accelerate."""
    import torch
    import transformers

    from mtp.checkpoint.config_json import to_hf

    torch.set_num_threads(threads)
    model = transformers.DeepseekV3ForCausalLM(
        transformers.DeepseekV3Config(**to_hf(config.model, dtype=torch.float32))
    )

    class Gate(transformers.TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            before_step()

    rows = [
        {"input_ids": row, "labels": row} for tokens, _ in _batches(config) for row in tokens
    ]  # every position counts as the platform's do, but across documents too
    with tempfile.TemporaryDirectory(prefix="mtp-bench-") as folder:
        arguments = transformers.TrainingArguments(
            output_dir=folder,
            max_steps=2 * (config.train.steps or 1),  # more than its turns take
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
        peer = transformers.Trainer(model=model, args=arguments, train_dataset=rows, callbacks=[Gate()])
        peer.remove_callback(transformers.trainer_callback.PrinterCallback)
        peer.train()


def _batches(config: Config) -> "list[tuple[torch.Tensor, torch.Tensor]]":
    """The platform's batches, in memory."""
    from mtp.data import open_training_data

    data = open_training_data(config.data)
    size, steps = config.train.batch_size, config.train.steps or 1
    tokens, document = data.first_rows(config.data.seed, size * steps)
    return list(zip(tokens.split(size), document.split(size), strict=True))
