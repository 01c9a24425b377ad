import json

from mtp.registry import drift, production_of


def test_drift_is_said_in_a_sentence_and_only_when_there_is_enough_to_go_by():
    tags = {
        "production": json.dumps(
            {"at": "2026-01-01T00:00:00+00:00", "tokens": 9, "steps": 5, "acceptance": [0.3], "drafts": 500}
        )
    }
    assert "30% of the time in production, 60% in evaluation" in drift((0.6,), production_of(tags))
    assert drift((0.35,), production_of(tags)) is None
    few = {"production": tags["production"].replace("500", "5")}
    assert drift((0.6,), production_of(few)) is None
