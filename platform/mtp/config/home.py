"""The state folder: everything that the platform keeps on this machine lies below it."""

import os
from pathlib import Path


def home() -> Path:
    """`MTP_HOME` if set, else `~/.mtp`; not created here."""
    return Path(os.environ.get("MTP_HOME") or Path.home() / ".mtp").expanduser().absolute()
