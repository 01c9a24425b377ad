"""Training the prediction modules of a finished model anew."""

from pydantic import PositiveInt

from mtp.config.base import Section


class RefreshConfig(Section):
    """`mtp refresh`: the modules alone are trained, on `data`; batch, optimizer and schedule are those of `train`."""

    model: str | None = None
    """Model URI; the command line's argument."""
    steps: PositiveInt = 200
    alias: str = "champion"
    """Moves to the refreshed version if its drafts are accepted more often on held-out text."""
