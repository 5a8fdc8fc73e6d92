"""Measure what logging to Weights & Biases costs, by whole trainings, each in a process of its own.

    python -m benchmarks.wandb_overhead logging [ROUNDS] [OVERRIDE ...]
    python -m benchmarks.wandb_overhead faults [ROUNDS] [OVERRIDE ...]

`logging` trains in pairs: offline with W&B, and without it. `faults` trains offline, and with a server on loopback
that answers, or fails in one of several ways. Overrides are those of src/train.py. Let nothing else run meanwhile.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from threading import Event, Thread
from typing import Literal

from flowers.errors import InputError
from flowers.system.termination import raise_on_signals
from tests.helpers.wandb_server import Behaviour, WandbServer, read_records, wandb_server

ROOT = Path(__file__).parents[1]
USAGE = "Usage: python -m benchmarks.wandb_overhead logging|faults [ROUNDS] [OVERRIDE ...]"
ROUNDS = {"logging": 6, "faults": 1}
"""An even number of pairs, so that each kind of training is the first as often as the second."""

WITH, WITHOUT = "with W&B", "without"
KINDS: Mapping[str, tuple[str, ...]] = {WITH: (), WITHOUT: ("logger=csv", "callbacks.wandb_images=null")}

SHORT = ("data.train_size=64", "data.eval_size=64", "trainer.max_epochs=2", "report=false")
"""The training of `faults`: of two epochs, so that something can happen between them."""

FIRST_STEPS = ("++trainer.limit_train_batches=1", "++trainer.limit_val_batches=1")
OFFLINE = {"WANDB_MODE": "offline"}
CLOSING_SECONDS = 10.0
"""How long W&B's own process may need to close the run's file, after the training has ended."""

State = Behaviour | Literal["vanish"]
"""What a server does with requests. One that vanishes refuses connections."""


@dataclass(frozen=True)
class Fault:
    """What W&B's server does first, what it does later, and when that begins."""

    first: State
    later: State | None = None
    begins: Literal["at half time", "after an epoch"] | None = None


SERVERS: Mapping[str, Fault] = {
    "answers": Fault("answer"),
    "refuses": Fault("vanish"),
    "hangs": Fault("hang"),
    "answers HTTP 500": Fault(500),
    "vanishes at half time": Fault("answer", "vanish", "at half time"),
    "hangs after an epoch": Fault("answer", "hang", "after an epoch"),
}
NONE = "none: offline"
COLUMNS = (
    "server",
    "seconds",
    "difference",
    "of a training",
    "status",
    "metrics.json",
    "history rows",
    "exit in W&B's file",
)


@dataclass(frozen=True)
class Arguments:
    """What the command line asks for."""

    mode: str
    rounds: int
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Training:
    """A training that has ended: its seconds, its exit status, and what it printed on standard error."""

    seconds: float
    status: int
    errors: str


@dataclass(frozen=True)
class Left:
    """What a training has left on disk: metrics.json or not, the rows and the exit code in W&B's file."""

    metrics: bool
    rows: int
    exit_code: int | None


@dataclass
class Measured:
    """The trainings with one server, round by round, each with the offline training of its round."""

    trainings: list[Training] = field(default_factory=list)
    offline: list[float] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)

    def differences(self) -> list[float]:
        return differences([training.seconds for training in self.trainings], self.offline)


# The command line.


def main(arguments: Sequence[str]) -> None:
    raise_on_signals()  # a training is ended with this process
    try:
        parsed = parse_arguments(arguments)
        if parsed.mode == "logging":
            measure_logging(parsed.rounds, parsed.overrides)
        else:
            measured = measure_faults(parsed.rounds, (*SHORT, *parsed.overrides), SERVERS)
            print("\n".join(fault_table(measured)))
    except InputError as error:
        sys.exit(f"error: {error}")


def parse_arguments(arguments: Sequence[str]) -> Arguments:
    """Split the command line into the mode, the number of rounds, and the overrides of src/train.py.

    Raises:
        InputError: there is no such mode, or less than one round.
    """
    mode, *rest = arguments or [""]
    if mode not in ROUNDS:
        raise InputError(f"expected logging or faults, found {mode or 'nothing'}. {USAGE}")
    rounds = ROUNDS[mode]
    if rest and "=" not in rest[0]:
        if not rest[0].isdecimal() or int(rest[0]) < 1:
            raise InputError(f"{rest[0]}: expected a number of rounds, at least 1, or an override. {USAGE}")
        rounds = int(rest.pop(0))
    return Arguments(mode, rounds, tuple(rest))


