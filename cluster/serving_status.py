"""What a cluster serves, as the dashboard tells it of Ray Serve: the applications, and the endpoints that they form.

An endpoint's gateway is told its routes by Ray Serve's user_config (serve/gateway.py), which the dashboard shows; so
neither a key nor a working endpoint is needed to see them. Knows nothing of HTTP.
"""

from typing import Any

GATEWAY = "gateway"
"""The deployment that speaks HTTP; each version that it routes to is an application of its own."""


def applications(found: dict[str, Any]) -> list[dict[str, Any]]:
    """One row an application: the gateway, which alone has a URL, and what works behind it (versions, the follower).

    Args:
        found: what the dashboard answers to /api/serve/applications/.
    """
    return [
        {
            "name": name,
            "status": application["status"].lower(),
            "url": _url(found, application),
            "message": application.get("message") or None,
            "replicas": sum(len(one.get("replicas", [])) for one in application.get("deployments", {}).values()),
        }
        for name, application in found.get("applications", {}).items()
    ]


def endpoints(found: dict[str, Any]) -> list[dict[str, Any]]:
    """One row for each version that is served: under which name, with which share of its traffic, by which replicas."""
    by_name = found.get("applications", {})
    rows = []
    for application in by_name.values():
        routes = _told(application).get("routes") or []
        for route in routes:
            behind = by_name.get(route["app"], {})
            running, wanted = _replicas(behind)
            rows.append(
                {
                    "model": route["name"],
                    "version": route["uri"],
                    "follows": route.get("follows"),
                    "share_percent": _share(route, routes),
                    "status": behind.get("status", "absent").lower(),
                    "replicas": running,
                    "replicas_wanted": wanted,
                    "url": _url(found, application),
                    "note": (_told(application).get("notes") or {}).get(route["name"]),
                }
            )
    return rows


def _told(application: dict[str, Any]) -> dict[str, Any]:
    """What the application's gateway was told; nothing for one that is no gateway."""
    deployment = application.get("deployments", {}).get(GATEWAY, {})
    return (deployment.get("deployment_config") or {}).get("user_config") or {}


def _share(route: dict[str, Any], routes: list[dict[str, Any]]) -> float:
    total = sum(one.get("weight", 1.0) for one in routes if one["name"] == route["name"])
    return round(100 * route.get("weight", 1.0) / total, 1) if total else 0.0


def _replicas(application: dict[str, Any]) -> tuple[int, int]:
    """How many run, and how many should."""
    deployments = application.get("deployments", {}).values()
    running = sum(replica.get("state") == "RUNNING" for one in deployments for replica in one.get("replicas", []))
    return running, sum(one.get("target_num_replicas", 0) for one in deployments)


def _url(found: dict[str, Any], application: dict[str, Any]) -> str | None:
    options = found.get("http_options") or {}
    if not application.get("route_prefix"):
        return None
    return f"http://{options.get('host')}:{options.get('port')}{application['route_prefix']}".rstrip("/")
