"""What runs on the local cluster, read from its servers' HTTP interfaces: quick, since neither Ray nor MLflow is
imported, and whole even if one of them does not answer."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import httpx

from cluster.serving_status import applications, endpoints
from cluster.state import ClusterState

_TIMEOUT_S = 10
"""All servers are asked at once, so this is the longest that a status takes."""


def status() -> dict[str, Any]:
    """One JSON-able tree; `cluster` is `up`, `down`, or `broken` (a server has died: `mtp up` starts it anew).

    Keys: cluster, servers (where each is, and whether it runs), nodes, jobs, applications (of Ray Serve), endpoints
    (served versions), models, urls, unreachable (parts that could not be read, with the reason).
    """
    state = ClusterState.load()
    if state is None:
        return {"cluster": "down", **_EMPTY}
    servers = {
        "ray": {"address": state.ray_address, "running": _runs(state, "gcs", "raylet")},
        "dashboard": {"address": state.dashboard_url, "running": _runs(state, "dashboard")},
        "mlflow": {"address": state.mlflow_url, "running": _runs(state, "mlflow")},
    }
    if state.prometheus_url:
        servers["prometheus"] = {"address": state.prometheus_url, "running": _runs(state, "prometheus")}
    if not state.is_healthy():
        return {"cluster": "broken", **_EMPTY, "servers": servers}
    unreachable: dict[str, str] = {}
    found = _read_all(state, unreachable)
    served = found.pop("endpoints") or {}
    rows = endpoints(served)
    return {
        "cluster": "up",
        "servers": servers,
        **{name: rows or [] for name, rows in found.items()},
        "applications": applications(served),
        "endpoints": rows,
        "urls": _urls(state, rows),
        "unreachable": unreachable,
    }


_EMPTY: dict[str, Any] = {
    "servers": {},
    "nodes": [],
    "jobs": [],
    "models": [],
    "applications": [],
    "endpoints": [],
    "urls": {},
    "unreachable": {},
}


def _runs(state: ClusterState, *names: str) -> bool:
    return all(name in state.daemons and state.daemons[name].is_running() for name in names)


def _read_all(state: ClusterState, unreachable: dict[str, str]) -> dict[str, Any]:
    """What each server knows; None for a part that could not be read."""
    headers = {"Authorization": f"Bearer {state.token()}"}
    with (
        httpx.Client(base_url=state.dashboard_url, headers=headers, timeout=_TIMEOUT_S) as ray,
        httpx.Client(base_url=state.mlflow_url, timeout=_TIMEOUT_S) as mlflow,
        ThreadPoolExecutor() as threads,
    ):
        parts: dict[str, Callable[[], Any]] = {
            "nodes": lambda: _nodes(ray),
            "jobs": lambda: _jobs(ray),
            "models": lambda: _models(mlflow),
            "endpoints": lambda: _get(ray, "/api/serve/applications/"),
        }
        asked = {name: threads.submit(_read, name, read, unreachable) for name, read in parts.items()}
        return {name: answer.result() for name, answer in asked.items()}


def _read(name: str, read: Callable[[], Any], unreachable: dict[str, str]) -> Any:
    try:
        return read()
    except (httpx.HTTPError, ValueError, KeyError) as error:
        unreachable[name] = f"{type(error).__name__}: {error}"
        return None


def _urls(state: ClusterState, served: list[dict[str, Any]]) -> dict[str, str]:
    """Where to look and ask."""
    urls = {"dashboard": state.dashboard_url, "MLflow": state.mlflow_url}
    if state.prometheus_url:
        urls["Prometheus"] = state.prometheus_url
    for row in served:
        if row["url"]:
            urls |= {"endpoint": f"{row['url']}/v1", "playground": row["url"], "metrics": f"{row['url']}/metrics"}
    return urls


def _get(client: httpx.Client, path: str) -> Any:
    return client.get(path).raise_for_status().json()


def _nodes(ray: httpx.Client) -> list[dict[str, Any]]:
    nodes = []
    for node in _get(ray, "/nodes?view=summary")["data"]["summary"]:
        raylet = node["raylet"]
        resources = raylet.get("resourcesTotal", {})
        nodes.append(
            {
                "address": node.get("ip"),
                "head": bool(raylet.get("isHeadNode")),
                "state": str(raylet.get("state", "unknown")).lower(),
                "cpus": resources.get("CPU", 0),
                "gpus": resources.get("GPU", 0),
                "cpu_percent": node.get("cpu"),
                "memory_used_percent": node["mem"][2] if node.get("mem") else None,
            }
        )
    return nodes


def _jobs(ray: httpx.Client) -> list[dict[str, Any]]:
    """Newest first, as cluster.submit.list_jobs has them."""
    sent = [job for job in _get(ray, "/api/jobs/") if job.get("submission_id")]
    return [
        {
            "id": job["submission_id"],
            "job": (job.get("metadata") or {}).get("job"),
            "status": job["status"].lower(),
            "started": datetime.fromtimestamp((job.get("start_time") or 0) / 1000, tz=UTC).isoformat(
                timespec="seconds"
            ),
            "exit_code": job.get("driver_exit_code"),
        }
        for job in sorted(sent, key=lambda job: -(job.get("start_time") or 0))
    ]


def _models(mlflow: httpx.Client) -> list[dict[str, Any]]:
    found = _get(mlflow, "/api/2.0/mlflow/registered-models/search?max_results=100")
    return [
        {
            "name": model["name"],
            "aliases": {alias["alias"]: int(alias["version"]) for alias in model.get("aliases", [])},
            "newest": max((int(version["version"]) for version in model.get("latest_versions", [])), default=None),
        }
        for model in found.get("registered_models", [])
    ]
