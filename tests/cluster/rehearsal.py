"""Three hosts, a training and an endpoint across them, and a cable that is pulled: `python -m tests.cluster.rehearsal`

The hosts are network namespaces with a bridge (hosts.py), each with a Ray node: the head, with the driver, the gateway
and the clients, and two that work. Trains once undisturbed, once with a short cut, once with one that costs the node;
then serves the trained model from both workers' hosts, and pulls the cable of one under load. Prints what happened as
figures, and ends with 0 if the loss curves are equal and no request failed. Wants root; takes about ten minutes.
"""

import argparse
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from mtp.config import dump_config
from mtp.errors import MTPError
from tests.cluster.hosts import Hosts
from tests.cluster.rehearsal_node import PORT, Node, environment

WORKERS = (1, 2)
CUT = 2
"""The host whose cable is pulled."""

STEPS = 60
_BEGAN = time.monotonic()


def say(text: str) -> None:
    """A line with the time."""
    print(f"{time.monotonic() - _BEGAN:7.1f} s  {text}", flush=True)


class Rehearsal:
    """The hosts with what runs on them."""

    def __init__(self, hosts: Hosts, folder: Path) -> None:
        self.hosts = hosts
        self.folder = folder
        self.variables = environment(folder)
        self.nodes = [Node(hosts, number, self.variables, cpus=1 if number == 0 else 2) for number in (0, *WORKERS)]

    def start_nodes(self) -> None:
        """The head first."""
        for number, node in enumerate(self.nodes):
            node.start()
            say(f"host {number} ({self.hosts.address(number)}) has a Ray node")

    def on_head(self, *arguments: str) -> subprocess.Popen[str]:
        """A Python process on the head's host; its output is read line by line."""
        variables = {**self.variables, "RAY_ADDRESS": f"{self.hosts.address(0)}:{PORT}"}
        command = self.hosts.command(0, sys.executable, *arguments)
        return subprocess.Popen(
            command, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def cut(self, seconds: float) -> None:
        """Pull the cable of a host for so long."""
        self.hosts.set_cable(CUT, plugged=False)
        say(f"the cable of host {CUT} is pulled")
        time.sleep(seconds)
        self.hosts.set_cable(CUT, plugged=True)
        say(f"the cable is back after {seconds:g} s")

    def watch(self, seen: Callable[[int], None]) -> subprocess.Popen[str]:
        """Tell `seen` how many nodes live whenever that changes."""
        process = self.on_head("-m", "tests.cluster.rehearsal_parts", "watch")

        def read() -> None:
            for line in process.stdout or ():
                if line.startswith("alive "):
                    seen(int(line.split()[1]))

        threading.Thread(target=read, daemon=True).start()
        return process

    def train(self, name: str, cut_s: float | None = None) -> dict[int, float]:
        """A training with one worker on each working host; its losses by step."""
        from tests.train.fits import new_run, settings

        say(f"training {name!r} begins")
        many = {"steps": STEPS, "checkpoint": {"every_steps": 5}, "cpus_per_worker": 1.5}
        file = self.folder / f"{name}.yaml"
        file.write_text(dump_config(settings(self.folder, name, **many)))
        driver = self.on_head("-m", "tests.train.driver", str(file), new_run(self.variables["MLFLOW_TRACKING_URI"]))
        losses: dict[int, float] = {}
        last, pause, replayed, cutting = time.monotonic(), 0.0, 0, None
        for line in driver.stdout or ():
            step = re.match(r"StepDone\(step=(\d+).*'train/loss': ([\d.e+-]+)", line)
            if step is None:
                if line.startswith(("Planned", "Notice", "error")) or "Traceback" in line:
                    say(line.strip()[:150])
                continue
            number, now = int(step[1]), time.monotonic()
            pause = max(pause, now - last) if losses else 0.0
            last = now
            replayed += number in losses
            losses[number] = float(step[2])
            if cut_s is not None and cutting is None and number >= STEPS // 4:
                cutting = threading.Thread(target=self.cut, args=(cut_s,))
                cutting.start()
        if cutting is not None:
            cutting.join()
        code = driver.wait()
        say(
            f"training {name!r}: exit code {code}, {len(losses)} steps, {replayed} of them twice, "
            f"longest pause {pause:.1f} s"
        )
        return losses

    def serve(self, model_dir: str, cut_s: float) -> int:
        """An endpoint with a replica on each working host, under load while a cable is pulled; how many failed."""
        deployed = self.on_head("-m", "tests.cluster.rehearsal_parts", "deploy", model_dir)
        said = deployed.communicate()[0].strip()
        url = said.splitlines()[-1]
        if deployed.returncode:
            raise MTPError(f"the model was not deployed: {said[-600:]}")
        say(f"the endpoint answers at {url} (on the head's host)")
        load = self.on_head("-m", "tests.cluster.rehearsal_parts", "load", url, Path(model_dir).name)
        time.sleep(10)
        self.cut(cut_s)
        time.sleep(30)
        said = load.communicate(input="stop\n")[0].strip()
        say(f"under load: {said}")
        return int(said.rpartition("failed=")[2].split()[0])


def main(arguments: list[str]) -> int:
    """The whole."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", type=float, default=10, help="Seconds of the cut that costs nothing but time.")
    parser.add_argument("--long", type=float, default=100, help="Seconds of those that cost the node.")
    parser.add_argument("--no-training", action="store_true", help="Train once, undisturbed, for the endpoint.")
    parser.add_argument("--no-serving", action="store_true")
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="hosts-") as name, Hosts(3, Path(name)) as hosts:
        from tests.train.datasets import write_dataset

        folder = Path(name)
        write_dataset(folder / "data")
        rehearsal = Rehearsal(hosts, folder)
        rehearsal.start_nodes()
        alive = rehearsal.watch(lambda count: say(f"Ray counts {count} living nodes"))
        try:
            through = rehearsal.train("undisturbed")
            bad = len(through) != STEPS
            for kind, seconds in (("short-cut", asked.short), ("long-cut", asked.long)):
                if not asked.no_training:
                    same = rehearsal.train(kind, seconds) == through
                    say(f"its loss curve is {'equal to' if same else 'NOT'} the undisturbed one, digit for digit")
                    bad |= not same
            if not asked.no_serving:
                bad |= rehearsal.serve(str(folder / "runs" / "undisturbed" / "model"), asked.long) > 0
        finally:
            alive.kill()
            for node in rehearsal.nodes:
                node.stop()
    return int(bad)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _interrupt)  # so that the hosts go, whoever ends this
    try:
        sys.exit(main(sys.argv[1:]))
    except MTPError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
