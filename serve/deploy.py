"""`mtp deploy` and `mtp undeploy`: which versions the endpoint of the cluster serves, under which names.

A new version is started beside the one that serves, probed, and only then given the traffic; the old one finishes
what it has and goes. Whatever fails before that leaves everything as it was. Everything that can be known to fail is
checked first.
"""

import fcntl
import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from mtp.checkpoint import load_model_config
from mtp.config import ServeConfig, home
from mtp.errors import MTPError, UsageError
from mtp.registry import fetch_model, resolve_version, versions
from serve.api_keys import KeyStore
from serve.gateway import GatewayConfig, Route, ingress
from serve.proxy import is_loopback, start_proxy
from serve.tracing import tracing_target
from serve.versions import ONE_LOOP, start_version, stop_version

READY_TIMEOUT_S = 180.0
SETTLE_S = 1.0
"""A request that chose the old version a moment ago reaches it before it stops taking any."""
LOOPBACK = "127.0.0.1"
BESIDE_THE_PROXY = {"node:__internal_head__": 0.001}
"""Where the proxy is, gateways are too: the loss of another node takes none of them, and no answer with it."""

OnNote = Callable[[str], None]


def deploy(
    model_uri: str,
    config: ServeConfig,
    tracking_uri: str | None = None,
    *,
    name: str | None = None,
    canary_percent: float | None = None,
    on_note: OnNote = lambda text: None,
) -> str:
    """Serve `model_uri` and wait until it answers; what was served under the same name is replaced.

    A URI with an alias is followed: when the alias moves, the new version is rolled in (follower.py).

    Args:
        model_uri: a folder, runs:/ID/model, models:/NAME/VERSION or models:/NAME@ALIAS.
        config: of this version's replicas, and of the gateways.
        tracking_uri: of the registry.
        name: under which clients ask for it; default: the registered name, or the folder's.
        canary_percent: give it so much of the traffic of `name`, beside the version that is served.
        on_note: told what the user should know.

    Returns:
        The endpoint's URL, such as http://127.0.0.1:8000.

    Raises:
        UsageError: the model does not exist, the port is taken, or there is nothing to be a canary of.
        MTPError: the model is damaged, or does not come up; what was served goes on.
    """
    tracing_target(config.traces)
    version_uri = resolve_version(model_uri, tracking_uri)
    load_model_config(fetch_model(version_uri, tracking_uri))
    host, store = _host(config, on_note)
    url = start_proxy(config, host)
    with _one_at_a_time():
        told = current(config.app_name)
        route = Route(
            name=name or name_of(model_uri),
            app=start_version(version_uri, name or name_of(model_uri), config, tracking_uri),
            uri=version_uri,
            follows=model_uri if version_uri != model_uri else None,
            tracking_uri=tracking_uri,
            config=config,
            card=card_of(version_uri, tracking_uri),
        )
        routes, replaced = _with(told.routes, route, canary_percent)
        notes = {key: note for key, note in told.notes.items() if key != route.name}
        try:
            _tell(_gateway_config(config, store, routes, notes, host), config)
            _wait_until_ready(url, version_uri)
        except BaseException:
            stop_version(route.app)
            raise
        time.sleep(SETTLE_S)
        for old in replaced:
            stop_version(old.app)
        _follow(routes, config)
    return url


def undeploy(app_name: str = "mtp", model: str | None = None) -> bool:
    """Stop serving `model`, or everything; Ray Serve itself stops with the last one. False if it was not served."""
    from ray import serve

    with _one_at_a_time():
        if app_name not in serve.status().applications:
            return False
        told = current(app_name)
        gone = [route for route in told.routes if model in (None, route.name)]
        left = [route for route in told.routes if route not in gone]
        if model is not None and not gone:
            return False
        if left:
            _tell(told.model_copy(update={"routes": left}), left[0].config)
        else:
            for app in (follower_app(app_name), app_name):
                if app in serve.status().applications:
                    serve.delete(app)
        for route in gone:
            stop_version(route.app, wait=not left)
        if not serve.status().applications:
            serve.shutdown()
    return True


def note_failure(app_name: str, model: str, sentence: str) -> None:
    """Let the endpoint say why a newer version of `model` is not served."""
    with _one_at_a_time():
        told = current(app_name)
        route = next((route for route in told.routes if route.name == model), None)
        if route is not None and told.notes.get(model) != sentence:
            _tell(told.model_copy(update={"notes": {**told.notes, model: sentence}}), route.config)


def current(app_name: str) -> GatewayConfig:
    """What the endpoint serves now."""
    from ray import serve

    if app_name not in serve.status().applications:
        return GatewayConfig()
    return GatewayConfig.model_validate(serve.get_app_handle(app_name).told.remote().result(timeout_s=60))


def name_of(model_uri: str) -> str:
    """The name under which clients ask for a model: the registered one, or the folder's or run's."""
    parts = [part for part in model_uri.split("/") if part]
    if model_uri.startswith("models:/"):
        return parts[1].partition("@")[0]
    return parts[1] if model_uri.startswith("runs:/") else parts[-1]


