"""What a cluster's lasting processes hold: files, memory, and which processes there are at all."""

import psutil

from cluster.processes import members

LASTING = ("gcs_server", "raylet/raylet", "dashboard.py", "mlflow", "ServeController", "mtp:gateway")
PASSING = ("RayTrainWorker", "TrainController", "ServeReplica", "_Channel")
"""What must be gone when neither a training nor an endpoint is there."""


def footprint(state):
    """By pid: title, open files, resident MiB, of processes that outlive trainings and requests."""
    found = {}
    for process in members(state.cluster_id):
        try:
            title = " ".join(process.cmdline())[:200]
            if any(part in title for part in LASTING):
                found[process.pid] = (title, process.num_fds(), process.memory_info().rss / 2**20)
        except psutil.NoSuchProcess:
            continue
    return found


def grown(before, after, *, files, mib):
    """The processes that hold more than `files` files or `mib` MiB more than before."""
    return [
        f"{title[:60]}: {before[pid][1:]} -> {after[pid][1:]}"
        for pid, (title, fds, memory) in after.items()
        if pid in before and (fds > before[pid][1] + files or memory > before[pid][2] + mib)
    ]


def left_over(state):
    """Titles of processes that should have gone."""
    found = []
    for process in members(state.cluster_id):
        try:
            title = " ".join(process.cmdline())
        except psutil.NoSuchProcess:
            continue
        if any(part in title for part in PASSING):
            found.append(title[:100])
    return found
