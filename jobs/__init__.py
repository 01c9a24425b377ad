"""What a Ray job runs: one short file a job, each with `run(config)`; entry.py gives it a command line."""