# What logging costs.


def measure_logging(rounds: int, overrides: Sequence[str]) -> None:
    """Train in pairs, with W&B and without it, and print each pair and what W&B costs."""
    warm_up(overrides)
    pairs: dict[str, list[float]] = {name: [] for name in KINDS}
    print(f"| pair | first | {WITH} | {WITHOUT} | difference |\n|---|---|---|---|---|", flush=True)
    for number in range(rounds):
        names = alternate(tuple(KINDS), number)
        for name in names:
            pairs[name].append(time_kind(name, overrides))
        measured, baseline = (pairs[name][-1] for name in KINDS)
        seconds = f"{measured:.1f} s | {baseline:.1f} s | {measured - baseline:+.1f} s"
        print(f"| {number + 1} | {names[0]} | {seconds} |", flush=True)
    print(f"\n{describe_cost(pairs[WITH], pairs[WITHOUT])}")


def time_kind(name: str, overrides: Sequence[str]) -> float:
    """Return the seconds of a training that logs to W&B offline, or not at all."""
    with run_directory() as run:
        training = train(run, (*overrides, *KINDS[name]), OFFLINE)
        require_success(training)
        if (name == WITH) != bool(find_logs(run)):
            found = "has no W&B run" if name == WITH else "has a W&B run"
            raise InputError(f"{run}: the training {name} {found}. Leave out overrides of the logger.")
    return training.seconds


def alternate(names: Sequence[str], number: int) -> tuple[str, ...]:
    """Return the names in the order of a round: every second one is backwards, so that a drift cancels."""
    return tuple(names if number % 2 == 0 else reversed(names))


def differences(measured: Sequence[float], baseline: Sequence[float]) -> list[float]:
    """Return how much longer each training took than the one of the same round that it is compared with."""
    return [value - base for value, base in zip(measured, baseline, strict=True)]


def describe_cost(measured: Sequence[float], baseline: Sequence[float]) -> str:
    """Describe the median difference of pairs, its range, and its percentage of the median training."""
    found = differences(measured, baseline)
    middle = median(found)
    percentage = 100 * middle / median(baseline)
    pairs = "1 pair" if len(found) == 1 else f"{len(found)} pairs"
    return (
        f"W&B costs {middle:+.1f} s, {percentage:+.1f} % of a training: "
        f"the median of {pairs}, {min(found):+.1f} to {max(found):+.1f} s."
    )


# What a server that fails costs.


def measure_faults(rounds: int, overrides: Sequence[str], servers: Mapping[str, Fault]) -> dict[str, Measured]:
    """Train offline and with each server in every round; report each training on standard error.

    Raises:
        InputError: a training without a fault fails, or one ends before its server does.
    """
    offline = warm_up(overrides)
    measured = {name: Measured() for name in (NONE, *servers)}
    for number in range(rounds):
        for name in alternate(tuple(measured), number):
            fault = servers.get(name)
            training, left = train_with(name, fault, overrides, offline / 2)
            if fault is None:
                require_success(training)
                offline = training.seconds  # until the next one, also where it is the last of its round
            measured[name].trainings.append(training)
            measured[name].left.append(left)
            report(f"round {number + 1}, server {name}", training)
        for one in measured.values():
            one.offline.append(offline)
    return measured


def train_with(
    name: str,
    fault: Fault | None,
    overrides: Sequence[str],
    half_time: float,
) -> tuple[Training, Left]:
    """Train with a server, or offline if there is no fault, and look at what is left on disk."""
    with run_directory() as run, wandb_server() as server:
        if fault is None:
            training = train(run, overrides, OFFLINE)
        else:
            set_state(server, fault.first)
            with failing_later(name, fault, server, run, half_time):
                training = train(run, overrides, server.environment())
        return training, look_at(run)


@contextmanager
def failing_later(name: str, fault: Fault, server: WandbServer, run: Path, half_time: float) -> Iterator[None]:
    """Let the server fail while the block runs, if the fault is one that begins later."""
    ended, begun = Event(), Event()

    def fail() -> None:
        assert fault.later is not None
        if wait_for(fault, run, half_time, ended):
            set_state(server, fault.later)
            begun.set()

    thread = Thread(target=fail, daemon=True)
    if fault.later is not None:
        thread.start()
    try:
        yield
    finally:
        ended.set()
    if fault.later is not None:
        thread.join()
        if not begun.is_set():
            raise InputError(f"{name}: the training ended before. Train longer: trainer.max_epochs=5, say.")


