"""The panels of the endpoint's dashboard: title, unit, and queries with their legends."""

from cluster.dashboard_panel import Panel

RATE = 'sum(rate(ray_{name}{{model_name=~"$model"}}[$__rate_interval])) by ({by})'
QUANTILE = 'histogram_quantile({q}, sum(rate(ray_{name}_bucket{{model_name=~"$model"}}[$__rate_interval])) by (le))'
SUM = 'sum(ray_{name}{{model_name=~"$model"}}) by ({by})'


def rate(name: str, by: str = "model_name") -> str:
    """Of a counter (Prometheus knows it with `_total`)."""
    return RATE.format(name=f"{name}_total", by=by)


def quantiles(name: str) -> list[tuple[str, str]]:
    """p50 and p99 of a histogram."""
    return [(f"p{round(100 * q)}", QUANTILE.format(q=q, name=name)) for q in (0.5, 0.99)]


def gauge(name: str, by: str = "model_name") -> str:
    """Of all replicas together."""
    return SUM.format(name=name, by=by)


PANELS: list[Panel] = [
    (
        "HTTP answers",
        "reqps",
        [("{{path}} {{status}}", "sum(rate(ray_mtp_http_requests_total[$__rate_interval])) by (path, status)")],
    ),
    ("Generation requests by outcome", "reqps", [("{{outcome}}", rate("mtp_request_success", "outcome"))]),
    ("Time to first token", "s", quantiles("mtp_time_to_first_token_seconds")),
    ("Between tokens", "s", quantiles("mtp_inter_token_latency_seconds")),
    ("Time per output token", "s", quantiles("mtp_time_per_output_token_seconds")),
    ("End to end", "s", quantiles("mtp_e2e_request_latency_seconds")),
    ("Waiting for a replica", "s", quantiles("mtp_request_queue_time_seconds")),
    ("Prefill", "s", quantiles("mtp_request_prefill_time_seconds")),
    ("Decoding", "s", quantiles("mtp_request_decode_time_seconds")),
    (
        "Requests",
        "short",
        [
            ("at the gateways {{model_name}}", gauge("mtp_gateway_requests_active")),
            ("running {{model_name}}", gauge("mtp_num_requests_running")),
            ("waiting {{model_name}}", gauge("mtp_num_requests_waiting")),
        ],
    ),
    (
        "Tokens",
        "short",
        [
            ("in {{model_name}}", rate("mtp_prompt_tokens")),
            ("generated {{model_name}}", rate("mtp_generation_tokens")),
            ("sent {{model_name}}", rate("mtp_completion_tokens")),
        ],
    ),
    (
        "Tokens per step",
        "short",
        [("{{model_uri}}", 'avg(ray_mtp_tokens_per_step{model_name=~"$model"}) by (model_uri)')],
    ),
    (
        "Acceptance by position",
        "percentunit",
        [
            (
                "position {{position}}",
                f"{rate('mtp_spec_decode_num_accepted_tokens_per_pos', 'position')} / ignoring(position) group_left "
                f'sum(rate(ray_mtp_spec_decode_num_drafts_total{{model_name=~"$model"}}[$__rate_interval]))',
            )
        ],
    ),
    ("Drafts chosen a step (K)", "short", [("K = {{drafts}}", rate("mtp_spec_decode_steps", "drafts"))]),
    (
        "Drafted and accepted",
        "short",
        [
            ("drafted", rate("mtp_spec_decode_num_draft_tokens")),
            ("accepted", rate("mtp_spec_decode_num_accepted_tokens")),
        ],
    ),
    (
        "Cache in use",
        "percentunit",
        [("{{model_uri}}", 'avg(ray_mtp_kv_cache_usage_perc{model_name=~"$model"}) by (model_uri)')],
    ),
    (
        "Prefix cache hits",
        "percentunit",
        [("{{model_name}}", f"{rate('mtp_prefix_cache_hits')} / {rate('mtp_prefix_cache_queries')}")],
    ),
    (
        "Preempted and resumed requests",
        "short",
        [("preempted", rate("mtp_num_preemptions")), ("resumed elsewhere", rate("mtp_requests_resumed"))],
    ),
]

VARIABLES = {"model": "label_values(ray_mtp_num_requests_running, model_name)"}
"""What can be chosen at the top of the page, and where its values are from."""
