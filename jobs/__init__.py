"""What a Ray job runs: one short file a job, each with `run(config)`; entry.py gives it a command line."""

JOBS = ("prepare", "train", "evaluate", "compare", "sweep")
"""Names that `mtp NAME` runs here and `mtp submit NAME` runs on a cluster."""
