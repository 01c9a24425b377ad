"""Streaming ten times what the object store holds takes no more memory than its first tenth."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
STORE = 80 << 20
SEQ_LEN, SHARD_ROWS = 1024, 4096
ROW_BYTES = SEQ_LEN * 6
"""In a block: two bytes a token, four for its document."""
BATCH = 64
SLACK = 160 << 20
"""What the processes may grow after the first tenth: blocks ahead (64 MB) in more than one process's view."""


def write_large_dataset(folder: Path) -> int:
    """One shard's content under many names; returns the rows."""
    from mtp.data import open_dataset
    from mtp.data.manifest import MANIFEST_NAME
    from mtp.data.storage import Location
    from tests.data.datasets import write_dataset

    write_dataset(folder, shard_rows=(SHARD_ROWS,), seq_len=SEQ_LEN)
    manifest = open_dataset(folder).manifest
    shards = -(-10 * STORE // (SHARD_ROWS * ROW_BYTES))
    first = manifest.shards[0]
    records = [first.model_copy(update={"name": f"shard-{number:05d}.parquet"}) for number in range(shards)]
    for record in records[1:]:
        os.link(folder / first.name, folder / record.name)
    rows = shards * SHARD_ROWS
    larger = manifest.model_copy(update={"shards": tuple(records), "rows": rows}).sealed()
    (Location.of(folder) / MANIFEST_NAME).write(larger.to_bytes())
    return rows


@pytest.mark.long
def test_memory_is_constant_over_ten_times_the_object_store(tmp_path):
    rows = write_large_dataset(tmp_path)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_ADDRESS")}
    done = subprocess.run(
        [sys.executable, "-m", "tests.data.test_memory", str(tmp_path), str(rows // BATCH)],
        capture_output=True, text=True, check=False, cwd=ROOT, env=environment, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["rows"] == rows // BATCH * BATCH
    assert found["spilled"] == 0
    assert max(found["tenths"]) < found["tenths"][0] + SLACK, found


def stream(folder: str, steps: int) -> None:
    """Read all rows once in a Ray of its own; print the processes' memory at each tenth."""
    import psutil
    import ray

    from mtp.data.stream.row_source import RankSlice
    from mtp.data.stream.row_stream import RowStream

    quiet = {"include_dashboard": False, "logging_level": "error", "log_to_driver": False}
    ray.init(address="local", num_cpus=2, object_store_memory=STORE, **quiet)
    tenths, rows = [], 0
    me = psutil.Process()
    for number, batch in enumerate(RowStream(folder, seed=0, part=RankSlice(BATCH), steps=steps), start=1):
        rows += len(batch.row_ids)
        if number % (steps // 10) == 0:
            readers = [p for p in me.children(recursive=True) if "ray::" in " ".join(p.cmdline()[:1])]
            tenths.append(int(np.sum([p.memory_full_info().uss for p in (me, *readers)])))
    spill = Path(ray._private.worker._global_node.get_session_dir_path())
    spilled = sum(1 for place in spill.rglob("ray_spilled_objects*/*"))
    print(json.dumps({"rows": rows, "tenths": tenths, "spilled": spilled}))


if __name__ == "__main__":
    stream(sys.argv[1], int(sys.argv[2]))
