"""How a cost grows: the exponent that is fitted, and the peak memory of a benchmark's processes."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtp.cli.bench.growth import Curve, growth_figure, measure_curve
from mtp.cli.bench.memory_watch import MemoryWatch


@given(
    factor=st.floats(1e-4, 1e2),
    exponent=st.floats(-2, 3),
    sizes=st.sets(st.integers(1, 10_000), min_size=2, max_size=6).map(sorted),
)
def test_the_exponent_of_a_power_is_found(factor, exponent, sizes):
    curve = Curve("power", tuple(sizes), tuple(factor * size**exponent for size in sizes))
    assert curve.exponent == pytest.approx(exponent, abs=1e-6)


def test_a_cost_that_does_not_grow_has_exponent_nought_and_stands_in_the_report():
    curve = Curve("flat", (1, 2, 4), (0.5, 0.5, 0.5))
    assert curve.entry() == {
        "name": "flat",
        "unit": "seconds",
        "median": 0.5,
        "detail": {"exponent": "0.00", "sizes": "1 2 4", "seconds": "0.5 0.5 0.5"},
    }


def test_sizes_are_measured_in_turns_and_drawn(tmp_path):
    told: list[str] = []
    ran: list[int] = []
    runs = {size: (lambda size=size: ran.append(size)) for size in (20, 5)}
    curve = measure_curve("work", runs, 2, lambda done, rounds, name: told.append(name))
    assert curve.sizes == (5, 20)
    assert ran == [20, 5, 5, 20, 20, 5]
    assert told == [f"work: {size}" for size in ran]
    growth_figure([curve] * 4).savefig(tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 5_000


def test_the_peak_memory_of_a_process_that_was_started_is_told_by_its_script(tmp_path):
    script = tmp_path / "eater.py"
    script.write_text("import time\nheld = b'x' * (300 << 20)\nprint('full', flush=True)\ntime.sleep(600)\n")
    eater = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE)
    try:
        assert eater.stdout is not None and eater.stdout.readline() == b"full\n"
        watch = MemoryWatch()
        watch.look()
    finally:
        eater.kill()
        eater.wait()
    peaks = {one["name"]: one["median"] for one in watch.entries()}
    (mine,) = [peak for name, peak in peaks.items() if name.endswith("eater.py")]
    assert 300 << 20 <= mine < 400 << 20
