"""What the rehearsal runs on the head's host: `python -m tests.cluster.rehearsal_parts watch|deploy DIR|load URL NAME`.

Each is a process there, since only those reach the hosts' network.
"""

import sys
import threading
import time

import httpx

WIDTH = 4


def watch() -> None:
    """Print how many nodes live whenever that changes, until killed."""
    import ray

    ray.init(logging_level="error", log_to_driver=False)
    before = -1
    while True:
        alive = sum(node["Alive"] for node in ray.nodes())
        if alive != before:
            print(f"alive {alive}", flush=True)
        before = alive
        time.sleep(0.5)


def deploy(model_dir: str) -> None:
    """A replica that fills each working host, so that the gateway is on the head's."""
    import ray

    from mtp.config import ServeConfig
    from serve.deploy import deploy as start

    ray.init(namespace="mtp", logging_level="error", log_to_driver=False)
    print(start(model_dir, ServeConfig(num_replicas=2, num_cpus=2, max_batch_size=4), on_note=print), flush=True)


def load(url: str, model: str) -> None:
    """Streams, one after the other in each of a few threads, until a line is read; then one line of figures."""
    from tests.serve.load import GREEDY, stream

    took: list[float] = []
    texts: list[str] = []
    faults: list[str] = []
    stop = threading.Event()

    def run() -> None:
        with httpx.Client(base_url=url, timeout=180) as client:
            while not stop.is_set():
                began = time.monotonic()
                try:
                    texts.append(
                        stream(
                            client, {**GREEDY, "model": model, "max_tokens": 24, "speculation": {"num_draft_tokens": 2}}
                        )
                    )
                except Exception as error:
                    faults.append(repr(error)[:200])
                took.append(time.monotonic() - began)

    threads = [threading.Thread(target=run) for _ in range(WIDTH)]
    for thread in threads:
        thread.start()
    sys.stdin.readline()
    stop.set()
    for thread in threads:
        thread.join()
    ordered = sorted(took)
    slow = sum(one > 5 for one in took)
    print(
        f"{len(texts)} streams whole, {len(set(texts))} different texts, median {ordered[len(took) // 2]:.2f} s, "
        f"slowest {ordered[-1]:.1f} s, {slow} above 5 s; {faults[:3]} failed={len(faults)}",
        flush=True,
    )


if __name__ == "__main__":
    {"watch": watch, "deploy": deploy, "load": load}[sys.argv[1]](*sys.argv[2:])
