"""The benchmark's HTTP clients: a stream that does not end well is no measurement."""

import asyncio

import pytest

from mtp.cli.bench.serve_clients import SMOKE, Latencies, connect, stream_once
from mtp.errors import MTPError

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n"


def asked_of(answer):
    """One stream of a server that answers so and closes; what its client waited for."""

    async def run():
        async def serve(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1")
        waits = Latencies()
        async with server, connect(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", 1) as client:
            await stream_once(client, [1], SMOKE, {}, waits)
        return waits

    return asyncio.run(run())


def answer(body):
    return HEAD % len(body) + body


def test_a_whole_stream_is_measured():
    assert len(asked_of(answer(b"data: {}\n\ndata: [DONE]\n\n")).first) == 1


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        (b"", "broke a stream off"),
        (HEAD % 100 + b"data: {}\n\n", "broke a stream off"),
        (answer(b"data: {}\n\n"), "ended early"),
        (b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\n{}", "status 503"),
    ],
)
def test_a_stream_that_breaks_off_ends_the_benchmark_in_one_sentence(sent, told):
    with pytest.raises(MTPError, match=told):
        asked_of(sent)
