import io

import pytest
import torch

from mtp.config.objective import ImportanceConfig, LambdaConfig
from mtp.evaluate import acceptance_figure, agreement_figure, importance_figure, loss_figure, schedule_figure

HISTORY = {
    **{f"train/loss_h{k}": [(0, 8.0), (100, 4.0 + k)] for k in (1, 2, 3)},
    **{f"eval/loss_h{k}": [(100, 4.5 + k)] for k in (1, 2, 3)},
    **{f"train/agreement_h{k}": [(0, 0.0), (100, 0.5)] for k in (2, 3)},
    "train/lr": [(0, 1.0)],
}


def labels(figure):
    return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def drawn(figure):
    return {
        line.get_label(): line.get_xydata().tolist() for line in figure.axes[0].get_lines() if len(line.get_xdata())
    }


def assert_readable(figure):
    """Titled, axes labelled, and a real PNG."""
    (axes,) = figure.axes
    assert axes.get_title(loc="left")
    assert axes.get_xlabel()
    assert axes.get_ylabel()
    png = io.BytesIO()
    figure.savefig(png, format="png")
    assert png.getvalue().startswith(b"\x89PNG")


def test_the_loss_figure_shows_every_horizon_in_training_and_held_out():
    figure = loss_figure(HISTORY)
    assert drawn(figure)["horizon 2"] == [[0, 8.0], [100, 6.0]]
    assert drawn(figure)["horizon 3, held out"] == [[100, 7.5]]
    assert len(labels(figure)) == 6
    assert_readable(figure)


def test_the_agreement_figure_starts_at_horizon_two():
    figure = agreement_figure(HISTORY)
    assert labels(figure) == ["horizon 2", "horizon 3"]
    assert_readable(figure)


def test_a_history_without_the_metric_gives_an_empty_figure():
    assert drawn(agreement_figure({"train/loss_h1": [(0, 1.0)]})) == {}


def test_the_acceptance_figure_labels_each_position():
    figure = acceptance_figure([0.8, 0.5, 0.25], [0.8, 0.6, 0.5])
    assert [text.get_text() for text in figure.axes[0].texts] == ["80%", "50%", "25%"]
    assert_readable(figure)


def test_the_schedule_figure_draws_lambda_as_training_uses_it():
    config = LambdaConfig.model_validate({"schedules": [{"kind": "curriculum", "starts": [0, 50]}]})
    figure = schedule_figure(config, n_future=3, total_steps=100, tokens_per_step=10)
    line = dict(map(tuple, drawn(figure)["horizon 3"]))
    assert (line[49], line[50]) == (0.0, 0.3)
    assert_readable(figure)


@pytest.mark.parametrize("horizons", [1, 8])
def test_up_to_eight_horizons_have_colours_of_their_own(horizons):
    history = {f"train/loss_h{k}": [(0, 1.0), (1, 1.0)] for k in range(1, horizons + 1)}
    lines = loss_figure(history).axes[0].get_lines()
    assert len({line.get_color() for line in lines}) == horizons


def test_the_importance_figure_draws_the_weights_of_the_tokens_that_occur_by_rank():
    config = ImportanceConfig(kind="content_words", function_word_weight=0.5)
    figure = importance_figure(config, torch.tensor([10, 40, 0]), ["tree", "the", "unseen"])
    (_, first), (_, second) = figure.axes[0].get_lines()[0].get_xydata().tolist()
    assert second == pytest.approx(2 * first)
    assert [text.get_text() for text in figure.axes[0].texts] == ["the", "tree"]
    assert_readable(figure)
