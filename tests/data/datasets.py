"""Builds small prepared data sets without Ray, for tests of what reads them."""

import json

import numpy as np

from mtp.data import open_dataset
from mtp.data.domains import DocumentDomain, encode_domains
from mtp.data.manifest import MANIFEST_NAME, CorpusRecord, FileRecord, Manifest, ShardRecord
from mtp.data.packing import pack_documents
from mtp.data.shards import encode_shard, rows_per_group, sha256, token_dtype
from mtp.data.storage import Location
from mtp.tokenizer import Tokenizer


def write_dataset(folder, shard_rows=(40, 40, 23), seq_len=16, vocab_size=300, seed=0, tokenizer_text="hello world"):
    """A split of random rows; token 0 of row i is i, so that a row can be told by its content."""
    random = np.random.default_rng(seed)
    location, shards, first = Location.of(folder), [], 0
    counts = np.zeros(vocab_size, dtype=np.int64)
    for number, rows in enumerate(shard_rows):
        tokens = random.integers(1, vocab_size, (rows, seq_len)).astype(token_dtype(vocab_size))
        tokens[:, 0] = np.arange(first, first + rows) % vocab_size
        document = np.sort(random.integers(0, 3, (rows, seq_len)), axis=1).astype(np.int32)
        counts += np.bincount(tokens.ravel(), minlength=vocab_size)
        first += rows
        shards.append(write_shard(location, number, tokens, document, documents=rows))
    manifest = Manifest(
        split="train",
        seq_len=seq_len,
        dtype=token_dtype(vocab_size),
        vocab_size=vocab_size,
        eos_id=0,
        rows=first,
        tokens=first * seq_len,
        documents=first,
        group_rows=rows_per_group(seq_len),
        shards=tuple(shards),
        tokenizer=_file(location, "tokenizer.json", Tokenizer.train([tokenizer_text] * 3, vocab_size=300).to_json()),
        token_counts=_file(location, "token_counts.json", json.dumps(counts.tolist())),
        corpus=CorpusRecord(source="random", files=1, bytes=1, documents=first, fingerprint="none"),
    ).sealed()
    (location / MANIFEST_NAME).write(manifest.to_bytes())
    return manifest


def write_shard(location, number, tokens, document, documents):
    """One shard of packed rows in the folder `location`, and its record."""
    content = encode_shard(tokens, document)
    name = f"shard-{number:05d}.parquet"
    (location / name).write(content)
    return ShardRecord(
        name=name,
        rows=len(tokens),
        tokens=int((document >= 0).sum()),
        documents=documents,
        bytes=content.size,
        sha256=sha256(content),
    )


def write_split(folder, shards, vocab_size=300, seq_len=8):
    """A validation split of shards of (domain, ids) documents, opened."""
    manifest = write_dataset(folder, shard_rows=(1,), seq_len=seq_len, vocab_size=vocab_size)
    location, records, entries = Location.of(folder), [], []
    for number, documents in enumerate(shards):
        tokens, document = pack_documents([ids for _, ids in documents], seq_len, 0, vocab_size)
        records.append(write_shard(location, number, tokens, document, documents=len(documents)))
        entries += [DocumentDomain(domain, len(ids) + 1) for domain, ids in documents]
    content = encode_domains(entries)
    (location / "domains.parquet").write(content)
    changed = {
        "split": "validation",
        "shards": tuple(records),
        "rows": sum(record.rows for record in records),
        "domains": FileRecord(name="domains.parquet", sha256=sha256(content)),
    }
    (location / MANIFEST_NAME).write(manifest.model_copy(update=changed).sealed().to_bytes())
    return open_dataset(folder)


def _file(location, name, text):
    (location / name).write(text.encode())
    return FileRecord(name=name, sha256=sha256(text.encode()))
