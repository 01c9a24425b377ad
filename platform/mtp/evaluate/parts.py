"""An evaluation cut into parts that can be measured anywhere, in any order, and put together again.

A part is a range of rows (loss, agreement, calibration) or of prompts (acceptance) of one data set; its outcome is
sums, as plain values. Knows what to measure and how it adds up; knows nothing of workers or of where parts are kept.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict

from mtp.checkpoint import load_model
from mtp.data import PreparedDataset, open_dataset, read_rows
from mtp.data.domains import domain_dataset, largest_domains
from mtp.errors import MTPError, UsageError
from mtp.evaluate.decoding import PromptCounts, count_decoding, held_out_prompts
from mtp.evaluate.documents import documents_of_rows, windows_of
from mtp.evaluate.held_out import measure_held_out
from mtp.model import MTPModel
from mtp.tokenizer import Tokenizer

ROWS_PER_PART = 64
PROMPTS_PER_PART = 4


class EvaluationSettings(BaseModel):
    """What an evaluation measures."""

    model_config = ConfigDict(frozen=True)

    data: str
    """One prepared split, such as `data/validation`."""
    domains: dict[str, str] = {}
    """Further ones, by name."""
    largest_domains: int = 0
    """So many domains of `data` itself are measured apart as well."""
    max_rows: int = 256
    batch_size: int = 8
    window: int | None = None
    """Tokens read at once; None: the length of a row."""
    stride: int | None = None
    """None: half a window."""
    prompts: int = 16
    prompt_tokens: int = 64
    new_tokens: int = 64
    temperature: float = 1.0
    """Of the sampled output."""
    device: str = "cpu"


class PartSpec(BaseModel):
    """Rows or prompts start .. stop - 1 of one data set."""

    model_config = ConfigDict(frozen=True)

    kind: Literal["rows", "prompts"]
    domain: str
    """"" is the data set itself; else a name of `EvaluationSettings.domains` or a domain of the data set."""
    start: int
    stop: int

    @property
    def name(self) -> str:
        """Of the file that keeps it."""
        place = hashlib.sha256(self.domain.encode()).hexdigest()[:12] if self.domain else "data"
        return f"{place}-{self.kind}-{self.start:08d}"


class RowSums(BaseModel):
    """`HeldOut` as plain values."""

    sums: list[list[float]]
    calibration: list[list[list[float]]]
    target_bytes: int


class Part(BaseModel):
    """The outcome of one part: sums of rows, or counts of prompts."""

    spec: PartSpec
    rows: RowSums | None = None
    prompts: PromptCounts | None = None


class EvaluationPlan(BaseModel):
    """What there is to measure, and the key under which its parts belong together."""

    key: str
    """Of the model's files, the data and the settings: parts of another key measure something else."""
    window: int
    stride: int
    rows: dict[str, int]
    """Of each domain."""
    parts: list[PartSpec]


