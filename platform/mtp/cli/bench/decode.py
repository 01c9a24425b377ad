"""`mtp bench decode`: our decoders against each other and against peers, on equal weights, prompts and tokens.

Greedy, a fixed number of new tokens, every contestant's outputs compared before any is timed. A cell is a model and a
batch size, with at least `fewest_prompts` prompts that are decoded a batch after the other: whether drafts stand is a
matter of the text, and one prompt would decide. Ratios carry the names of DESIGN section 6.
"""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from mtp.cli.bench.decode_limits import limit_shares, memory_per_request
from mtp.cli.bench.draft_price import draft_price
from mtp.cli.bench.harness import Contestant, Measured, OnRound, pairwise, take_turns
from mtp.cli.bench.peers.contestants import RunningPeer, contestant
from mtp.cli.bench.report import Ratio
from mtp.errors import MTPError

if TYPE_CHECKING:
    from mtp.model import MTPModel

STANDARD, MTP, INT8 = "standard", "mtp", "standard int8"
QUANTIZATION: dict[str, Literal["none", "drafts", "int8"]] = {STANDARD: "none", MTP: "drafts", INT8: "int8"}
MTP_TARGETS = {"small": {1: 0.98, 8: 0.98, 32: 0.98}, "large": {1: 1.5, 8: 1.2, 32: 0.98}}
HOUR, HOUR_TARGET = 60, 1.7
"""Minutes of training after which more is asked of `large` at batch 1."""
WORST_TARGET = 0.98
AGAINST: dict[tuple[str, str], dict[int | str, float]] = {
    (STANDARD, "huggingface"): {"small": 5.0, "large": 5.0},
    (MTP, "huggingface_mtp"): {"small": 5.0, "large": 5.0},
    (STANDARD, "vllm"): {1: 2.0, "small": 1.0, "large": 1.0},
    (MTP, "vllm_mtp"): {"small": 1.5, "large": 1.5},
    (STANDARD, "llamacpp"): {"small": 0.5, "large": 0.9},
    (MTP, "llamacpp"): {"small": 0.5, "large": 1.0},
    (MTP, "llamacpp_mtp"): {"small": 0.5, "large": 1.0},
}
"""Which of our decoders stands against which peer, and the target of the ratio: of a batch size, or else of a model."""


@dataclass(frozen=True)
class DecodeSize:
    """What is decoded."""

    batches: tuple[int, ...] = (1, 8, 32)
    fewest_prompts: int = 8
    prompt_tokens: int = 64
    new_tokens: int = 128
    long_prompt: int = 1000
    draft_vocab_size: int | None = None


SIZES = {"small": DecodeSize(draft_vocab_size=1024), "large": DecodeSize()}
"""Half of the vocabulary makes the drafts of `small` cheaper, and nearly as many stand; those of `large`, whose head is
little of a draft, it makes no cheaper, and fewer stand (docs/benchmarks.md)."""
SMOKE = DecodeSize(
    batches=(1, 2), fewest_prompts=2, prompt_tokens=8, new_tokens=12, long_prompt=100, draft_vocab_size=512
)


Batches = list[list[list[int]]]
"""The prompts of a cell, batch by batch."""


class OurEngine:
    """An engine and the prompts of a cell."""

    def __init__(
        self, model: "MTPModel", cell: Batches, size: DecodeSize, decoder: str, acceptance: tuple[float, ...]
    ) -> None:
        from mtp.decode import Engine, EngineOptions

        self.size, self.cell, self.batch = size, cell, len(cell[0])
        self.decoder = "mtp" if decoder == MTP else "standard"
        options = EngineOptions(
            max_batch_size=self.batch,
            max_model_len=size.prompt_tokens + size.new_tokens,
            prefix_caching=False,
            adaptive_drafts=decoder == MTP,
            expected_acceptance=acceptance,
            draft_vocab_size=size.draft_vocab_size,
            quantization=QUANTIZATION[decoder],
        )
        self.engine: Engine = Engine(model, options=options)

    def run(self) -> list[list[int]]:
        """The outputs, in the order of the prompts."""
        return [output for prompts in self.cell for output in self._decode(prompts)]

    def _decode(self, prompts: Sequence[list[int]]) -> list[list[int]]:
        from mtp.decode import Request, Sampling, Speculation

        sampling = Sampling(max_tokens=self.size.new_tokens, ignore_eos=True)
        wish = Speculation(decoder=self.decoder)  # type: ignore[arg-type]
        found: dict[int, list[int]] = {
            self.engine.add(Request(prompt=prompt, sampling=sampling, speculation=wish)): [] for prompt in prompts
        }
        while self.engine.has_work:
            for output in self.engine.step():
                found[output.request_id] += [token.id for token in output.tokens]
        return list(found.values())


