from collections import Counter

from jobs.train import run
from mtp.config import build_config
from mtp.registry import metric_history
from tests.train.fits import settings

BRIEF = {"max_rows": 16, "prompts": 2, "prompt_tokens": 8, "new_tokens": 8}


def test_the_job_measures_on_the_cluster_and_logs_no_metric_twice_at_one_step(through, root):
    tree = settings(root, "through").model_dump(mode="json")
    config = build_config({**tree, "evaluate": BRIEF, "tracking": {"uri": through.uri, "model_name": "test-job"}})
    first = run(config)
    again = run(config)
    assert (again.version, again.run_id) == (first.version, first.run_id)
    history = metric_history(first.run_id, uri=through.uri)
    twice = {name for name, points in history.items() for step, n in Counter(s for s, _ in points).items() if n > 1}
    assert not twice
    assert history["final/ppl"][-1][1] == first.perplexity != history["eval/ppl"][-1][1]
    assert "eval/acceptance_p1" in history and "system/cpu_utilization_percentage" in history
