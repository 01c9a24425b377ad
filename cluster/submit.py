"""Jobs of the cluster, through Ray's job server: send one, follow its log, list, read, stop.

A job is `python -m jobs.NAME --config config.yaml` in a folder of its own (staging.py). It lives in the cluster: what
happens to the command that sent it does not concern it.
"""

import asyncio
import logging
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cluster.staging import CONFIG_FILE, PYTHONPATH, staged, with_absolute_paths
from cluster.state import QUIET
from cluster.target import Target, target
from jobs import JOBS
from mtp.config import Config
from mtp.errors import MTPError, UsageError
from mtp.registry.runs import COMMIT_VARIABLE, source_commit

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

STOP_GRACE_S = 120
"""Seconds that a stopped job has to end by itself (training saves a checkpoint) before it is killed."""

INTERRUPTED = 130
"""Exit code of a command that Ctrl-C ended, as shells have it."""


def submit(job: str, config: Config, address: str | None = None) -> str:
    """Send `job` with the resolved `config` to the cluster at `address` (None: the local one); returns the job's id.

    Raises:
        UsageError: there is no such job, or a path of the configuration means nothing on another machine.
        MTPError: no cluster is running, or its job server refuses.
    """
    if job not in JOBS:
        raise UsageError(f"no job {job!r}; there are: {', '.join(JOBS)}")
    if address is not None:
        _require_absolute_paths(config)
    with staged(config) as folder:
        return send(job, f"python -m jobs.{job} --config {CONFIG_FILE}", str(folder), address)


def send(name: str, entrypoint: str, working_dir: str, address: str | None = None) -> str:
    """Send any command line, to run in a copy of `working_dir`; returns the job's id, which begins with `name`."""
    cluster = target(address)
    commit = source_commit()
    variables = {
        "PYTHONPATH": PYTHONPATH,
        "PYTHONUNBUFFERED": "1",  # so that whoever follows the log sees a line when it is printed
        **cluster.variables,
        "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_GRACE_S),
        **QUIET,
        **({COMMIT_VARIABLE: commit} if commit else {}),
    }
    with _job_server(cluster) as server:
        return str(
            server.submit_job(
                entrypoint=entrypoint,
                submission_id=f"{name}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:4]}",
                runtime_env={"working_dir": working_dir, "env_vars": variables},
                metadata={"job": name},
            )
        )


def follow(job_id: str, stop_it: Callable[[], bool] = lambda: False, address: str | None = None) -> int:
    """Copy the job's log to stdout until it ends; returns its exit code (1 if it had none, as when it was stopped).

    Ctrl-C ends the following; the code is then 130. The job is stopped if `stop_it()` says so; else it goes on, and
    stderr says how to look after it.

    Raises:
        UsageError: there is no such job.
        MTPError: the job server has gone away.
    """
    with _job_server(target(address)) as server:
        _require_job(server, job_id)
        try:
            with _interruptible():
                asyncio.run(_copy_log(server, job_id))
        except KeyboardInterrupt:
            if stop_it():
                server.stop_job(job_id)
                print(f"Asked {job_id} to stop.", file=sys.stderr)
            else:
                print(
                    f"\n{job_id} goes on. Its log: mtp jobs logs {job_id}; to end it: mtp jobs stop {job_id}",
                    file=sys.stderr,
                )
            return INTERRUPTED
        info = server.get_job_info(job_id)
    if info.status.value == "SUCCEEDED":
        return 0
    print(f"{job_id}: {info.status.value.lower()}{_reason(info)}", file=sys.stderr)
    return int(info.driver_exit_code or 1)


def list_jobs(address: str | None = None) -> list[dict[str, Any]]:
    """Jobs of the cluster, newest first: id, job, status, started (ISO 8601), seconds, exit_code."""
    with _job_server(target(address)) as server:
        found = [info for info in server.list_jobs() if info.submission_id]
    return [_row(info) for info in sorted(found, key=lambda info: -(info.start_time or 0))]


def logs(job_id: str, address: str | None = None) -> str:
    """What the job has printed so far.

    Raises:
        UsageError: there is no such job.
    """
    with _job_server(target(address)) as server:
        _require_job(server, job_id)
        return str(server.get_job_logs(job_id))


def stop(job_id: str, address: str | None = None) -> bool:
    """Ask the job to stop (SIGTERM, then SIGKILL after STOP_GRACE_S); False if it had ended already.

    Raises:
        UsageError: there is no such job.
    """
    with _job_server(target(address)) as server:
        _require_job(server, job_id)
        return bool(server.stop_job(job_id))


@contextmanager
def _interruptible() -> Iterator[None]:
    """Inside, Ctrl-C raises KeyboardInterrupt at once; asyncio would ask its task to end, which a wait may not hear."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _job_server(cluster: Target) -> Iterator["JobSubmissionClient"]:
    """A client of the job server, and its failures in one sentence."""
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient
    from requests.exceptions import RequestException

    logging.getLogger("ray").setLevel(logging.WARNING)  # it tells of uploads and closed sockets
    headers = {"Authorization": f"Bearer {cluster.token}"}
    try:
        yield JobSubmissionClient(cluster.dashboard_url, headers=headers)
    except AuthenticationError as error:
        raise MTPError(
            f"the job server at {cluster.dashboard_url} refuses the token in {cluster.token_source}; {cluster.cure}"
        ) from error
    except (ConnectionError, RequestException, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise MTPError(f"the job server at {cluster.dashboard_url} does not do its work: {reason}") from error


def _require_absolute_paths(config: Config) -> None:
    """Refuse what would only be found below this process's folder."""
    given, absolute = config.model_dump(mode="json"), with_absolute_paths(config).model_dump(mode="json")
    for section, values in given.items():
        for key, value in values.items():
            if value != absolute[section][key]:
                raise UsageError(
                    f"{section}.{key} is {value!r}, a path on this machine; give a path or URL that the cluster reads"
                )


def _require_job(server: "JobSubmissionClient", job_id: str) -> None:
    known = [info.submission_id for info in server.list_jobs() if info.submission_id]
    if job_id not in known:
        raise UsageError(f"no job {job_id!r} on this cluster; there are: {', '.join(known) or 'none'}")


async def _copy_log(server: "JobSubmissionClient", job_id: str) -> None:
    """Until the job has ended; a connection that breaks before is made again, going on where it broke."""
    printed = 0
    while True:
        skip = printed
        async for text in server.tail_job_logs(job_id):
            new = text[skip:]
            skip = max(0, skip - len(text))
            printed += len(new)
            print(new, end="", flush=True)
        if server.get_job_status(job_id).is_terminal():  # the tail may have ended just before the last lines came
            print(server.get_job_logs(job_id)[printed:], end="", flush=True)
            return
        await asyncio.sleep(1)


def _row(info: "JobDetails") -> dict[str, Any]:
    started = (info.start_time or 0) / 1000
    ended = info.end_time / 1000 if info.end_time else time.time()
    return {
        "id": info.submission_id,
        "job": (info.metadata or {}).get("job"),
        "status": info.status.value.lower(),
        "started": datetime.fromtimestamp(started, tz=UTC).isoformat(timespec="seconds"),
        "seconds": round(ended - started, 1),
        "exit_code": info.driver_exit_code,
    }


def _reason(info: "JobDetails") -> str:
    """Ray's first sentence of why, unless it is only that the exit code was not 0."""
    if info.driver_exit_code:
        return f" with exit code {info.driver_exit_code}"
    return f": {info.message.splitlines()[0]}" if info.message else ""
