"""What /metrics and the dashboard show exists, and adds up."""

import json
import re
import time
from pathlib import Path

import pytest

from cluster.dashboard import FOLDER, dashboard
from serve.counter import Counter
from serve.metrics_page import joined
from tests.serve.conftest import value_of, wait_for

SOURCES = [*(Path(__file__).resolve().parents[2] / "serve").glob("*metrics*.py")]
KINDS = {"Counter": ("_total",), "Gauge": ("",), "Histogram": ("_bucket", "_sum", "_count")}


def declared() -> set[str]:
    """Every series that the source files declare, as Prometheus gets it."""
    text = "\n".join(path.read_text() for path in SOURCES)
    found = re.findall(r"(Counter|Gauge|Histogram)\(\s*\"(mtp_\w+)\"", text)
    return {f"ray_{name}{ending}" for kind, name in found for ending in KINDS[kind]}


def test_every_panel_asks_for_series_that_exist_with_labels_that_exist():
    labels = {"model_name", "model_uri", "position", "drafts", "outcome", "path", "status", "le"}
    asked = set()
    for panel in dashboard()["panels"]:
        for target in panel["targets"]:
            asked |= set(re.findall(r"ray_mtp_\w+", target["expr"]))
            grouped = re.findall(r"by \(([^)]*)\)", target["expr"])
            assert {label.strip() for group in grouped for label in group.split(",")} <= labels
    assert asked <= declared()
    assert len(asked) >= 25


def test_the_file_is_what_the_code_writes():
    assert json.loads((FOLDER / "serving.json").read_text()) == dashboard()


def test_pages_of_several_nodes_are_joined_family_by_family():
    one = '# HELP ray_mtp_a A.\n# TYPE ray_mtp_a counter\nray_mtp_a{n="1"} 1\nray_other 3\n'
    two = '# HELP ray_mtp_a A.\n# TYPE ray_mtp_a counter\nray_mtp_a{n="2"} 2\n'
    assert joined([one, two]) == ["# HELP mtp_a A.", "# TYPE mtp_a counter", 'mtp_a{n="1"} 1', 'mtp_a{n="2"} 2']


def test_what_has_not_happened_is_counted_as_nothing(client):
    """A rate of a series that begins with its first event does not show that event, nor an alert a lack of them."""

    def counted():
        page = client.get("/metrics").text
        return re.search(r"^mtp_requests_resumed_total{.*} 0\.0$", page, re.M)

    wait_for(counted, seconds=60)


def test_a_counter_does_not_go_back():
    with pytest.raises(ValueError, match="cannot go back"):
        Counter("mtp_nothing", "Nothing.").inc(-1)


def test_tokens_and_drafts_of_a_request_show_in_the_metrics(client):
    def counts():
        page = client.get("/metrics").text
        return [
            value_of(page, f"mtp_{name}_total") for name in ("generation_tokens", "spec_decode_num_accepted_tokens")
        ]

    def settled():
        """The counts once the tokens of earlier tests have arrived: nodes report every few seconds."""
        seen = [counts()]
        while len(seen) < 3 or seen[-1] != seen[-3]:
            time.sleep(6)
            seen.append(counts())
        return seen[-1]

    before = settled()
    body = {"prompt": "for i in range(10):", "max_tokens": 50, "temperature": 0, "ignore_eos": True}
    body["speculation"] = {"num_draft_tokens": 3}
    usage = client.post("/v1/completions", json=body).json()["usage"]
    accepted = sum(usage["speculation"]["accepted_per_position"])
    wait_for(
        lambda: [after - was for after, was in zip(counts(), before, strict=True)] == pytest.approx([50, accepted])
    )
