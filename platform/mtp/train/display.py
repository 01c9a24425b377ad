"""Shows a training run: a live table on a terminal, one line a logging interval anywhere else (a job's log).

Knows events and rich; knows nothing of how training works.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mtp.train.events import (
    Evaluated,
    LossSpike,
    Notice,
    OnProgress,
    Planned,
    RolledBack,
    Saved,
    StepDone,
    TrainEvent,
    WorkerReady,
)


@contextmanager
def training_display(console: Console | None = None) -> Iterator[OnProgress]:
    """Inside, the value takes events and shows them."""
    console = console or Console()
    if not console.is_terminal:
        yield lambda event: _print_line(console, event)
        return
    with Live(console=console, refresh_per_second=4, transient=False) as live:
        table = LiveTable()

        def show(event: TrainEvent) -> None:
            if isinstance(event, StepDone | Evaluated | Planned):
                table.take(event)
                live.update(table.render())
            line = line_of(event)
            if line and not isinstance(event, StepDone):
                console.print(line, highlight=False, markup=False)

        yield show


def _print_line(console: Console, event: TrainEvent) -> None:
    line = line_of(event)
    if line:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def line_of(event: TrainEvent) -> str:
    """An event as one line of a log."""
    match event:
        case WorkerReady():
            return (
                f"DeepSpeed worker {event.rank} of {event.world} on {event.node}: DeepSpeed {event.deepspeed}, "
                f"ZeRO stage {event.zero_stage}, {event.backend}, {event.device}, {event.dtype}, "
                f"{event.threads} thread(s); {event.rows_per_step} rows a step streamed by Ray Data"
            )
        case Planned():
            return _plan(event)
        case StepDone():
            return _step(event)
        case Evaluated():
            return f"evaluation after step {event.step}: {_held_out(event.metrics)}"
        case Saved():
            return f"checkpoint {event.name} saved"
        case LossSpike():
            return (
                f"step {event.step}: loss {event.loss:.3f} is a spike, {event.sigmas:.1f} standard deviations above "
                f"the {event.mean:.3f} of the steps before it"
            )
        case RolledBack():
            steps = ", ".join(str(step + 1) for step in event.passed_over)
            return (
                f"step {event.step}: too many steps in a row were not finite; going back to step {event.to_step}, "
                f"leaving out the batches of steps {steps}"
            )
        case Notice():
            return event.text


def _plan(event: Planned) -> str:
    start = f"going on from {event.resumed_from}" if event.resumed_from else "training"
    budget = f" (a step takes {event.step_seconds:.2f} s)" if event.step_seconds else ""
    return (
        f"{start}: {event.parameters / 1e6:.2f}M parameters, steps {event.first_step} to {event.total_steps} "
        f"of {event.tokens_per_step:,} tokens{budget}"
    )


def _step(event: StepDone) -> str:
    m = event.metrics
    parts = [f"step {event.step}/{event.total_steps}"]
    if "train/loss" in m:
        parts += [f"loss {m['train/loss']:.3f} ({_by_horizon(m, 'train/loss_h', '.3f')})"]
    if "train/agreement_h2" in m:
        parts += [f"agreement {_by_horizon(m, 'train/agreement_h', '.2f')}"]
    if "train/lambda_h2" in m:
        parts += [f"lambda {_by_horizon(m, 'train/lambda_h', '.2f')}"]
    parts += [f"lr {m['train/lr']:.2e}", f"grad norm {m.get('train/grad_norm', math.nan):.2f}"]
    parts += [f"{m['train/tokens_per_s']:,.0f} tokens/s", f"MFU {m['train/mfu']:.1%}"]
    parts += [f"data wait {m['train/data_wait_fraction']:.1%}", f"ETA {clock(event.eta_s)}"]
    return " | ".join(parts)


def _by_horizon(metrics: dict[str, float], prefix: str, form: str) -> str:
    """The values of metrics `prefix`1, `prefix`2, ... that are there."""
    numbered = sorted(
        (int(name.removeprefix(prefix)), value) for name, value in metrics.items() if name.startswith(prefix)
    )
    return " ".join(format(value, form) for _, value in numbered)


def _held_out(metrics: dict[str, float]) -> str:
    agreement = _by_horizon(metrics, "eval/agreement_h", ".2f")
    return f"perplexity {metrics['eval/ppl']:.2f}, loss {_by_horizon(metrics, 'eval/loss_h', '.3f')}" + (
        f", agreement {agreement}" if agreement else ""
    )


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class LiveTable:
    """The latest figures, horizon by horizon."""

    def __init__(self) -> None:
        self._train: dict[str, float] = {}
        self._held_out: dict[str, float] = {}
        self._step, self._total, self._eta = 0, 0, 0.0

    def take(self, event: StepDone | Evaluated | Planned) -> None:
        """Keep an event's figures."""
        match event:
            case Planned():
                self._step, self._total = event.first_step, event.total_steps
            case StepDone():
                self._train = event.metrics
                self._step, self._total, self._eta = event.step, event.total_steps, event.eta_s
            case Evaluated():
                self._held_out = event.metrics

    def render(self) -> RenderableType:
        """The whole display."""
        return Group(self._progress(), self._horizons(), self._figures())

    def _progress(self) -> RenderableType:
        grid = Table.grid(padding=(0, 2))
        bar = ProgressBar(total=max(self._total, 1), completed=self._step, width=40)
        grid.add_row(f"step {self._step}/{self._total}", bar, f"ETA {clock(self._eta)}" if self._train else "")
        return grid

    def _horizons(self) -> RenderableType:
        table = Table(box=None, header_style="bold")
        for heading in ("horizon", "loss", "top-1", "agreement", "lambda", "held-out loss"):
            table.add_column(heading, justify="right")
        k = 1
        while f"train/loss_h{k}" in self._train:
            names = (f"train/loss_h{k}", f"train/top1_h{k}", f"train/agreement_h{k}", f"train/lambda_h{k}")
            cells = [_cell(self._train.get(name)) for name in names]
            table.add_row(str(k), *cells, _cell(self._held_out.get(f"eval/loss_h{k}")))
            k += 1
        return table

    def _figures(self) -> RenderableType:
        if not self._train:
            return Text("starting ...", style="dim")
        m = self._train
        parts = [f"loss {m.get('train/loss', math.nan):.3f}", f"lr {m['train/lr']:.2e}"]
        parts += [f"grad norm {m.get('train/grad_norm', math.nan):.2f}", f"{m['train/tokens_per_s']:,.0f} tokens/s"]
        parts += [f"MFU {m['train/mfu']:.1%}", f"data wait {m['train/data_wait_fraction']:.1%}"]
        if "eval/ppl" in self._held_out:
            parts.append(f"held-out perplexity {self._held_out['eval/ppl']:.2f}")
        return Text("   ".join(parts))


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
