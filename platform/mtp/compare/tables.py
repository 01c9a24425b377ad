"""The five tables, from trained models and measured decoders. Arithmetic on figures; measures nothing."""

from collections.abc import Callable, Iterable, Sequence

from mtp.compare.decoders import DecoderRow, DecoderRows
from mtp.compare.plan import MAIN, STANDARD, ablation_label, ablations, approaches
from mtp.compare.report import Cell, Table
from mtp.compare.training import CurvePoint, TrainedModel
from mtp.config import Config
from mtp.objective.metrics import conditional_rates, expected_tokens_per_step

TEXTBOOK = (0.7, 0.4, 0.2)
"""How often draft 1, 2, 3 is accepted when those before it were, in textbook sketches (after 100 % for token 1)."""

Figure = Callable[[TrainedModel], float | None]


def make_tables(config: Config, models: Sequence[TrainedModel], decoders: Sequence[DecoderRows]) -> list[Table]:
    """The tables that the configuration asks for, in its order."""
    makers: dict[str, Callable[[], Table]] = {
        "approaches": lambda: approaches_table(config, models),
        "decoders": lambda: decoders_table(models, decoders),
        "ablations": lambda: ablations_table(config, models),
        "convergence": lambda: convergence_table(config, models),
        "acceptance": lambda: acceptance_table(models),
    }
    return [makers[name]() for name in config.compare.tables]


def of_label(models: Iterable[TrainedModel], label: str) -> list[TrainedModel]:
    """The models of one row, by seed."""
    return sorted((model for model in models if label in model.labels), key=lambda model: model.seed)


def approaches_table(config: Config, models: Sequence[TrainedModel]) -> Table:
    """Training cost relative to standard, perplexity, decoding speed, divergence."""
    standard = {model.seed: model for model in of_label(models, STANDARD)}
    columns = ["approach", "time/token", "FLOPs/token", "memory", "perplexity", "bits/byte", "tokens/step"]
    columns += ["tokens/s", "divergence, exact", "divergence, unverified"]
    rows: list[list[Cell | str]] = []
    for label in approaches(config):
        mine = of_label(models, label)

        def against(figure: Callable[[TrainedModel], float], mine: Sequence[TrainedModel] = mine) -> Cell:
            return Cell(values=[figure(model) / figure(standard[model.seed]) for model in mine], format=".2f")

        rows.append(
            [
                label,
                against(lambda model: model.seconds / model.tokens),
                against(lambda model: model.flops_per_token),
                against(lambda model: float(model.state_bytes)),
                _cell(mine, lambda model: model.report.perplexity, ".2f"),
                _cell(mine, lambda model: model.report.bits_per_byte, ".3f"),
                _cell(mine, _tokens_per_step, ".2f"),
                _cell(mine, _decoding_speed, ".0f"),
                _cell(mine, lambda model: model.divergence.get("exact"), ".1e"),
                _cell(mine, lambda model: model.divergence.get("parallel"), ".3f"),
            ]
        )
    note = (
        "Time, FLOPs and memory are relative to standard. Time was measured with trainings side by side. Memory counts "
        "weights, gradients and optimizer state. Tokens per step and tokens/s: greedy, all drafts, batch 1. "
        "Rows of bytes compare by bits/byte. "
        "Divergence: mean total variation of a token at draft position 1 from exact sampling at temperature 1."
    )
    return Table(name="approaches", title="Approaches", columns=columns, rows=rows, note=note)


def decoders_table(models: Sequence[TrainedModel], decoders: Sequence[DecoderRows]) -> Table:
    """Tokens per step, acceptance, speed and divergence of every decoder."""
    columns = ["decoder", "tokens/step", "acceptance per position", "measured speed-up", "output"]
    main = of_label(models, MAIN)
    rows: list[list[Cell | str]] = []
    for place, first in enumerate(decoders[0].rows if decoders else []):
        mine = [of_seed.rows[place] for of_seed in decoders]
        standard = [of_seed.rows[0] for of_seed in decoders]
        speed = [row.tokens_per_second / base.tokens_per_second for row, base in zip(mine, standard, strict=True)]
        divergence = Cell(values=[model.divergence[first.rule] for model in main], format=".3f")
        rows.append(
            [
                first.name,
                Cell(values=[row.tokens_per_step for row in mine], format=".2f"),
                _acceptance(mine),
                Cell(values=speed, format=".2f"),
                f"lossy, total variation {divergence.text()}" if first.lossy else "exact",
            ]
        )
    note = (
        "Sampling at temperature 1, batch 1, prompts' passes included, decoders in turn on the same prompts. Total "
        "variation: of a token at draft position 1 from exact sampling."
    )
    return Table(name="decoders", title="Decoders on one trained model", columns=columns, rows=rows, note=note)