def follower_app(app_name: str) -> str:
    """The application that follows aliases."""
    return f"{app_name}-follower"


def card_of(version_uri: str, tracking_uri: str | None) -> dict[str, Any]:
    """What the registry knows of a version, for the playground; nothing for a folder."""
    if not version_uri.startswith("models:/"):
        return {}
    name, _, version = version_uri.removeprefix("models:/").partition("/")
    found = next((one for one in versions(name, uri=tracking_uri) if str(one.version) == version), None)
    if found is None:
        return {}
    return {
        "name": found.name,
        "version": found.version,
        "aliases": list(found.aliases),
        "perplexity": found.perplexity,
        "acceptance": list(found.acceptance),
        "tokens_per_step": found.tokens_per_step,
        "run": found.run_id,
        "data": found.data_fingerprint,
        "created": found.created.isoformat(timespec="seconds"),
    }


def _with(routes: list[Route], new: Route, canary_percent: float | None) -> tuple[list[Route], list[Route]]:
    """The routes with `new` in them, and those that it replaces."""
    same = [route for route in routes if route.name == new.name]
    others = [route for route in routes if route.name != new.name]
    if canary_percent is None:
        return [*others, new], same
    if not same:
        stop_version(new.app)
        raise UsageError(f"no version of {new.name} is served yet, so there is nothing to be a canary beside")
    main = same[0].model_copy(update={"weight": 100 - canary_percent})
    return [*others, main, new.model_copy(update={"weight": canary_percent})], same[1:]


def _host(config: ServeConfig, on_note: OnNote) -> tuple[str, KeyStore]:
    """Where to listen: on the loopback address unless there are keys."""
    store = KeyStore(Path(config.api_keys).expanduser().absolute() if config.api_keys else None)
    if is_loopback(config.host) or store.configured():
        return config.host, store
    on_note(
        f"no API key is configured, so the endpoint listens on {LOOPBACK} and not on {config.host}; "
        f"make one with `mtp keys add NAME` and deploy again"
    )
    return LOOPBACK, store


def _gateway_config(
    config: ServeConfig, store: KeyStore, routes: list[Route], notes: dict[str, str], host: str
) -> GatewayConfig:
    return GatewayConfig(
        routes=routes,
        notes=notes,
        keys_file=str(store.path),
        keys_required=not is_loopback(host),
        max_body_bytes=config.max_body_bytes,
        log_prompts=config.log_prompts,
        traces=tracing_target(config.traces),
    )


def _tell(told: GatewayConfig, config: ServeConfig) -> None:
    """Start the gateways, or give the running ones their new routes."""
    from ray import serve

    deployment = serve.deployment(
        ingress(config.cors_origins),
        name="gateway",
        num_replicas=config.num_gateways,
        max_ongoing_requests=10_000,
        max_constructor_retry_count=1,
        graceful_shutdown_timeout_s=30,
        user_config=told.model_dump(mode="json"),
        ray_actor_options={
            "num_cpus": 0,
            "resources": BESIDE_THE_PROXY,
            "runtime_env": {"env_vars": {"OMP_NUM_THREADS": "1", **ONE_LOOP}},
        },
    ).options(version=_code_version(config), _internal=True)  # or every new route would restart all gateways
    try:
        serve.run(deployment.bind(), name=config.app_name, route_prefix="/", blocking=False)
    except RuntimeError as error:
        raise MTPError(f"the gateways did not take up the new routes: {error}") from None


def _code_version(config: ServeConfig) -> str:
    """What a gateway is made of; while it stays the same, running gateways only take up new routes."""
    digest = hashlib.sha256(repr((config.cors_origins, config.num_gateways)).encode())
    for file in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _follow(routes: list[Route], config: ServeConfig) -> None:
    """See to it that a follower runs if any version comes from the registry."""
    from ray import serve

    from serve.follower import Follower

    if not any(route.uri.startswith("models:/") for route in routes):
        return
    if follower_app(config.app_name) in serve.status().applications:
        return
    deployment = serve.deployment(Follower, name="follower", num_replicas=1, ray_actor_options={"num_cpus": 0})
    application = deployment.bind(config.app_name, config.follow_alias_s, config.telemetry_minutes)
    serve.run(application, name=follower_app(config.app_name), route_prefix=None, blocking=False)


def _wait_until_ready(url: str, model_uri: str) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            answer = httpx.get(f"{url}/ready", timeout=5)
            if answer.status_code == httpx.codes.OK:
                served = answer.json()["models"]
                if any(model_uri in uris for uris in served.values()):
                    return
        except httpx.HTTPError:
            pass  # not listening yet; the deadline bounds the wait
        time.sleep(0.1)
    raise MTPError(f"{url}/ready did not answer for {model_uri} within {READY_TIMEOUT_S:.0f} s; see the Ray dashboard")


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Two changes of the routes at once would each forget the other's."""
    home().mkdir(parents=True, exist_ok=True)
    with (home() / "deploy.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
