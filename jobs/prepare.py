"""The prepare job: a corpus of raw text to a prepared data set with its tokenizer."""

from pydantic import BaseModel

from jobs.entry import job_main
from mtp.config import Config
from mtp.data.stream.prepare import prepare
from mtp.progress import OnStage, StageLines


class PreparedReport(BaseModel):
    """What was prepared, or found to be prepared already (`reused`)."""

    path: str
    corpus: str
    reused: bool
    files: int
    documents: int
    skipped_files: int
    skipped_documents: int
    skipped: list[str]
    held_out: str
    vocab_size: int
    seq_len: int
    train_rows: int
    train_tokens: int
    validation_rows: int
    validation_tokens: int
    shards: int
    fingerprint: str


def run(config: Config, on_progress: OnStage | None = None) -> PreparedReport:
    """Prepare `config.data`; see `mtp.data.stream.prepare.prepare` for what it raises."""
    data = prepare(config.data, on_progress or StageLines())
    train, validation = data.train.manifest, data.validation.manifest
    return PreparedReport(
        path=data.path,
        corpus=train.corpus.source,
        reused=data.reused,
        files=train.corpus.files,
        documents=train.corpus.documents,
        skipped_files=train.corpus.skipped_files,
        skipped_documents=train.corpus.skipped_documents,
        skipped=[f"{skip.path}: {skip.reason}" for skip in train.corpus.skipped],
        held_out=data.split_rule,
        vocab_size=train.vocab_size,
        seq_len=train.seq_len,
        train_rows=train.rows,
        train_tokens=train.tokens,
        validation_rows=validation.rows,
        validation_tokens=validation.tokens,
        shards=len(train.shards) + len(validation.shards),
        fingerprint=train.fingerprint,
    )


if __name__ == "__main__":
    job_main(run)