def wait_for(fault: Fault, run: Path, half_time: float, ended: Event) -> bool:
    """Wait until a fault is to begin; return whether the training still runs then."""
    if fault.begins == "at half time":
        return not ended.wait(half_time)
    while not (run / "checkpoints" / "last.ckpt").exists():  # it is written after each epoch
        if ended.wait(0.05):
            return False
    return True


def set_state(server: WandbServer, state: State) -> None:
    if state == "vanish":
        server.vanish()
    else:
        server.behaviour = state


def look_at(run: Path) -> Left:
    """Look at what a run has on disk, once W&B's process has closed its file: a moment after the end."""
    deadline = time.monotonic() + CLOSING_SECONDS
    while True:
        records = [record for path in find_logs(run) for record in read_records(path.parent)]
        codes = [int(record.exit.exit_code) for record in records if record.HasField("exit")]
        if codes or time.monotonic() > deadline:
            rows = sum(record.HasField("history") for record in records)
            return Left((run / "metrics.json").is_file(), rows, codes[-1] if codes else None)
        time.sleep(0.05)


def fault_table(measured: Mapping[str, Measured]) -> Iterator[str]:
    """Yield the lines of a table: each server's median seconds, the difference to offline, and what is left."""
    yield f"| {' | '.join(COLUMNS)} |"
    yield "|" + "---|" * len(COLUMNS)
    for name, one in measured.items():
        seconds = median(training.seconds for training in one.trainings)
        difference = median(one.differences())
        percentage = 100 * difference / median(one.offline)
        cost = ("", "") if name == NONE else (f"{difference:+.1f} s", f"{percentage:+.1f} %")
        kept = (
            distinct(training.status for training in one.trainings),
            distinct("yes" if left.metrics else "no" for left in one.left),
            distinct(left.rows for left in one.left),
            distinct("none" if left.exit_code is None else left.exit_code for left in one.left),
        )
        yield f"| {' | '.join((name, f'{seconds:.1f}', *cost, *kept))} |"


def distinct(values: Iterable[object]) -> str:
    """Join the values that differ, in order."""
    return ", ".join(dict.fromkeys(map(str, values)))


# Trainings.


def warm_up(overrides: Sequence[str]) -> float:
    """Train a step an epoch, so that the data set is there and files are cached; return its seconds."""
    with run_directory() as run:
        training = train(run, (*overrides, *FIRST_STEPS), OFFLINE)
    report("warm-up", training)
    require_success(training)
    return training.seconds


def train(run: Path, overrides: Sequence[str], environment: Mapping[str, str]) -> Training:
    """Run src/train.py into a directory with a W&B environment of its own, and wait for its end."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    kept.pop("PYTHONDONTWRITEBYTECODE", None)  # else each training compiles what it imports
    kept["NETRC"], kept["WANDB_CONFIG_DIR"] = str(run.parent / "netrc"), str(run.parent / "config")  # no login
    printed = run.parent / "stderr.txt"
    with printed.open("w") as errors:  # not a pipe, which W&B's process may keep open for longer
        command = [sys.executable, "src/train.py", *overrides, f"hydra.run.dir={run}"]
        start = time.monotonic()
        environment = {**kept, **environment}
        done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=errors, check=False)
        seconds = time.monotonic() - start
    return Training(seconds, done.returncode, printed.read_text())


@contextmanager
def run_directory() -> Iterator[Path]:
    """Make a place for a run, not in logs/, where `sync.py` would upload it; remove it afterwards."""
    with TemporaryDirectory(ignore_cleanup_errors=True) as temporary:  # W&B's process may still write there
        yield Path(temporary) / "run"


def find_logs(run: Path) -> list[Path]:
    return sorted(run.glob("wandb/*run-*/*.wandb"))


def require_success(training: Training) -> None:
    if training.status:
        last = training.errors.strip().rpartition("\n")[2].removeprefix("error: ")
        raise InputError(f"src/train.py ended with exit status {training.status}: {last}")


def report(name: str, training: Training) -> None:
    print(f"{name}: {training.seconds:.1f} s, exit status {training.status}", file=sys.stderr)
    for line in training.errors.splitlines():
        if line.startswith("W&B:"):
            print(f"  {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
