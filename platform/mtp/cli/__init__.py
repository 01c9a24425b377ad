"""Layer 5: the `mtp` command line. One file a group of commands; heavy libraries are imported when a command runs."""

import os
import signal
import sys
from types import FrameType

from mtp.errors import MTPError
from mtp.threads import SPIN


def main() -> None:
    """Entry point of the console script: runs a command and turns its outcome into an exit code."""
    from mtp.cli.app import app, debugging

    for name, value in SPIN.items():  # Ray's workers inherit it
        os.environ.setdefault(name, value)
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
