"""`mtp bench`: figures as ratios between contestants that take turns in one run, beside the machine's own limits.

harness.py runs and compares, machine.py says what the machine can do, report.py is the JSON and the table; every other
file holds one benchmark's contestants.
"""

from mtp.cli.bench.command import register

__all__ = ["register"]
