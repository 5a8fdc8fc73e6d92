"""Measure the cost of logging to Weights & Biases with whole trainings, each in its own process.

    python -m benchmarks.wandb_overhead logging [ROUNDS] [OVERRIDE ...]
    python -m benchmarks.wandb_overhead faults [ROUNDS] [OVERRIDE ...]

`logging` trains in pairs: offline with W&B, and without it. `faults` trains offline, and with a server on loopback that
answers or fails in one of several ways. Overrides are those of src/train.py. Run nothing else at the same time.
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
"""The default numbers of rounds. With an even number of pairs, each kind of training comes first equally often."""

WITH, WITHOUT = "with W&B", "without"
KINDS: Mapping[str, tuple[str, ...]] = {WITH: (), WITHOUT: ("logger=csv", "callbacks.wandb_images=null")}

SHORT = ("data.train_size=64", "data.eval_size=64", "trainer.max_epochs=2", "report=false")
"""The training of `faults`. It has two epochs, so that the server can fail between them."""

FIRST_STEPS = ("++trainer.limit_train_batches=1", "++trainer.limit_val_batches=1")
OFFLINE = {"WANDB_MODE": "offline"}
CLOSING_SECONDS = 10.0
"""The time limit for W&B's own process to close the run's file after the training has ended."""

State = Behaviour | Literal["vanish"]
"""How a server handles requests. After `vanish` it refuses connections."""


@dataclass(frozen=True)
class Fault:
    """The behaviour of W&B's server at first and later, and when the later one begins."""

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
    """The arguments of the command line."""

    mode: str
    rounds: int
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Training:
    """A finished training: its duration in seconds, its exit status, and its standard error."""

    seconds: float
    status: int
    errors: str


@dataclass(frozen=True)
class RunFiles:
    """A training's files: whether metrics.json exists, and the number of rows and the exit code in W&B's file."""

    metrics: bool
    rows: int
    exit_code: int | None


@dataclass
class Measured:
    """The trainings with one server, round by round.

    trainings: the trainings.
    offline: the seconds of the offline training of each round.
    files: the files of each training.
    """

    trainings: list[Training] = field(default_factory=list)
    offline: list[float] = field(default_factory=list)
    files: list[RunFiles] = field(default_factory=list)

    def differences(self) -> list[float]:
        """Return how many seconds longer each training took than the offline one of its round."""
        return differences([training.seconds for training in self.trainings], self.offline)


# The command line.


def main(arguments: Sequence[str]) -> None:
    """Measure in the mode of the command line's arguments, and print the results."""
    raise_on_signals()  # so that a running training ends with this process
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


# The cost of logging.


def measure_logging(rounds: int, overrides: Sequence[str]) -> None:
    """Train in pairs, with W&B and without it, and print each pair and the cost of W&B."""
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
    """Return the seconds of a training that logs to W&B offline, or does not log to it.

    Raises:
        InputError: the training failed, or overrides have changed its logger.
    """
    with run_directory() as run:
        training = train(run, (*overrides, *KINDS[name]), OFFLINE)
        require_success(training)
        if (name == WITH) != bool(find_logs(run)):
            found = "has no W&B run" if name == WITH else "has a W&B run"
            raise InputError(f"{run}: the training {name} {found}. Leave out overrides of the logger.")
    return training.seconds


def alternate(names: Sequence[str], number: int) -> tuple[str, ...]:
    """Return the names in the order of a round: reversed in every second one, so that a drift cancels out."""
    return tuple(names if number % 2 == 0 else reversed(names))


def differences(measured: Sequence[float], baseline: Sequence[float]) -> list[float]:
    """Return how many seconds longer each training took than the baseline of the same round."""
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


# The cost of a server that fails.


def measure_faults(rounds: int, overrides: Sequence[str], servers: Mapping[str, Fault]) -> dict[str, Measured]:
    """Train offline and with each server in every round; report each training on standard error.

    Raises:
        InputError: an offline training fails, or a training ends before its server fails.
    """
    offline = warm_up(overrides)
    measured = {name: Measured() for name in (NONE, *servers)}
    for number in range(rounds):
        for name in alternate(tuple(measured), number):
            fault = servers.get(name)
            training, files = train_with(name, fault, overrides, offline / 2)
            if fault is None:
                require_success(training)
                offline = training.seconds  # for the trainings until the next offline one
            measured[name].trainings.append(training)
            measured[name].files.append(files)
            report(f"round {number + 1}, server {name}", training)
        for one in measured.values():
            one.offline.append(offline)
    return measured


def train_with(
    name: str,
    fault: Fault | None,
    overrides: Sequence[str],
    half_time: float,
) -> tuple[Training, RunFiles]:
    """Train with a server, or offline if there is no fault, and inspect the run's files."""
    with run_directory() as run, wandb_server() as server:
        if fault is None:
            training = train(run, overrides, OFFLINE)
        else:
            set_state(server, fault.first)
            with fail_later(name, fault, server, run, half_time):
                training = train(run, overrides, server.environment())
        return training, inspect_run(run)


