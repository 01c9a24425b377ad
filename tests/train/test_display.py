import io

from rich.console import Console

from mtp.train.display import LiveTable, clock, line_of, training_display
from mtp.train.events import Evaluated, LossSpike, Notice, Planned, RolledBack, StepDone, WorkerReady

STEP = StepDone(
    step=20,
    total_steps=100,
    metrics={
        "train/loss": 3.5, "train/loss_h1": 2.5, "train/loss_h2": 3.25, "train/top1_h1": 0.5, "train/top1_h2": 0.25,
        "train/agreement_h2": 0.75, "train/lambda_h2": 0.3, "train/lr": 1e-3, "train/grad_norm": 0.5,
        "train/tokens_per_s": 12345.0, "train/mfu": 0.25, "train/data_wait_fraction": 0.01,
    },
    eta_s=125.0,
)  # fmt: skip
READY = WorkerReady(0, 2, "node", 1234, "gloo", "0.19.8", 1, "float32", "cpu", 1, 8)
EVALUATED = Evaluated(20, {"eval/ppl": 12.5, "eval/loss_h1": 2.5, "eval/loss_h2": 3.0, "eval/agreement_h2": 0.7})


def shown(terminal, *events):
    output = io.StringIO()
    console = Console(file=output, force_terminal=terminal, width=200)
    with training_display(console) as show:
        for event in events:
            show(event)
    return output.getvalue()


def test_a_log_gets_one_line_an_event():
    lines = shown(False, READY, Planned(0, 100, 512, 10**6, None, 0.5), STEP, EVALUATED, Notice("careful")).splitlines()
    assert len(lines) == 5
    assert "worker 0 of 2" in lines[0]
    assert "DeepSpeed 0.19.8" in lines[0]
    assert "streamed by Ray Data" in lines[0]
    assert "step 20/100 | loss 3.500 (2.500 3.250) | agreement 0.75" in lines[2]
    assert "ETA 2:05" in lines[2]
    assert "perplexity 12.50" in lines[3]
    assert lines[4] == "careful"


def test_a_terminal_gets_a_table_with_a_row_a_horizon():
    text = shown(True, READY, STEP, EVALUATED)
    for part in ("horizon", "held-out loss", "3.250", "0.750", "12,345 tokens/s", "held-out perplexity 12.50"):
        assert part in text


def test_a_step_that_was_skipped_still_has_a_line():
    metrics = {"train/lr": 1e-3, "train/tokens_per_s": 1.0, "train/mfu": 0.0, "train/data_wait_fraction": 0.0}
    step = StepDone(1, 10, metrics, 1.0)
    assert line_of(step).startswith("step 1/10 | lr")
    LiveTable().take(step)


def test_spikes_and_roll_backs_are_told_in_words():
    assert line_of(LossSpike(7, 9.0, 2.0, 8.25)) == (
        "step 7: loss 9.000 is a spike, 8.2 standard deviations above the 2.000 of the steps before it"
    )
    assert "going back to step 4, leaving out the batches of steps 6, 7" in line_of(RolledBack(7, 4, (5, 6)))


def test_times_read_as_clocks():
    assert [clock(5), clock(65), clock(3661)] == ["0:05", "1:05", "1:01:01"]
