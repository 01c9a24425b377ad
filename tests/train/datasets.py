"""A small prepared data set of learnable text, written with the platform's own parts."""

import json
from pathlib import Path

import numpy as np

from mtp.data.manifest import MANIFEST_NAME, CorpusRecord, FileRecord, Manifest
from mtp.data.packing import pack_documents
from mtp.data.shards import rows_per_group, sha256, token_dtype
from mtp.data.storage import Location
from mtp.tokenizer import Tokenizer
from tests.data.datasets import write_shard

WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"]


def small_tokenizer() -> Tokenizer:
    return Tokenizer.train([" ".join(WORDS)] * 4, vocab_size=300)


def write_dataset(root: Path, seq_len: int = 32, documents: int = 400, rare: str = "") -> Path:
    """`root` with the splits train and validation; returns `root`. `rare` is one training document more."""
    tokenizer = small_tokenizer()
    for split, seed, count in (("train", 0, documents), ("validation", 1, 40)):
        texts = _texts(count, seed) + ([rare] if rare and split == "train" else [])
        _write_split(root / split, split, tokenizer, texts, seq_len)
    return root


def _texts(count: int, seed: int) -> list[str]:
    """Each document cycles through the words from a random start: predictable after the first."""
    generator = np.random.default_rng(seed)
    return [
        " ".join(WORDS[(start + i) % len(WORDS)] for i in range(length))
        for start, length in zip(generator.integers(0, 8, count), generator.integers(4, 12, count), strict=True)
    ]


def _write_split(folder: Path, split: str, tokenizer: Tokenizer, texts: list[str], seq_len: int) -> None:
    folder.mkdir(parents=True)
    ids = tokenizer.encode_batch(texts)
    tokens, document = pack_documents(ids, seq_len, tokenizer.eos_id, tokenizer.vocab_size)
    parts = np.array_split(np.arange(len(tokens)), 2)
    shards = [
        write_shard(Location.of(folder), number, tokens[rows], document[rows], documents=1)
        for number, rows in enumerate(parts)
    ]
    counts = np.bincount(tokens[document >= 0].astype(int), minlength=tokenizer.vocab_size)
    extra = {"tokenizer.json": tokenizer.to_json().encode(), "token_counts.json": json.dumps(counts.tolist()).encode()}
    for name, content in extra.items():
        (folder / name).write_bytes(content)
    manifest = Manifest(
        split=split,
        seq_len=seq_len,
        dtype=token_dtype(tokenizer.vocab_size),
        vocab_size=tokenizer.vocab_size,
        eos_id=tokenizer.eos_id,
        rows=len(tokens),
        tokens=int((document >= 0).sum()),
        documents=len(texts),
        group_rows=rows_per_group(seq_len),
        shards=tuple(shards),
        tokenizer=FileRecord(name="tokenizer.json", sha256=sha256(extra["tokenizer.json"])),
        token_counts=FileRecord(name="token_counts.json", sha256=sha256(extra["token_counts.json"])),
        corpus=CorpusRecord(source="test", files=1, bytes=1, documents=len(texts), fingerprint="test"),
    )
    (folder / MANIFEST_NAME).write_bytes(manifest.sealed().to_bytes())