def ablations_table(config: Config, models: Sequence[TrainedModel]) -> Table:
    """One setting changed at a time."""
    columns = ["setting", "value", "perplexity", "loss of horizon 2", "agreement of horizon 2", "tokens/step"]
    rows: list[list[Cell | str]] = []
    seeds = set(config.compare.ablation_seeds)
    for group, values in ablations(config).items():
        for value in values:
            mine = [model for model in of_label(models, ablation_label(group, value)) if model.seed in seeds]
            rows.append(
                [
                    group,
                    value,
                    _cell(mine, lambda model: model.report.perplexity, ".2f"),
                    _cell(mine, lambda model: _nth(model.report.loss, 1), ".3f"),
                    _cell(mine, lambda model: _nth(model.report.agreement, 0), ".3f"),
                    _cell(mine, _tokens_per_step, ".2f"),
                ]
            )
    note = f"Seeds {', '.join(map(str, sorted(seeds)))}. All but the row's setting is as in the approach {MAIN!r}."
    return Table(name="ablations", title="Ablations", columns=columns, rows=rows, note=note)


def convergence_table(config: Config, models: Sequence[TrainedModel]) -> Table:
    """Steps and seconds to a ladder of perplexities."""
    columns = ["held-out perplexity", "steps, standard", "steps, MTP", "seconds, standard", "seconds, MTP"]
    pairs = [of_label(models, STANDARD), of_label(models, MAIN)]
    rows: list[list[Cell | str]] = []
    for level in config.compare.perplexities:
        reached = [[_reached(model, level) for model in mine] for mine in pairs]
        steps = [Cell(values=[point.step for point in points if point], format=".0f") for points in reached]
        seconds = [Cell(values=[point.seconds for point in points if point], format=".0f") for points in reached]
        rows.append([f"{level:g}", *steps, *seconds])
    note = (
        "At the first measurement at or below; a dash: within the budget no seed got there. Seconds of training alone."
    )
    return Table(name="convergence", title="Convergence", columns=columns, rows=rows, note=note)


def acceptance_table(models: Sequence[TrainedModel]) -> Table:
    """Acceptance per position beside the textbook's figures, and what they give."""
    columns = ["position", "accepted if all before were", "textbook", "accepted with all before", "textbook"]
    main = of_label(models, MAIN)
    together = [model.report.decoding.acceptance if model.report.decoding else [] for model in main]
    alone = [conditional_rates(rates) for rates in together]
    rows: list[list[Cell | str]] = [["1 (the model's own)", "100%", "100%", "100%", "100%"]]
    product = 1.0
    for place in range(max(map(len, together), default=0)):
        textbook = TEXTBOOK[place] if place < len(TEXTBOOK) else None
        product *= textbook or 0.0
        rows.append(
            [
                str(place + 2),
                Cell(values=[rates[place] for rates in alone], format=".1%"),
                f"{textbook:.0%}" if textbook else "-",
                Cell(values=[rates[place] for rates in together], format=".1%"),
                f"{product:.1%}" if textbook else "-",
            ]
        )
    expected = Cell(values=[expected_tokens_per_step(rates) for rates in alone], format=".3f")
    measured = _cell(main, _tokens_per_step, ".3f")
    rows.append(["tokens/step: 1 + a + ab + ...", expected, f"{expected_tokens_per_step(TEXTBOOK):.3f}", measured, "-"])
    note = (
        "Greedy. Shares of the steps that drafted a position; ends of outputs draft fewer, so in small samples a "
        "quotient of two may pass 100%. Last row: expected from the rates, the textbook's by the same formula, "
        "measured (4th column)."
    )
    return Table(name="acceptance", title="Acceptance", columns=columns, rows=rows, note=note)


def _cell(models: Iterable[TrainedModel], figure: Figure, form: str) -> Cell:
    return Cell(values=[value for model in models if (value := figure(model)) is not None], format=form)


def _tokens_per_step(model: TrainedModel) -> float | None:
    return model.report.decoding.tokens_per_step if model.report.decoding else None


def _decoding_speed(model: TrainedModel) -> float | None:
    decoding = model.report.decoding
    if decoding is None:
        return None
    return decoding.standard_tokens_per_second * (decoding.lengths[-1].measured_speedup if decoding.lengths else 1.0)


def _reached(model: TrainedModel, level: float) -> CurvePoint | None:
    return next((point for point in model.curve if point.perplexity <= level), None)


def _nth(values: Sequence[float], place: int) -> float | None:
    return values[place] if place < len(values) else None


def _acceptance(rows: Sequence[DecoderRow]) -> str:
    places = max((len(row.acceptance) for row in rows), default=0)
    cells = [
        Cell(values=[row.acceptance[place] for row in rows if place < len(row.acceptance)], format=".2f")
        for place in range(places)
    ]
    return ", ".join(cell.text() for cell in cells) or "-"
