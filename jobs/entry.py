"""The command line that every job shares: `python -m jobs.NAME --config FILE [key=value ...]`.

Loads the configuration, joins the Ray cluster that the environment names (a submitted job finds its own), runs the
job, prints its report as JSON on the last line. Knows nothing about what a job does.
"""

import sys
from collections.abc import Callable
from typing import Annotated

import typer
from pydantic import BaseModel

from mtp.config import Config, load_config
from mtp.errors import MTPError

Job = Callable[[Config], BaseModel]


def job_main(run: Job) -> None:
    """Parse the command line, run the job, and exit with its code (0 done, 1 failed, 2 wrong arguments)."""

    def command(
        config: Annotated[str, typer.Option(help="YAML file of the configuration.")],
        overrides: Annotated[list[str] | None, typer.Argument(help="key.sub=value ...")] = None,
    ) -> None:
        import ray

        settings = load_config(config, overrides or ())
        ray.init(logging_level="warning", configure_logging=False, log_to_driver=False)
        print(run(settings).model_dump_json(), flush=True)

    command.__doc__ = sys.modules[run.__module__].__doc__
    try:
        typer.run(command)
    except MTPError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
