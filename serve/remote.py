"""`mtp deploy --address`: deploys from inside a cluster, as one of its jobs: `python -m serve.remote MODEL_URI`.

Beside the cluster's own nodes nothing has to reach Ray then, only the job server. Knows nothing of models.
"""

import argparse
import sys

from mtp.config import load_config
from mtp.errors import MTPError
from serve.deploy import deploy, undeploy


def main(arguments: list[str]) -> None:
    """Deploy, or with --undeploy stop serving one model or everything.

    Raises:
        UsageError: as deploy.
        MTPError: as deploy.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--config", required=True)
    parser.add_argument("--name")
    parser.add_argument("--canary", type=float)
    parser.add_argument("--undeploy", action="store_true")
    asked = parser.parse_args(arguments)
    settings = load_config(asked.config).serve

    import ray

    ray.init(namespace="mtp", logging_level="warning", configure_logging=False, log_to_driver=False)
    if asked.undeploy:
        stopped = undeploy(settings.app_name, asked.model)
        print(f"{asked.model or settings.app_name} {'is not served any more' if stopped else 'was not served'}")
        return
    url = deploy(asked.model, settings, name=asked.name, canary_percent=asked.canary, on_note=print)
    print(f"{asked.model} answers at {url}, as the head's node sees it", flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except MTPError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
