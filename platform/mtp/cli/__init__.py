"""Layer 5: the `mtp` command line. One file a group of commands; heavy libraries are imported when a command runs."""

import os
import signal
import sys
from types import FrameType

from mtp.errors import MTPError


def main() -> None:
    """Entry point of the console script: runs a command and turns its outcome into an exit code."""
    from mtp.cli.app import app, debugging

    # A thread that waits for its team spins for some tenths of a millisecond, then sleeps: sleeping at once costs the
    # training step 40 % of its speed, spinning without end takes the cores from the processes beside it. Inherited by
    # Ray's workers, and read when torch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "30000")
    signal.signal(signal.SIGTERM, _interrupt)  # so that what a command started is stopped, as on Ctrl-C
    try:
        app()
    except MTPError as error:
        if debugging():
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
