"""The panels of the data dashboard: how Ray Data feeds trainings."""

from cluster.dashboard_panel import Panel

BY = '{dataset=~"$dataset"}'


def rate(name: str) -> list[tuple[str, str]]:
    """Of each operator of each data set."""
    return [("{{dataset}} {{operator}}", f"sum(rate(ray_data_{name}{BY}[$__rate_interval])) by (dataset, operator)")]


def now(name: str) -> list[tuple[str, str]]:
    """The present value for each operator."""
    return [("{{dataset}} {{operator}}", f"sum(ray_data_{name}{BY}) by (dataset, operator)")]


PANELS: list[Panel] = [
    ("Rows made", "none", rate("output_rows")),
    ("Bytes made", "Bps", rate("output_bytes")),
    ("Rows of tasks", "none", rate("rows_task_outputs_generated")),
    ("Tasks running", "none", now("num_tasks_running")),
    ("Tasks finished", "none", now("num_tasks_finished")),
    ("Tasks failed", "none", now("num_tasks_failed")),
    ("Processors in use", "none", now("cpu_usage_cores")),
    ("Blocks waiting to be read", "none", now("obj_store_mem_internal_outqueue_blocks")),
    ("Bytes in the object store", "bytes", now("current_bytes")),
    ("Bytes spilled to disk", "bytes", now("spilled_bytes")),
    ("Time blocks took to be made", "s", rate("block_generation_time")),
    (
        "Trainings that wait for data",
        "percentunit",
        [("{{run}}", "max(ray_mtp_train_data_wait_fraction) by (run)")],
    ),
    ("Bad shards left out", "none", [("{{run}}", "max(ray_mtp_train_bad_shards) by (run)")]),
]

VARIABLES = {"dataset": "label_values(ray_data_output_rows, dataset)"}
