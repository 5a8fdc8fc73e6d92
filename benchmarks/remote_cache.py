"""Measure the requests and the images per second of a data set at a URL: `python -m benchmarks.remote_cache`.

A web server on loopback, in the same process, answers each request after 50 ms.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import albumentations as A

from flowers.data.datamodule import FlowersDataModule
from flowers.data.tfrecord.index import open_indexes
from flowers.synthetic import Garden, generate
from tests.helpers.object_stores import Server, directory

LATENCY = 0.05
"""Seconds after which the server answers."""


def main() -> None:
    """Print a table of the requests and images/s of three epochs, for a local data set and for one at a URL."""
    with tempfile.TemporaryDirectory() as temporary:
        root, cache = Path(temporary) / "garden", Path(temporary) / "cache"
        generate(Garden(seed=0, train=2048, val=104, test=104, sizes=(192,)), root)
        open_indexes(sorted(root.rglob("*.tfrec")), cache)
        server = Server(directory(root))
        server.latency = LATENCY
        print("| epoch | requests | images/s |\n|---|---|---|")
        for name, place in (("local", str(root)), ("bucket", server.url)):
            measure(name, place, cache, server)
        server.stop()


def measure(name: str, root: str, cache: Path, server: Server) -> None:
    """Print the rows of a data set: for opening it, and for each epoch.

    Args:
        name: the name of the rows.
        root: the data set's directory or URL.
        cache: the directory for cached shards.
        server: counts the requests.
    """
    transform = [A.RandomResizedCrop((128, 128)), A.HorizontalFlip()]
    start, before = time.perf_counter(), server.requests
    data = FlowersDataModule(root, 192, 128, 192, 32, transform, [], cache_dir=str(cache), num_workers=2)
    loader = data.loader("train", training=True)
    print(f"| {name}: opening ({time.perf_counter() - start:.1f} s) | {server.requests - before} | |")
    for epoch in range(3):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        before, batches = server.requests, iter(loader)
        next(batches)  # waits until the workers have started
        start = time.perf_counter()
        count = sum(len(batch["id"]) for batch in batches)
        speed = count / (time.perf_counter() - start)
        print(f"| {name}: epoch {epoch + 1} | {server.requests - before} | {speed:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
