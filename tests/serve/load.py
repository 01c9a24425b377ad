"""Steady load for the tests of faults, and by itself: python -m tests.serve.load URL MODEL [--minutes M]

Streams one after the other in each of `width` threads until stopped; how every one ended is kept. By itself it prints
how many ended well, how the resident memory of the endpoint's replicas went (a line a quarter of a minute), and the
slope of a straight line through it, the first quarter of the time left out.
"""

import argparse
import json
import statistics
import threading
import time

import httpx
import psutil

GREEDY = {
    "prompt": "def f(x):",
    "max_tokens": 80,
    "temperature": 0,
    "ignore_eos": True,
    "speculation": {"num_draft_tokens": 3},
}


BROKEN = ("cut off", "RemoteProtocolError", "ReadError")
"""How a stream that had begun and did not end well is known; others were refused."""


class Load:
    """`texts` of streams that ended well, `faults` of the others; told in a line at the end (pytest -s shows it)."""

    def __init__(self, url, model, width=16, pause_s=0.0, **changes):
        """`pause_s`: how long a thread waits when a stream has failed."""
        self.texts, self.faults = [], []
        self._pause_s = pause_s
        self._url, self._body = url, GREEDY | {"model": model} | changes
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(width)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join(120)
        print(f"\n{len(self._threads)} at a time: {self.figures()}", flush=True)

    def figures(self):
        """How the streams ended."""
        cut = sum(any(sign in fault for sign in BROKEN) for fault in self.faults)
        failed = len(self.faults) - cut
        return (
            f"{len(self.texts)} streams whole, {failed} failed, {cut} cut off, {len(set(self.texts))} different texts"
        )

    def _run(self):
        with httpx.Client(base_url=self._url, timeout=120) as client:
            while not self._stop.is_set():
                try:
                    self.texts.append(stream(client, self._body))
                except Exception as error:
                    self.faults.append(repr(error))
                    self._stop.wait(self._pause_s)


def stream(client, body):
    """The text of a stream that came whole."""
    with client.stream("POST", "/v1/completions", json=body | {"stream": True}) as response:
        if response.status_code != httpx.codes.OK:
            raise RuntimeError(f"status {response.status_code}: {response.read()[:200]!r}")
        lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    if lines[-1] != "[DONE]":
        raise RuntimeError(f"cut off: {lines[-1]}")
    return "".join(json.loads(line)["choices"][0]["text"] for line in lines[:-1])


def replica_memory():
    """Resident MiB of every Ray Serve replica of an engine on this machine."""
    found = {}
    for process in psutil.process_iter(["cmdline", "memory_info"]):
        title = " ".join(process.info["cmdline"] or ())
        if "ServeReplica" in title and ":replica" in title:
            found[process.pid] = process.info["memory_info"].rss / 2**20
    return found


def slope(seen, pid):
    """MiB a second, by least squares over the times at which `pid` was seen."""
    known = [(when, sizes[pid]) for when, sizes in seen if pid in sizes]
    return statistics.linear_regression(*zip(*known, strict=True)).slope if len(known) > 1 else float("nan")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("model")
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--width", type=int, default=16)
    arguments = parser.parse_args()
    begin = time.monotonic()
    seen = []
    with Load(arguments.url, arguments.model, arguments.width) as load:
        while time.monotonic() < begin + 60 * arguments.minutes:
            time.sleep(15)
            sizes = replica_memory()
            seen.append((time.monotonic() - begin, sizes))
            memory = ", ".join(f"{size:.1f}" for size in sizes.values())
            print(f"{len(load.texts)} whole, {len(load.faults)} failed; replicas' MiB: {memory}", flush=True)
    for pid in seen[-1][1]:
        print(f"replica {pid}: {60 * slope(seen[len(seen) // 4 :], pid):+.3f} MiB a minute")
    for fault in load.faults[:5]:
        print(fault)


if __name__ == "__main__":
    main()
