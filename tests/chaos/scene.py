"""A training and a loaded endpoint at once, faults done to both, and what must hold afterwards."""

import time
from contextlib import contextmanager

import torch

from cluster.ports import free_ports
from mtp.checkpoint import save_model
from mtp.config import ServeConfig
from mtp.model import MTPModel
from mtp.registry import metric_history, send_spooled
from mtp.train.events import StepDone
from serve.deploy import deploy, undeploy
from tests.chaos.cable import Cable
from tests.chaos.faults import Faults
from tests.chaos.footprint import footprint, grown
from tests.decode.tiny import KINDS, tiny_config
from tests.serve.load import Load
from tests.train.datasets import small_tokenizer
from tests.train.fits import Run, settings

MODEL = "toy"
STEPS = 120
WARM_S = 6
"""Of load, before anything is measured or broken."""


def write_model(folder):
    """A small model with prediction modules."""
    tokenizer = small_tokenizer()
    torch.manual_seed(0)
    model = MTPModel(tiny_config(KINDS["sequential"], vocab_size=tokenizer.vocab_size))
    return save_model(folder, model, tokenizer)


class Scene:
    """What the faults happen to."""

    def __init__(self, state, root):
        self.state, self.root, self.port = state, root, free_ports(1)[0]
        self.url = self.calm = None

    def deploy(self, name, **changes):
        """Two replicas of the model under this name, beside others; the endpoint's URL."""
        values = {"num_replicas": 2, "num_cpus": 0.1, "max_batch_size": 4, **changes}
        return deploy(str(self.root / MODEL), ServeConfig(port=self.port, **values), name=name)

    @contextmanager
    def model(self, name, **changes):
        """Deployed for a while."""
        self.deploy(name, **changes)
        try:
            yield
        finally:
            undeploy(model=name)

    def config(self, name, **changes):
        return settings(self.root, name, **{"steps": STEPS, "faults": {"max_failures": 20}, **changes})

    def train(self, name, uri=None, on_event=lambda event: None, **changes):
        return Run(self.config(name, **changes), uri or self.state.mlflow_url, on_event)

    def disturbed(self, name, seed, faults, *, width, model=MODEL, keeper=None, node=None, **changes):
        """Train `name` under load of `model` while the faults happen; what came of it, as a Disturbed."""
        with Cable(self.state.mlflow_url) as cable, Load(self.url, model, width, pause_s=0.2, max_tokens=24) as load:
            time.sleep(WARM_S)
            before = footprint(self.state)
            doer, due = Faults(seed, self.state, self.config(name, **changes), cable, keeper, node), list(faults)

            def on_event(event):
                while due and isinstance(event, StepDone) and event.step >= due[0].step:
                    doer.do(due.pop(0).name)

            run = self.train(name, cable.url, on_event, **changes)
            cable.mend()
            send_spooled(cable.url)  # as `mtp up` does, if the registry was away until the end
        print("\n".join(doer.done))
        assert not due, f"the training ended before {due}"
        return Disturbed(run, load, grown(before, footprint(self.state), files=20, mib=150), doer.done)

    def assert_same_training(self, run):
        """Each step's loss is the undisturbed one's, digit for digit; the registry has each step once."""
        assert run.losses() == self.calm.losses()
        history = metric_history(run.run_id, uri=self.state.mlflow_url)["train/loss"]
        assert history == sorted(self.calm.losses().items())


class Disturbed:
    """A training and a load after their faults."""

    def __init__(self, run, load, grown, done):
        self.run, self.load, self.grown, self.done = run, load, grown, done
