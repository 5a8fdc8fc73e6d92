"""Measure what a training loses to W&B's server: `python -m benchmarks.wandb_overhead [OVERRIDE ...]`.

The same training offline, and with a server that refuses, hangs, vanishes or hangs at the end: its seconds, those that
were spent in W&B's calls, and what is on disk afterwards.
"""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from threading import Timer
from typing import Any

from flowers.training import loggers
from tests.helpers.wandb_server import WandbServer, read_records

ROOT = Path(__file__).parents[1]
WAITED = "Waited for W&B: "


def main(overrides: list[str]) -> None:
    print("| server | seconds | in W&B's calls | of a training | metrics.json | history, end in the .wandb file |")
    print("|---|---|---|---|---|---|")
    without, *_ = train(None, 0.0, overrides)  # to warm up
    for fault in (None, "refuses", "hangs", "vanishes", "hangs at the end"):
        seconds, waited, kept = train(fault, without, overrides)
        without = seconds if fault is None else without
        share = f"{100 * waited / without:.1f} %"
        print(f"| {fault or 'not asked'} | {seconds:.1f} | {waited:.2f} s | {share} | {kept} |", flush=True)


def train(fault: str | None, expected: float, overrides: list[str]) -> tuple[float, float, str]:
    """Train in a process of its own, offline if there is no fault; its seconds, those in W&B's calls, what is left."""
    server = WandbServer("hang" if fault == "hangs" else "answer")
    if fault == "refuses":
        server.vanish()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    environment |= server.environment() if fault else {"WANDB_MODE": "offline"}
    with tempfile.TemporaryDirectory() as temporary:
        run = Path(temporary) / "run"
        command = [sys.executable, "-m", "benchmarks.wandb_overhead", "--child", *overrides, f"hydra.run.dir={run}"]
        timer = Timer(0.9 * expected if fault == "hangs at the end" else 0.5 * expected, lambda: fail(fault, server))
        start = time.monotonic()
        timer.start()
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        seconds = time.monotonic() - start
        timer.join()
        waited = float(done.stderr.partition(WAITED)[2].split()[0])
        print(*(line for line in done.stderr.splitlines() if line.startswith("W&B:")), sep="\n", file=sys.stderr)
        records = read_records(next(run.glob("wandb/*run-*")))
        history = sum(record.HasField("history") for record in records)
        end = [record.exit.exit_code for record in records if record.HasField("exit")]
        kept = f"{'yes' if (run / 'metrics.json').is_file() else 'no'} | {history}, {end}"
    if not server.closed.is_set():
        server.vanish()
    return seconds, waited, kept


def fail(fault: str | None, server: WandbServer) -> None:
    if fault == "vanishes":
        server.vanish()
    elif fault == "hangs at the end":
        server.behaviour = "hang"


def child(arguments: list[str]) -> None:
    """Train, and print how long W&B's calls at the run's start and end took."""
    total = 0.0

    def timed(call: Callable[..., Any]) -> Callable[..., Any]:
        def measured(*values: Any) -> None:
            nonlocal total
            start = time.monotonic()
            call(*values)
            total += time.monotonic() - start

        return measured

    loggers.FallbackWandbLogger._create_run = timed(loggers.FallbackWandbLogger._create_run)  # type: ignore[method-assign]
    loggers.finish_wandb_run = timed(loggers.finish_wandb_run)
    sys.argv = ["src/train.py", *arguments]
    sys.path.insert(0, str(ROOT / "src"))
    runpy.run_path(str(ROOT / "src" / "train.py"), run_name="__main__")
    print(f"{WAITED}{total:.2f} s", file=sys.stderr)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2:])
    else:
        main(sys.argv[1:])
