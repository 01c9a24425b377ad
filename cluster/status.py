"""What runs on the local cluster, read from its servers' HTTP interfaces: quick, since neither Ray nor MLflow is
imported, and whole even if one of them does not answer."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import httpx

from cluster.state import ClusterState

_TIMEOUT_S = 10


def status() -> dict[str, Any]:
    """One JSON-able tree; `cluster` is `up`, `down`, or `broken` (a server has died: `mtp up` starts it anew).

    Keys: cluster, servers (where each is, and whether it runs), nodes, jobs, applications, models, unreachable
    (parts that could not be read, with the reason).
    """
    state = ClusterState.load()
    if state is None:
        return {"cluster": "down", **_EMPTY}
    servers = {
        "ray": {"address": state.ray_address, "running": _runs(state, "gcs", "raylet")},
        "dashboard": {"address": state.dashboard_url, "running": _runs(state, "dashboard")},
        "mlflow": {"address": state.mlflow_url, "running": _runs(state, "mlflow")},
    }
    if not state.is_healthy():
        return {"cluster": "broken", **_EMPTY, "servers": servers}
    unreachable: dict[str, str] = {}
    headers = {"Authorization": f"Bearer {state.token()}"}
    with (
        httpx.Client(base_url=state.dashboard_url, headers=headers, timeout=_TIMEOUT_S) as ray,
        httpx.Client(base_url=state.mlflow_url, timeout=_TIMEOUT_S) as mlflow,
    ):
        parts: dict[str, Callable[[], list[dict[str, Any]]]] = {
            "nodes": lambda: _nodes(ray),
            "jobs": lambda: _jobs(ray),
            "applications": lambda: _applications(ray),
            "models": lambda: _models(mlflow),
        }
        found = {name: _read(name, read, unreachable) for name, read in parts.items()}
    return {"cluster": "up", "servers": servers, **found, "unreachable": unreachable}


_EMPTY: dict[str, Any] = {
    "servers": {},
    "nodes": [],
    "jobs": [],
    "applications": [],
    "models": [],
    "unreachable": {},
}


def _runs(state: ClusterState, *names: str) -> bool:
    return all(name in state.daemons and state.daemons[name].is_running() for name in names)


def _read(name: str, read: Callable[[], list[dict[str, Any]]], unreachable: dict[str, str]) -> list[dict[str, Any]]:
    try:
        return read()
    except httpx.HTTPError as error:
        unreachable[name] = f"{type(error).__name__}: {error}"
        return []


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


def _applications(ray: httpx.Client) -> list[dict[str, Any]]:
    """The gateway, which alone has a URL, and what works behind it: one application for each version, the follower."""
    found = _get(ray, "/api/serve/applications/")
    options = found.get("http_options") or {}
    base = f"http://{options.get('host')}:{options.get('port')}"
    return [
        {
            "name": name,
            "status": application["status"].lower(),
            "url": f"{base}{application['route_prefix']}".rstrip("/") if application.get("route_prefix") else None,
            "message": application.get("message") or None,
            "replicas": sum(len(one.get("replicas", [])) for one in application.get("deployments", {}).values()),
        }
        for name, application in found.get("applications", {}).items()
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
