"""`mtp bench train --memory`: peak memory of the loss for 4 horizons against 1, and against whole logits."""

from typing import Any

from mtp.cli.bench.report import Ratio

SIZE = {"vocab_size": 32768, "rows": 2048, "width": 256, "horizons": 4}
SMOKE = {"vocab_size": 2048, "rows": 256, "width": 32, "horizons": 4}


def bench_loss_memory(smoke: bool) -> tuple[list[dict[str, Any]], list[Ratio]]:
    """Bytes that one forward and backward of the loss hold at once; deterministic, so one round is enough."""
    from mtp.evaluate import measure_loss_memory

    size = SMOKE if smoke else SIZE
    found = measure_loss_memory(
        vocab_size=size["vocab_size"], rows=size["rows"], width=size["width"], horizons=size["horizons"]
    )
    peaks = {"1 horizon": found.ours_one, "4 horizons": found.ours_all, "4 horizons, whole logits": found.plain_all}
    contestants = [
        {"name": f"loss, {name}", "unit": "bytes at the peak", "median": peak, "min": peak, "max": peak, "detail": size}
        for name, peak in peaks.items()
    ]
    return contestants, [
        Ratio.of("loss_memory_4_vs_1", [found.all_vs_one], 1.05, "lower"),
        Ratio.of("loss_memory_vs_plain", [found.vs_plain], 0.35, "lower"),
    ]
