"""A command on a leash: `python leash.py FOLDER COMMAND...` ends it and its children when stdin closes, or on SIGTERM.

Whoever holds the other end of the pipe closes it even by being killed, so nothing that it started outlives it. FOLDER,
the command's private one, is removed last. Standard library alone, since it is started by its path.
"""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time

GRACE_S = 10.0
"""Between asking and killing."""


def main(folder: str, command: list[str]) -> int:
    """The command's exit code, or minus the signal that ended it."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    signal.signal(signal.SIGTERM, lambda number, frame: _signal(process.pid, signal.SIGTERM))
    threading.Thread(target=_end_with_stdin, args=(process.pid,), daemon=True).start()
    code = process.wait()
    _signal(process.pid, signal.SIGKILL)  # what it may have left behind
    shutil.rmtree(folder, ignore_errors=True)
    return code


def _end_with_stdin(group: int) -> None:
    while os.read(0, 1024):
        pass
    _signal(group, signal.SIGTERM)
    time.sleep(GRACE_S)
    _signal(group, signal.SIGKILL)


def _signal(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
