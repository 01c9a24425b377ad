"""/metrics: what ray.util.metrics of gateways and replicas has published on every node, on one page.

Each Ray node has an agent that serves its processes' metrics to Prometheus; this page joins the agents' pages, keeps
what is ours and drops the `ray_` that Ray puts before every name. Values are a few seconds old (Ray's reporting
interval). A node that does not answer is left out, and counted.
"""

import asyncio
import re

import httpx
import ray

_TIMEOUT_S = 3.0
_OURS = re.compile(r"^(?:# (?:HELP|TYPE) )?ray_(mtp_\w+)")


async def metrics_page() -> str:
    """In Prometheus' text format."""
    nodes = [node for node in await asyncio.to_thread(ray.nodes) if node["Alive"] and node["MetricsExportPort"]]
    urls = [f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics" for node in nodes]
    async with httpx.AsyncClient(timeout=_TIMEOUT_S) as client:
        pages = await asyncio.gather(*(client.get(url) for url in urls), return_exceptions=True)
    texts = [page.text for page in pages if isinstance(page, httpx.Response) and page.status_code == httpx.codes.OK]
    silent = len(urls) - len(texts)
    lines = [
        "# HELP mtp_metrics_nodes_silent Nodes whose metrics could not be read.",
        "# TYPE mtp_metrics_nodes_silent gauge",
        f"mtp_metrics_nodes_silent {silent}",
    ]
    return "\n".join([*lines, *joined(texts)]) + "\n"


def joined(pages: list[str]) -> list[str]:
    """Our lines of several pages; a family's HELP and TYPE stand once, before its first sample."""
    families: dict[str, list[str]] = {}
    seen: set[str] = set()
    for page in pages:
        family = ""
        for line in page.splitlines():
            match = _OURS.match(line)
            if match is None:
                continue
            line = line.replace("ray_mtp_", "mtp_", 1)
            if line.startswith("#"):
                family = match[1]
                if line in seen:
                    continue
                seen.add(line)
            families.setdefault(family or match[1], []).append(line)
    return [line for lines in families.values() for line in lines]
