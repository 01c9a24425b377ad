from mtp.compare.plan import plan_trainings
from mtp.compare.report import Cell, Table
from mtp.config import load_config, preset_path


def test_a_cell_shows_its_mean_and_spread_over_seeds():
    assert Cell(values=[1.0, 2.0, 3.0], format=".1f").text() == "2.0 ± 1"
    assert Cell(values=[2.0], format=".1f").text() == "2.0"
    assert Cell(values=[]).text() == "-"


def test_a_table_prints_as_markdown():
    table = Table(name="t", title="T", columns=["a", "b"], rows=[["x", Cell(values=[1.5])]], note="n")
    assert table.markdown() == "## T\n\n| a | b |\n| --- | --- |\n| x | 1.5 |\n\nn"


def test_rows_that_mean_the_same_training_share_it():
    config = load_config(preset_path("compare"))
    specs = plan_trainings(config)
    assert len({spec.name for spec in specs}) == len(specs)
    main = next(spec for spec in specs if "MTP sequential" in spec.labels and spec.seed == 0)
    assert {"future tokens = 4", "lambda = 0.3", "schedule = constant", "importance = uniform"} < set(main.labels)
    labels = [label for spec in specs for label in spec.labels if " = " in label]
    assert len(labels) == len(set(labels)) == 4 + 4 + 4 + 4 + 3


def test_all_models_of_a_comparison_read_the_same_data_in_the_same_order():
    config = load_config(preset_path("compare"))
    specs = plan_trainings(config)
    bytewise = [spec for spec in specs if all(label.endswith(", bytes") for label in spec.labels)]
    assert {spec.config.data.path for spec in bytewise} == {config.compare.byte_data}
    assert len({spec.config.data.model_dump_json() for spec in specs if spec not in bytewise}) == 1
    assert len({spec.config.data.model_dump_json() for spec in bytewise}) == 1
    assert len({(spec.config.data.seed, spec.config.data.seq_len) for spec in specs}) == 1
    assert len({(spec.config.train.batch_size, spec.config.compare.tokens) for spec in specs}) == 1
