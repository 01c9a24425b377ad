"""vLLM behind the interface of our own engine: the same requests in, the same steps out, the same metrics counted.

Each request is one stream of vLLM's OpenAI server (vllm_server.py), which batches them; a stream that is closed is
aborted there. Knows nothing of how requests and answers are worded (vllm_request.py, vllm_answer.py).
"""

import itertools
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress

import httpx
from prometheus_client.parser import text_string_to_metric_families

from mtp.decode import Request, StepOutput
from mtp.errors import UsageError
from serve.engine_metrics import EngineMetrics, EngineState
from serve.serving_engine import EngineStoppedError
from serve.vllm_answer import steps_of, whole_of
from serve.vllm_request import Offer, body_of, check
from serve.vllm_server import VLLMServer

PATH = "/v1/completions"
PERIOD_S = 1.0
"""How often its metrics are read."""


class VLLMEngine:
    """Has the interface of EngineLoop; for one event loop."""

    def __init__(self, server: VLLMServer, offer: Offer) -> None:
        self._server = server
        self._offer = offer
        self._client = server.async_client()
        self._numbers = itertools.count()
        self._wanted: dict[int, int] = {}
        """By request: the tokens that it still wants, its prompt included until the first has come."""
        self._state = EngineState()
        self._metrics: EngineMetrics | None = None

    @property
    def max_model_len(self) -> int:
        """Most tokens of prompt and output together."""
        return self._offer.max_model_len

    @property
    def cache_use(self) -> float:
        """Share of the cache in use, a second ago at most."""
        return self._state.cache_use

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        return self._server.alive

    def state(self) -> EngineState:
        """What vLLM said last of itself, with the tokens in flight as they are now."""
        return self._state._replace(tokens_in_flight=sum(list(self._wanted.values())))

    def watch(self, metrics: EngineMetrics) -> None:
        """Count steps there, and read vLLM's own metrics every second, as long as it lives."""
        self._metrics = metrics
        threading.Thread(target=self._watch, args=(metrics,), name="mtp-vllm-metrics", daemon=True).start()

    @asynccontextmanager
    async def submit(self, request: Request) -> AsyncIterator[AsyncGenerator[list[StepOutput], None]]:
        """The outputs of `request`; leaving the block early aborts it.

        Raises:
            UsageError: the model or vLLM cannot do what it asks for.
            EngineStoppedError: the server has died, or cannot take up what a lost replica began.
        """
        check(request, self._offer)
        body = body_of(request, self.max_model_len)
        number = next(self._numbers)
        self._wanted[number] = len(body["prompt"]) + body["max_tokens"]
        try:
            async with self._client.stream("POST", PATH, json=body) as response:
                await _require_taken(response)
                steps = steps_of(response.aiter_lines()) if body.get("stream") else _whole(request, response)
                yield self._counted(number, len(body["prompt"]), steps)
        except httpx.TransportError as error:
            raise EngineStoppedError(f"vLLM's server does not answer ({error!r})") from None
        finally:
            del self._wanted[number]

    async def _counted(
        self, number: int, prompt: int, steps: AsyncIterator[StepOutput]
    ) -> AsyncGenerator[list[StepOutput], None]:
        try:
            async for output in steps:
                self._wanted[number] -= prompt + len(output.tokens)
                prompt = 0
                if self._metrics is not None:
                    self._metrics.count([output])
                yield [output]
        except httpx.TransportError as error:
            raise EngineStoppedError(f"vLLM's server does not answer ({error!r})") from None

    def _watch(self, metrics: EngineMetrics) -> None:
        with self._server.client(timeout_s=10) as client:
            while self._server.alive:
                with suppress(httpx.TransportError):  # busy, or about to be found dead
                    self._state = state_of(client.get("/metrics").text)
                metrics.publish()
                time.sleep(PERIOD_S)


def state_of(page: str) -> EngineState:
    """From vLLM's /metrics."""
    names = {
        "vllm:num_requests_running": "running",
        "vllm:num_requests_waiting": "waiting",
        "vllm:num_preemptions_total": "preemptions",
        "vllm:prefix_cache_queries_total": "prefix_queries",
        "vllm:prefix_cache_hits_total": "prefix_hits",
    }
    counts, cache_use = dict.fromkeys(names.values(), 0), 0.0
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            if sample.name in names:
                counts[names[sample.name]] += int(sample.value)
            elif sample.name == "vllm:kv_cache_usage_perc":
                cache_use = max(cache_use, sample.value)
    return EngineState(**counts, cache_use=cache_use)


async def _require_taken(response: httpx.Response) -> None:
    """Pass vLLM's own refusal on."""
    if response.status_code == httpx.codes.OK:
        return
    await response.aread()
    if response.status_code >= httpx.codes.INTERNAL_SERVER_ERROR:
        raise EngineStoppedError(f"vLLM's server answered {response.status_code}: {response.text[:300]}")
    try:
        reason = response.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        reason = response.text[:300]
    raise UsageError(f"vLLM, which serves this model, refuses the request: {reason}")


async def _whole(request: Request, response: httpx.Response) -> AsyncIterator[StepOutput]:
    """The only step of an answer that is not streamed."""
    await response.aread()
    sampling = request.sampling
    yield whole_of(response.json(), list(request.prompt), sampling.max_tokens, sampling.logprobs or 0)