def plan_evaluation(model_dir: str | Path, settings: EvaluationSettings) -> EvaluationPlan:
    """Look at the model and the data, and cut the work.

    Raises:
        UsageError: a data set was made with another tokenizer than the model's, or window and stride do not fit.
        MTPError: a file is missing or damaged.
    """
    folder = Path(model_dir)
    sets = {name: _opened(folder, path) for name, path in {"": settings.data, **settings.domains}.items()}
    inside = largest_domains(sets[""], settings.largest_domains) if settings.largest_domains else []
    if twice := sorted(set(inside) & set(settings.domains)):
        raise UsageError(f"evaluate.domains names a data set {twice[0]!r}, which is also a domain of {settings.data}")
    sets |= {name: domain_dataset(sets[""], name, settings.max_rows) for name in inside}
    config = _model(folder, settings.device).config
    window = settings.window or sets[""].manifest.seq_len
    stride = settings.stride or max(window // 2, 1)
    _check_window(window, stride, config.n_future, config.max_position_embeddings)
    rows = {name: min(data.manifest.rows, settings.max_rows) for name, data in sets.items()}
    specs = [
        PartSpec(kind="rows", domain=name, start=start, stop=min(start + ROWS_PER_PART, count))
        for name, count in rows.items()
        for start in range(0, count, ROWS_PER_PART)
    ]
    specs += [
        PartSpec(kind="prompts", domain=name, start=start, stop=min(start + PROMPTS_PER_PART, count))
        for name, count in ((name, min(rows[name], settings.prompts)) for name in sets)
        for start in range(0, count, PROMPTS_PER_PART)
    ]
    prints = [sets[name].manifest.fingerprint for name in sorted(sets)]
    identity = hashlib.sha256(f"{_identity(folder)} {prints} {settings.model_dump_json()}".encode())
    return EvaluationPlan(key=identity.hexdigest()[:20], window=window, stride=stride, rows=rows, parts=specs)


def measure_part(model_dir: str | Path, settings: EvaluationSettings, plan: EvaluationPlan, spec: PartSpec) -> Part:
    """Measure one part; its model and data sets stay in memory for the next one.

    Raises:
        MTPError: a file is damaged, or the model gave logits that are not finite.
    """
    folder = Path(model_dir)
    model = _model(folder, settings.device)
    dataset = _dataset(folder, settings, spec.domain)
    if spec.kind == "prompts":
        return Part(spec=spec, prompts=_prompts(model, dataset, settings, plan.rows[spec.domain], spec))
    documents = documents_of_rows(dataset, spec.start, spec.stop, plan.rows[spec.domain])
    windows = windows_of(documents, plan.window, plan.stride)
    found = measure_held_out(model, windows, _token_bytes(dataset.tokenizer), settings.batch_size)
    sums = RowSums(sums=found.sums.tolist(), calibration=found.calibration.tolist(), target_bytes=found.target_bytes)
    if not all(math.isfinite(value) for value in sums.sums[0]):
        raise MTPError(f"the loss of {model_dir} on {dataset.location} is not finite; the model has diverged")
    return Part(spec=spec, rows=sums)


def put_together(parts: Sequence[Part]) -> Mapping[str, tuple[RowSums, PromptCounts | None]]:
    """The sums of each domain."""
    found: dict[str, tuple[RowSums, PromptCounts | None]] = {}
    for name in dict.fromkeys(part.spec.domain for part in parts):
        mine = [part for part in parts if part.spec.domain == name]
        rows = [part.rows for part in mine if part.rows is not None]
        total = RowSums(
            sums=torch.tensor([part.sums for part in rows], dtype=torch.float64).sum(0).tolist(),
            calibration=torch.tensor([part.calibration for part in rows], dtype=torch.float64).sum(0).tolist(),
            target_bytes=sum(part.target_bytes for part in rows),
        )
        counts: PromptCounts | None = None
        for part in mine:
            if part.prompts is not None:
                counts = counts.plus(part.prompts) if counts else part.prompts
        found[name] = (total, counts)
    return found


def _prompts(
    model: MTPModel, dataset: PreparedDataset, settings: EvaluationSettings, rows: int, spec: PartSpec
) -> PromptCounts | None:
    tokens, document = read_rows(dataset, limit=rows)
    prompts = held_out_prompts(tokens, document, settings.prompts, settings.prompt_tokens)[spec.start : spec.stop]
    if not prompts:
        return None
    most = model.config.n_future - 1
    lengths = sorted({0, most}) if spec.domain else None
    temperature = 0.0 if spec.domain else settings.temperature
    torch.manual_seed(spec.start)
    eos = (dataset.tokenizer.eos_id,)
    return count_decoding(model, prompts, settings.new_tokens, eos, temperature, lengths)


def _check_window(window: int, stride: int, n_future: int, longest: int) -> None:
    if not n_future < window <= longest:
        raise UsageError(f"evaluate.window is {window}; it must be above n_future ({n_future}) and at most {longest}")
    if not 1 <= stride <= window - n_future:
        raise UsageError(
            f"evaluate.stride is {stride}; it must be at least 1 and at most window - n_future ({window - n_future}), "
            f"so that every horizon sees what it predicts from"
        )


def _dataset(model_dir: Path, settings: EvaluationSettings, domain: str) -> PreparedDataset:
    dataset = _opened(model_dir, settings.domains.get(domain, settings.data))
    if domain and domain not in settings.domains:
        return _domain(settings.data, dataset.manifest.fingerprint, domain, settings.max_rows)
    return dataset


@lru_cache(maxsize=4)
def _domain(data: str, _fingerprint: str, name: str, max_rows: int) -> PreparedDataset:
    return domain_dataset(open_dataset(data), name, max_rows)


def _opened(model_dir: Path, path: str) -> PreparedDataset:
    dataset = open_dataset(path)
    if Tokenizer.load(model_dir) != dataset.tokenizer:
        raise UsageError(
            f"{dataset.location} was prepared with another tokenizer than the model's in {model_dir}; "
            f"evaluate on data prepared with the model's tokenizer"
        )
    return dataset


def _model(folder: Path, device: str) -> MTPModel:
    if not (folder / "model.safetensors").is_file():
        raise MTPError(f"there is no model in {folder}; a model folder holds config.json and model.safetensors")
    return _loaded(folder, device, (folder / "model.safetensors").stat().st_mtime_ns)


@lru_cache(maxsize=1)
def _loaded(folder: Path, device: str, _written: int) -> MTPModel:
    """CPUs compute in fp32 whatever is stored: bf16 matrices are many times slower there."""
    return load_model(folder, device, torch.float32 if torch.device(device).type == "cpu" else None)


def _token_bytes(tokenizer: Tokenizer) -> torch.Tensor:
    return torch.tensor([len(tokenizer.token_bytes(i)) for i in range(tokenizer.vocab_size)])


def _identity(folder: Path) -> str:
    """sha256 of the model's files."""
    digest = hashlib.sha256()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        with (folder / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
