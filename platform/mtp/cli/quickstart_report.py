"""The table that quickstart ends with: what was measured, and where everything is."""

from pydantic import BaseModel

from mtp.cli.console import console, print_json, print_table


class QuickstartReport(BaseModel):
    """Every figure is from this run."""

    model: str
    run_id: str
    corpus: str
    train_tokens: int
    steps: int
    perplexity: float
    bits_per_byte: float
    agreement: list[float]
    """Horizons 2..n."""
    acceptance: list[float]
    """Draft positions 1..n-1, all drafts before included."""
    tokens_per_step: float
    standard_tokens_per_s: float
    mtp_tokens_per_s: float
    speedup: float
    identical: bool
    """Greedy MTP answered the same text as standard decoding to every prompt."""
    checks: dict[str, str]
    endpoint: str
    mlflow: str
    dashboard: str


def show(report: QuickstartReport, as_json: bool) -> None:
    """The table, and the two commands to try next."""
    if as_json:
        print_json(report.model_dump(mode="json"))
        return
    rows = [
        ("model", report.model),
        ("trained on", f"{report.corpus} ({report.train_tokens:,} tokens), {report.steps:,} steps"),
        ("perplexity on held-out text", f"{report.perplexity:.2f} ({report.bits_per_byte:.3f} bits a byte)"),
        ("agreement of horizons 2..n", percents(report.agreement)),
        ("acceptance of drafts 1..n-1", percents(report.acceptance)),
        ("tokens per step with MTP", f"{report.tokens_per_step:.2f}"),
        ("standard decoding over HTTP", f"{report.standard_tokens_per_s:.0f} tokens/s"),
        ("MTP decoding over HTTP", f"{report.mtp_tokens_per_s:.0f} tokens/s"),
        ("MTP over standard", f"{report.speedup:.2f}x"),
        ("greedy MTP equals standard", "yes, text for text" if report.identical else "NO"),
        *((f"check: {name}", verdict) for name, verdict in report.checks.items()),
        ("endpoint", report.endpoint),
        ("MLflow", report.mlflow),
        ("Ray dashboard", report.dashboard),
    ]
    print_table("Quickstart", ("what", "measured in this run"), rows)
    name = report.model.removeprefix("models:/").partition("@")[0]
    console.print("\nTry it:", highlight=False)
    console.print(
        f"  curl {report.endpoint}/v1/completions -H 'Content-Type: application/json' "
        f'-d \'{{"model": "{name}", "prompt": "def main(", "max_tokens": 48, "temperature": 0}}\'',
        highlight=False,
        soft_wrap=True,
    )
    console.print("All of it stays up until `mtp down`; `mtp status` shows it.", highlight=False)


def percents(shares: list[float]) -> str:
    """Shares as percentages, in one line."""
    return "  ".join(f"{share:.0%}" for share in shares)
