"""The panels of the trainings' dashboard: what mtp.train.published publishes, and what Ray says beside it."""

from cluster.dashboard_panel import Panel

RUN = '{run=~"$run"}'
WORKERS = '{ray_train_run_name=~"$run"}'


def newest(name: str, by: str = "run") -> str:
    """The newest value of a gauge of the trainer; one training has one, whatever became of its earlier workers."""
    return f"max(ray_mtp_{name}{RUN}) by ({by})"


def per_horizon(name: str) -> list[tuple[str, str]]:
    """One line for each horizon."""
    return [("{{run}} h{{horizon}}", newest(f"{name}_per_horizon", "run, horizon"))]


PANELS: list[Panel] = [
    ("Loss", "none", [("{{run}}", newest("train_loss"))]),
    ("Loss by horizon", "none", per_horizon("train_loss")),
    ("Held-out loss by horizon", "none", per_horizon("eval_loss")),
    ("Held-out perplexity", "none", [("{{run}}", newest("eval_ppl"))]),
    ("Top-1 by horizon", "percentunit", per_horizon("train_top1")),
    ("Agreement with the model's own choice", "percentunit", per_horizon("train_agreement")),
    ("Tokens a decoding step that the heads promise", "none", [("{{run}}", newest("train_predicted_tokens_per_step"))]),
    ("Steps", "none", [("{{run}}", newest("train_step"))]),
    ("Tokens a second", "none", [("{{run}}", newest("train_tokens_per_s"))]),
    ("Model FLOPs utilisation", "percentunit", [("{{run}}", newest("train_mfu"))]),
    ("Waiting for data", "percentunit", [("{{run}}", newest("train_data_wait_fraction"))]),
    ("Gradient norm", "none", [("{{run}}", newest("train_grad_norm"))]),
    ("Learning rate", "sci", [("{{run}}", newest("train_lr"))]),
    (
        "Skipped steps and loss spikes",
        "none",
        [("skipped {{run}}", newest("train_skipped_steps")), ("spikes {{run}}", newest("train_loss_spikes"))],
    ),
    ("Expert load above the mean", "none", [("{{run}}", newest("train_expert_load_max_violation"))]),
    (
        "State of the controller",
        "none",
        [
            (
                "{{ray_train_run_name}} {{ray_train_controller_state}}",
                f"max(last_over_time(ray_train_controller_state{WORKERS}[$__range]))"
                " by (ray_train_run_name, ray_train_controller_state) > 0",
            )
        ],
    ),
    ("Processors in use", "percent", [("{{ip}}", "avg(ray_node_cpu_utilization) by (ip)")]),
    ("Memory in use", "bytes", [("{{ip}}", "sum(ray_node_mem_used) by (ip)")]),
    ("Disk free", "bytes", [("{{ip}}", "min(ray_node_disk_free) by (ip)")]),
]

VARIABLES = {"run": "label_values(ray_mtp_train_step, run)"}
