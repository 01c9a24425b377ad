"""What became of a sweep's trials, kept beside their runs, so that a sweep started again goes on.

Knows one JSON file on any pyarrow filesystem; knows nothing of how trials run.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from mtp.data.storage import Location
from mtp.errors import MTPError

FILE_NAME = "sweep.json"


class TrialRecord(BaseModel):
    """A trial that ended."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    values: dict[str, Any]
    status: Literal["finished", "failed"]
    run_id: str | None = None
    """Its MLflow run, if it got as far."""
    value: float | None = None
    """Of the sweep's metric."""
    metrics: dict[str, float] = {}
    error: str = ""
    seconds: float = 0.0


class SweepRecord(BaseModel):
    """The content of sweep.json."""

    model_config = ConfigDict(extra="forbid")
    parent_run_id: str | None = None
    trials: dict[str, TrialRecord] = {}
    """By name, in the order in which they ended."""

    @classmethod
    def read(cls, folder: Location) -> "SweepRecord":
        """What `folder` remembers; an empty record where there is none.

        Raises:
            MTPError: the file is damaged.
        """
        place = folder / FILE_NAME
        if not place.exists():
            return cls()
        try:
            return cls.model_validate_json(place.read())
        except ValidationError:
            raise MTPError(f"{place} is damaged; remove it, or choose another sweep.name") from None

    def write(self, folder: Location) -> None:
        """Replace the file as a whole."""
        (folder / FILE_NAME).write(self.model_dump_json(indent=1).encode())

    def finished(self, name: str) -> bool:
        """Whether the trial needs no other run."""
        return name in self.trials and self.trials[name].status == "finished"
