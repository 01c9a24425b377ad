"""Follows the registry: rolls in the version that an alias has moved to, and writes back what serving measures.

One process in the cluster. A version that does not come up leaves the old one serving; the endpoint then says why
(`note` in /v1/models), and the same version is not tried again. While the registry is down, serving goes on.
"""

import logging
import threading
import time

from ray import serve

from mtp.decode import DecodeStats
from mtp.errors import MTPError
from mtp.registry import record_production, resolve_version
from serve.deploy import current, deploy, note_failure
from serve.gateway import Route

logger = logging.getLogger("mtp.follower")
ENOUGH_STEPS = 200
"""Fewer steps than these say little; they are added to the next report."""


class Follower:
    """A thread that looks every few seconds."""

    def __init__(self, app_name: str, period_s: float, telemetry_minutes: float) -> None:
        self._app_name = app_name
        self._period_s = period_s
        self._report_s = telemetry_minutes * 60
        self._failed: set[tuple[str, str]] = set()
        self._unreported: dict[str, DecodeStats] = {}
        self._reported = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="mtp-follower", daemon=True)
        self._thread.start()

    def check_health(self) -> None:
        """Ray Serve replaces the process when this raises."""
        if not self._thread.is_alive():
            raise RuntimeError("the follower's thread has ended")

    def _run(self) -> None:
        while True:
            time.sleep(self._period_s)
            try:
                routes = current(self._app_name).routes
                for route in routes:
                    if route.follows is not None:
                        self._follow(route, route.follows)
                if time.monotonic() - self._reported > self._report_s:
                    self._reported = time.monotonic()
                    self._report(routes)
            except MTPError as error:
                logger.warning("%s", error)
            except Exception:
                logger.exception("could not look after the endpoint; trying again")

    def _follow(self, route: Route, alias_uri: str) -> None:
        newest = resolve_version(alias_uri, route.tracking_uri)
        if newest == route.uri or (route.name, newest) in self._failed:
            return
        share = route.weight if self._is_canary(route) else None
        try:
            deploy(alias_uri, route.config, route.tracking_uri, name=route.name, canary_percent=share)
        except MTPError as error:
            self._failed.add((route.name, newest))
            note_failure(self._app_name, route.name, f"{newest} is not served, {route.uri} goes on: {error}")
            raise

    def _is_canary(self, route: Route) -> bool:
        same = [one for one in current(self._app_name).routes if one.name == route.name]
        return same[0].app != route.app

    def _report(self, routes: list[Route]) -> None:
        gateway = serve.get_app_handle(self._app_name)
        taken: dict[str, DecodeStats] = gateway.take_telemetry.remote().result(timeout_s=60)
        for uri, stats in taken.items():
            self._unreported.setdefault(uri, DecodeStats()).add(stats)
        trackers = {route.uri: route.tracking_uri for route in routes if route.uri.startswith("models:/")}
        for uri, stats in list(self._unreported.items()):
            if uri not in trackers:
                del self._unreported[uri]
            elif stats.target_passes >= ENOUGH_STEPS:
                record_production(
                    uri,
                    tokens=stats.tokens,
                    steps=stats.target_passes,
                    drafted=stats.drafted_per_position,
                    accepted=stats.accepted_per_position,
                    uri=trackers[uri],
                )
                del self._unreported[uri]
