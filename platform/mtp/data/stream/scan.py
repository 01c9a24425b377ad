"""Reads every file of a corpus once, in parallel: its hash, its length, and whether it holds text."""

from collections.abc import Callable, Iterator
from functools import partial

from pydantic import BaseModel

from mtp.data.corpus import Corpus, SourceFile
from mtp.data.documents import Columns, FileReport, inspect_file
from mtp.data.stream.run_tasks import run_tasks

_GROUP_BYTES = 64 << 20
_GROUP_FILES = 1000


class FileGroup(BaseModel):
    """Files that one task reads."""

    files: list[SourceFile]


class GroupReport(BaseModel):
    """What a task found, in the order of its group."""

    reports: list[FileReport]


def scan_corpus(corpus: Corpus, columns: Columns, on_bytes: Callable[[int, int], None]) -> list[FileReport]:
    """The report of every file, by path; `on_bytes(done, total)` is called as files are read.

    Raises:
        MTPError: a file cannot be opened, or is parquet without the text column.
    """
    total, done = sum(file.size for file in corpus.files), 0
    found: list[FileReport] = []
    groups = list(_groups(corpus))
    for group in run_tasks(partial(inspect_group, columns=columns), groups, GroupReport):
        found += group.reports
        done += sum(report.size for report in group.reports)
        on_bytes(done, total)
    return sorted(found, key=lambda report: report.path)


def inspect_group(group: FileGroup, columns: Columns) -> GroupReport:
    """One task: the reports of its files."""
    return GroupReport(reports=[inspect_file(file, columns) for file in group.files])


def _groups(corpus: Corpus) -> Iterator[FileGroup]:
    files: list[SourceFile] = []
    size = 0
    for file in corpus.files:
        if files and (size + file.size > _GROUP_BYTES or len(files) == _GROUP_FILES):
            yield FileGroup(files=files)
            files, size = [], 0
        files.append(file)
        size += file.size
    yield FileGroup(files=files)