def bench_decode(
    name: str,
    minutes: float,
    model: "MTPModel",
    acceptance: tuple[float, ...],
    prompts: Sequence[list[int]],
    size: DecodeSize,
    rounds: int,
    limits: dict[str, float],
    peers: Sequence[RunningPeer],
    on_round: OnRound,
) -> tuple[list[dict[str, Any] | Measured], list[Ratio]]:
    """All cells of a model that was trained so long, and of whose drafts the share in `acceptance` stood then.

    Returns:
        Contestants (a dict for what is missing or no rate) and ratios.
    """
    entries: list[dict[str, Any] | Measured] = []
    ratios: list[Ratio] = []
    worst: list[tuple[float, ...]] = []
    for batch in size.batches:
        cell, target = _cell(prompts, batch, size), _mtp_target(name, batch, minutes)
        work = sum(map(len, cell)) * size.new_tokens
        engines = {decoder: OurEngine(model, cell, size, decoder, acceptance) for decoder in (STANDARD, MTP, INT8)}
        contestants = {
            decoder: Contestant(f"{name} b{batch} {decoder}", engine.run, work, detail={})
            for decoder, engine in engines.items()
        }
        expected = _check_equal(engines)
        for peer in (peer for peer in peers if peer.takes(batch)):
            found = contestant(peer, f"{name} b{batch} {peer.name}", cell, size.new_tokens, expected)
            if isinstance(found, Contestant):
                contestants[peer.name] = found
            else:
                entries.append(found)
        for engine in engines.values():
            engine.engine.stats.reset()
        rates = take_turns(list(contestants.values()), rounds, on_round)
        measured = {who: rates[one.name] for who, one in contestants.items()}
        entries += [_described(who, one, measured[STANDARD], engines.get(who), limits) for who, one in measured.items()]
        ratios += _ratios(name, batch, target, measured)
        worst.append(pairwise(measured[MTP], measured[STANDARD]))
        entries.append(draft_price(name, model, cell[0], size.draft_vocab_size, rounds, target))
    lowest = min(worst, key=lambda values: sorted(values)[len(values) // 2])
    ratios.append(Ratio.of(f"worst_cell_vs_standard_{name}", lowest, WORST_TARGET, "higher"))
    entries.append(memory_per_request(name, model, size.prompt_tokens + size.new_tokens))
    return entries, ratios


def _cell(prompts: Sequence[list[int]], batch: int, size: DecodeSize) -> Batches:
    """Prompts of as many batches as it takes; they begin again where there are too few."""
    batches = -(-size.fewest_prompts // batch)
    return [
        [prompts[(first + place) % len(prompts)] for place in range(batch)]
        for first in range(0, batches * batch, batch)
    ]


def _check_equal(engines: dict[str, OurEngine]) -> list[list[int]]:
    """Standard decoding's outputs; MTP's must be the same. int8 computes with other weights."""
    expected = engines[STANDARD].run()
    if engines[MTP].run() != expected:
        raise MTPError("greedy MTP decoding and standard decoding differ; the benchmark stops here")
    engines[INT8].run()
    return expected


def _ratios(name: str, batch: int, mtp_target: float, measured: dict[str, Measured]) -> Iterator[Ratio]:
    standard = measured[STANDARD]
    yield Ratio.of(f"mtp_vs_standard_b{batch}_{name}", pairwise(measured[MTP], standard), mtp_target, "higher")
    yield Ratio.of(f"int8_vs_standard_b{batch}_{name}", pairwise(measured[INT8], standard), 1.0, "higher")
    for (ours, peer), targets in AGAINST.items():
        if peer in measured:
            target = targets.get(batch, targets[name])
            rates = pairwise(measured[ours], measured[peer])
            yield Ratio.of(f"{ours}_vs_{peer}_b{batch}_{name}", rates, target, "higher")


def _mtp_target(name: str, batch: int, minutes: float) -> float:
    if (name, batch) == ("large", 1) and minutes >= HOUR:
        return HOUR_TARGET
    return MTP_TARGETS.get(name, {}).get(batch, WORST_TARGET)


def _described(
    decoder: str, measured: Measured, standard: Measured, ours: OurEngine | None, limits: dict[str, float]
) -> Measured | dict[str, Any]:
    """The contestant's entry, with what its engine counted over all rounds, and its shares of the machine's limits."""
    from mtp.cli.bench.report import contestant_entry

    entry = contestant_entry(measured)
    if ours is None:
        return entry
    stats = ours.engine.stats
    entry["detail"] = {"tokens a step": f"{stats.tokens_per_step:.2f}"}
    if stats.drafted_per_position:
        shares = " ".join(f"{share:.0%}" for share in stats.acceptance_per_position)
        cost = stats.draft_seconds / max(sum(stats.drafted_per_position), 1)
        pass_seconds = stats.verify_seconds / max(stats.target_passes, 1)
        c, drafts = cost / pass_seconds, sum(stats.drafted_per_position) / max(stats.target_passes, 1)
        predicted = f"{stats.tokens_per_step / (1 + c * drafts):.2f}"  # were a pass over drafts as cheap as one without
        entry["detail"] |= {"accepted": shares, "draft cost c": f"{c:.2f}", "predicted at most": predicted}
    if decoder == MTP:
        shares_of_time = (a / b for a, b in zip(standard.processor_s, measured.processor_s, strict=True))
        entry["detail"]["standard's processor time over its own"] = f"{statistics.median(shares_of_time):.2f}"
    entry["detail"] |= limit_shares(ours, measured.median, limits, int8=decoder == INT8)
    return entry
