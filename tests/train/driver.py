"""A training's driver in a process of its own, for tests that kill it: trains the configuration in a file.

Joins the cluster that its environment names, and prints every event as a line, `repr` of the dataclass. Given a step,
it makes a cluster of two nodes instead, and ends the second one, as a power cut would, when that step is done. Another
node takes its place, unless the word `alone` follows. Its environment must name no cluster then: Ray reads it when it
is imported.
"""

import os
import sys
import threading

import ray

from mtp.config import load_config
from mtp.errors import MTPError
from mtp.train import fit
from mtp.train.events import StepDone


def train(config_file, run_id, on_event=lambda event: None):
    def show(event):
        print(event, flush=True)
        on_event(event)

    uri = os.environ["MLFLOW_TRACKING_URI"]
    try:
        fit(load_config(config_file), run_id=run_id, tracking_uri=uri, on_progress=show)
    except MTPError as error:
        print(f"error: {error}", flush=True)
        return error.exit_code
    return 0


def on_the_cluster(*arguments):
    ray.init(logging_level="warning", log_to_driver=False, configure_logging=False, namespace="mtp")
    return train(*arguments)


def on_two_nodes(config_file, run_id, step, alone):
    """Cluster.add_node wants the main thread, so the training has another."""
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 100 << 20}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    second = cluster.add_node(**node)
    ray.init(address=cluster.address, logging_level="warning", log_to_driver=False, configure_logging=False)
    due, codes = threading.Event(), []

    def look(event):
        if isinstance(event, StepDone) and event.step >= step:
            due.set()

    def run():
        try:
            codes.append(train(config_file, run_id, look))
        finally:
            due.set()

    training = threading.Thread(target=run)
    training.start()
    due.wait()
    cluster.remove_node(second, allow_graceful=False)
    if not alone:
        cluster.add_node(**node)
    training.join()
    ray.shutdown()
    cluster.shutdown()
    return codes[0] if codes else 1


if __name__ == "__main__":
    file, run, *lost = sys.argv[1:]
    sys.exit(on_two_nodes(file, run, int(lost[0]), "alone" in lost) if lost else on_the_cluster(file, run))
