"""Traces of requests in OpenTelemetry's form, for those who ask for them (`serve.traces`); off by default.

A request's choices keep the times of their steps anyway, so its spans are made when it is over and cost decoding
nothing: `request` with the children `ingress`, `queue`, `prefill` and `decode`, whose events are the steps. A client's
`traceparent` header makes the request part of the client's trace. No span holds a prompt or an output.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from starlette.types import ASGIApp, Receive, Scope, Send

from mtp.errors import UsageError
from serve.choices import Choice

_SDK = "opentelemetry.sdk"
_OTLP = "opentelemetry.exporter.otlp"


class _Arrival(NamedTuple):
    """When a request came, in seconds of time.monotonic(), and its headers of the trace that it belongs to."""

    when: float
    carrier: dict[str, str]


_arrival: ContextVar[_Arrival | None] = ContextVar("mtp_arrival", default=None)


class Arrivals:
    """ASGI middleware that remembers when the request of this task came, and of which trace it is."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] == "http":
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
            carrier = {name: headers[name] for name in ("traceparent", "tracestate") if name in headers}
            _arrival.set(_Arrival(time.monotonic(), carrier))
        await self._app(scope, receive, send)


def tracing_target(target: str | None) -> str | None:
    """`target`, an OTLP address or a file, as gateways can use it; nothing to check for None.

    Raises:
        UsageError: the extra `tracing` is not installed.
    """
    if target is None:
        return None
    if not _installed(_OTLP if _is_address(target) else _SDK):
        raise UsageError("serve.traces needs OpenTelemetry; install it: pip install 'mtp-platform[tracing]'")
    return target if _is_address(target) else str(Path(target).expanduser().absolute())


class Tracer:
    """Of one gateway. Without a target it does nothing."""

    def __init__(self, target: str | None = None) -> None:
        self.target = target
        self._provider: Any = _provider(target) if target is not None else None
        self._tracer = self._provider.get_tracer("mtp.serve") if self._provider else None

    def close(self) -> None:
        """Send what waits to be sent."""
        if self._provider:
            self._provider.shutdown()

    @contextmanager
    def request(self, name: str, uri: str, choices: Sequence[Choice]) -> Iterator[None]:
        """One generation request; its spans are made at the end of the block."""
        began, error = time.monotonic(), None
        try:
            yield
        except BaseException as failure:
            error = failure
            raise
        finally:
            if self._tracer:
                self._make(_Spans(self._tracer), name, uri, choices, began, error)

    def _make(
        self,
        spans: "_Spans",
        name: str,
        uri: str,
        choices: Sequence[Choice],
        began: float,
        error: BaseException | None,
    ) -> None:
        arrival = _arrival.get() or _Arrival(began, {})
        tokens = sum(choice.text.tokens for choice in choices)
        prompt = sum(len(choice.prompt) for choice in choices)
        facts: dict[str, Any] = {"gen_ai.request.model": name, "mtp.model_uri": uri}
        facts |= {"gen_ai.usage.input_tokens": prompt, "gen_ai.usage.output_tokens": tokens}
        parent = spans.root("request", arrival, facts, error)
        spans.child(parent, "ingress", arrival.when, began)
        for choice in choices:
            if choice.taken is None:
                continue
            spans.child(parent, "queue", began, choice.taken, choice.index)
            if choice.arrivals:
                first, last = choice.arrivals[0], choice.arrivals[-1]
                spans.child(parent, "prefill", choice.taken, first, choice.index)
                spans.child(parent, "decode", first, last, choice.index, choice.arrivals)
        spans.end(parent)


class _Spans:
    """Makes spans out of times that have passed."""

    def __init__(self, tracer: Any) -> None:
        self._tracer = tracer
        self._epoch = time.time_ns() - time.monotonic_ns()
        self._end = time.monotonic()

    def root(self, name: str, arrival: _Arrival, facts: dict[str, Any], error: BaseException | None) -> Any:
        from opentelemetry.trace import SpanKind, StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        context = TraceContextTextMapPropagator().extract(arrival.carrier)
        start = self._at(arrival.when)
        span = self._tracer.start_span(name, context, SpanKind.SERVER, facts, start_time=start)
        if error is not None:
            span.set_status(StatusCode.ERROR, type(error).__name__)
        return span

    def child(
        self, parent: Any, name: str, start: float, end: float, choice: int = 0, steps: Sequence[float] = ()
    ) -> None:
        from opentelemetry.trace import set_span_in_context

        facts = {"mtp.choice": choice}
        span = self._tracer.start_span(name, set_span_in_context(parent), attributes=facts, start_time=self._at(start))
        for number, when in enumerate(steps):
            span.add_event("step", {"mtp.step": number}, self._at(when))
        span.end(self._at(end))

    def end(self, span: Any) -> None:
        span.end(self._at(self._end))

    def _at(self, monotonic: float) -> int:
        return int(monotonic * 1e9) + self._epoch


def _provider(target: str) -> Any:
    """Sends spans in the background, some at a time."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import SpanLimits, TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(
        resource=Resource.create({"service.name": "mtp-endpoint"}), span_limits=SpanLimits(max_events=1000)
    )
    provider.add_span_processor(BatchSpanProcessor(_exporter(target), schedule_delay_millis=1000))
    return provider


def _exporter(target: str) -> Any:
    if _is_address(target):
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        return OTLPSpanExporter(endpoint=target)
    from opentelemetry.sdk.trace.export import ConsoleSpanExporter

    file = Path(target).open("a", buffering=1)  # noqa: SIM115  kept open as long as the gateway lives
    return ConsoleSpanExporter(out=file, formatter=lambda span: span.to_json(indent=None) + "\n")


def _is_address(target: str) -> bool:
    return target.startswith(("http://", "https://"))


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # a package above it is absent
        return False