@contextmanager
def fail_later(name: str, fault: Fault, server: WandbServer, run: Path, half_time: float) -> Iterator[None]:
    """Make the server fail while the block runs, if the fault begins later.

    Raises:
        InputError: the training ended before the fault began.
    """
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
            raise InputError(f"{name}: the training ended before. Train longer, for example with trainer.max_epochs=5.")


def wait_for(fault: Fault, run: Path, half_time: float, ended: Event) -> bool:
    """Wait for the time at which a fault begins; return whether the training is still running."""
    if fault.begins == "at half time":
        return not ended.wait(half_time)
    while not (run / "checkpoints" / "last.ckpt").exists():  # it is written after each epoch
        if ended.wait(0.05):
            return False
    return True


def set_state(server: WandbServer, state: State) -> None:
    """Set how a server handles requests from now on."""
    if state == "vanish":
        server.vanish()
    else:
        server.behaviour = state


def inspect_run(run: Path) -> RunFiles:
    """Inspect a run's files after W&B's process has closed its own, which happens shortly after the training's end."""
    deadline = time.monotonic() + CLOSING_SECONDS
    while True:
        records = [record for path in find_logs(run) for record in read_records(path.parent)]
        codes = [int(record.exit.exit_code) for record in records if record.HasField("exit")]
        if codes or time.monotonic() > deadline:
            rows = sum(record.HasField("history") for record in records)
            return RunFiles((run / "metrics.json").is_file(), rows, codes[-1] if codes else None)
        time.sleep(0.05)


def fault_table(measured: Mapping[str, Measured]) -> Iterator[str]:
    """Yield the lines of a table: each server's median seconds, the difference to offline, and the run's files."""
    yield f"| {' | '.join(COLUMNS)} |"
    yield "|" + "---|" * len(COLUMNS)
    for name, one in measured.items():
        seconds = median(training.seconds for training in one.trainings)
        difference = median(one.differences())
        percentage = 100 * difference / median(one.offline)
        cost = ("", "") if name == NONE else (f"{difference:+.1f} s", f"{percentage:+.1f} %")
        outcome = (
            distinct(training.status for training in one.trainings),
            distinct("yes" if files.metrics else "no" for files in one.files),
            distinct(files.rows for files in one.files),
            distinct("none" if files.exit_code is None else files.exit_code for files in one.files),
        )
        yield f"| {' | '.join((name, f'{seconds:.1f}', *cost, *outcome))} |"


def distinct(values: Iterable[object]) -> str:
    """Join the distinct values, in order of their first occurrence."""
    return ", ".join(dict.fromkeys(map(str, values)))


# Trainings.


def warm_up(overrides: Sequence[str]) -> float:
    """Train one step per epoch, to generate the data set and to cache files; return the training's seconds."""
    with run_directory() as run:
        training = train(run, (*overrides, *FIRST_STEPS), OFFLINE)
    report("warm-up", training)
    require_success(training)
    return training.seconds


def train(run: Path, overrides: Sequence[str], environment: Mapping[str, str]) -> Training:
    """Run src/train.py into a directory, isolated from the user's W&B settings and login, and wait for its end."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    inherited.pop("PYTHONDONTWRITEBYTECODE", None)  # otherwise each training compiles everything that it imports
    inherited["NETRC"], inherited["WANDB_CONFIG_DIR"] = str(run.parent / "netrc"), str(run.parent / "config")
    printed = run.parent / "stderr.txt"
    with printed.open("w") as errors:  # a pipe would be kept open by W&B's process after the training's end
        command = [sys.executable, "src/train.py", *overrides, f"hydra.run.dir={run}"]
        start = time.monotonic()
        environment = {**inherited, **environment}
        done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=errors, check=False)
        seconds = time.monotonic() - start
    return Training(seconds, done.returncode, printed.read_text())


@contextmanager
def run_directory() -> Iterator[Path]:
    """Create a temporary directory for a run, and remove it afterwards. In logs/, `sync.py` would upload the run."""
    with TemporaryDirectory(ignore_cleanup_errors=True) as temporary:  # W&B's process may still write there
        yield Path(temporary) / "run"


def find_logs(run: Path) -> list[Path]:
    """Return the paths of a run's `.wandb` files."""
    return sorted(run.glob("wandb/*run-*/*.wandb"))


def require_success(training: Training) -> None:
    """Raise `InputError` with the last line of its standard error if a training failed."""
    if training.status:
        last = training.errors.strip().rpartition("\n")[2].removeprefix("error: ")
        raise InputError(f"src/train.py ended with exit status {training.status}: {last}")


def report(name: str, training: Training) -> None:
    """Print a training's duration, its exit status, and its messages about W&B on standard error."""
    print(f"{name}: {training.seconds:.1f} s, exit status {training.status}", file=sys.stderr)
    for line in training.errors.splitlines():
        if line.startswith("W&B:"):
            print(f"  {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
