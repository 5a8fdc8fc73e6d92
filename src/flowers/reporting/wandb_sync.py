"""Upload offline W&B runs one after the other; a damaged run does not stop the others.

Each run is uploaded by `wandb sync` in its own process, from a temporary directory with links to the run's files.
`wandb sync` exits with status 0, and marks a run as uploaded, even if the server has refused parts of it. Therefore its
messages and its log are checked, and the run itself is only marked after a complete upload.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Literal

import wandb
from filelock import FileLock, Timeout

from flowers.errors import InputError
from flowers.reporting.wandb_log import Log, merge_logs, read_log, write_log
from flowers.settings import PositiveFloat
from flowers.system.paths import shorten
from flowers.training.wandb_server import find_api_key, find_server_problem

PROBE_SECONDS = 10.0
"""The time limit for the server's first answer, in seconds."""

FLUSH_SECONDS = 60.0
"""Seconds after its last write that a run counts as running. W&B writes at least every 15 seconds during a run."""

LIMITS = {
    "WANDB__GRAPHQL_RETRY_MAX": "3",
    "WANDB__GRAPHQL_RETRY_WAIT_MAX_SECONDS": "5",
    "WANDB__GRAPHQL_TIMEOUT_SECONDS": "20",
    "WANDB__FILE_STREAM_RETRY_MAX": "3",
    "WANDB__FILE_STREAM_RETRY_WAIT_MAX_SECONDS": "5",
    "WANDB__FILE_STREAM_TIMEOUT_SECONDS": "60",
    "WANDB__FILE_TRANSFER_RETRY_MAX": "3",
    "WANDB__FILE_TRANSFER_RETRY_WAIT_MAX_SECONDS": "5",
}
"""Limits on retries, as W&B would retry for a week. Environment variables of the same names replace them."""

TRAINING_VARIABLES = ("WANDB_MODE", "WANDB_RESUME", "WANDB_RUN_ID", "WANDB_QUIET", "WANDB_SERVICE")
"""Environment variables for trainings, which are not passed on to uploads."""

HARMLESS = ("featurechecker:",)
"""Errors in the log of `wandb sync` that lose nothing: older servers do not list their features."""

_DIRECTORY = re.compile(r"(?:offline-)?run-\d{8}_\d{6}-(?P<id>.+)")

Status = Literal["uploaded", "already uploaded", "running", "bad"]


@dataclass(frozen=True, slots=True)
class SyncSettings:
    """The settings of `python src/sync.py`; configs/sync.yaml explains each of them."""

    runs: str | list[str]
    timeout: PositiveFloat


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of uploading one run.

    directory: the run's last W&B directory.
    note: the run's URL, or the reason why it is bad.
    fix: the fix for a bad run.
    """

    directory: Path
    status: Status
    note: str = ""
    fix: str = ""


class BadRun(Exception):
    """A run that was not uploaded, with the reason and the fix."""

    def __init__(self, reason: str, fix: str) -> None:
        super().__init__(reason)
        self.fix = fix


@dataclass(frozen=True)
class Part:
    """One W&B directory of a run: a resumed training has several."""

    directory: Path

    @cached_property
    def run_id(self) -> str:
        """Return W&B's id of the run."""
        files = sorted(self.directory.glob("run-*.wandb"))
        match = _DIRECTORY.fullmatch(self.directory.name)
        return files[0].stem.removeprefix("run-") if files else match["id"] if match else self.directory.name

    @property
    def file(self) -> Path:
        """Return the path of the `.wandb` file."""
        return self.directory / f"run-{self.run_id}.wandb"

    @property
    def marker(self) -> Path:
        """Return the path of the file that marks the run as uploaded, also to W&B."""
        return self.directory / f"run-{self.run_id}.wandb.synced"

    @property
    def state(self) -> Path:
        """Return the path of the file in which W&B stores the server's last step of the run when an upload began."""
        return self.directory / f"run-{self.run_id}.wandb.syncstate"

    def read(self) -> Log:
        """Read the part's log. A log that cannot be opened counts as damaged."""
        try:
            return read_log(self.file)
        except FileNotFoundError:
            return Log([], "it is missing")
        except OSError as error:
            return Log([], f"it cannot be read: {error.strerror}")

    def started_alone(self) -> bool:
        """Return whether the server had nothing of the run when this part's upload began; False if it never began."""
        with suppress(OSError, ValueError):
            return bool(json.loads(self.state.read_text()).get("starting_step", 0) == 0)
        return False


@dataclass(frozen=True, slots=True)
class OfflineRun:
    """One run.

    parts: all its parts, in order of time.
    wanted: the parts to upload: the offline ones, and an online one that the user named, whose upload may have failed.
    """

    parts: tuple[Part, ...]
    wanted: tuple[Part, ...]

    @property
    def directory(self) -> Path:
        """Return the W&B directory of the last part."""
        return self.parts[-1].directory

    def pending(self) -> list[Part]:
        """Return the wanted parts that are not uploaded yet."""
        return [part for part in self.wanted if not part.marker.exists()]


def find_runs(places: str | Sequence[str]) -> list[OfflineRun]:
    """Find the offline runs in directories, in order of time. A place may also be the W&B directory of one run.

    Raises:
        InputError: a place is not a directory.
    """
    found: dict[Path, None] = {}
    for place in [places] if isinstance(places, str) else places:
        path = Path(place)
        if not path.is_dir():
            raise InputError(f"runs={place}: no such directory. Set runs to a directory with runs, or to a run's own.")
        found |= dict.fromkeys(path.absolute() for path in _find_directories(path))
    groups: dict[tuple[Path, str], list[Part]] = {}
    for part in map(Part, sorted(found)):
        groups.setdefault((part.directory.parent, part.run_id), []).append(part)
    return sorted(map(_gather, groups.values()), key=lambda run: _start_time(run.parts[0]))


def _find_directories(path: Path) -> Iterable[Path]:
    if _DIRECTORY.fullmatch(path.resolve().name) or any(path.glob("run-*.wandb")):
        return [path.resolve()]
    if found := [*path.glob("offline-run-*")]:
        return found
    return (found for found in path.rglob("wandb/offline-run-*") if ".rebuilt-" not in str(found))


def _gather(named: Sequence[Part]) -> OfflineRun:
    """Return the run of some parts, with its other parts in the same directory."""
    beside = map(Part, named[0].directory.parent.glob(f"*run-*-{named[0].run_id}"))
    parts = sorted({*named, *(part for part in beside if part.run_id == named[0].run_id)}, key=_start_time)
    return OfflineRun(
        tuple(parts), tuple(part for part in parts if part in named or part.directory.name.startswith("offline-"))
    )


def _start_time(part: Part) -> str:
    return part.directory.name.removeprefix("offline-")


def sync(settings: SyncSettings) -> Iterator[Outcome]:
    """Upload the offline runs that are not uploaded yet, and yield the result of each run.

    Raises:
        InputError: a place is not a directory, nobody is logged in, or the server cannot be used from the start.
    """
    server: Server | None = None
    lost: BadRun | None = None
    for run in find_runs(settings.runs):
        if not run.pending():
            yield Outcome(run.directory, "already uploaded")
            continue
        if is_running(run):
            yield Outcome(run.directory, "running")
            continue
        if lost is not None:
            yield Outcome(run.directory, "bad", str(lost), lost.fix)
            continue
        if server is None:
            server = Server(wandb.setup().settings.base_url)
            server.check_login()
        try:
            yield Outcome(run.directory, "uploaded", upload(run, server, settings.timeout))
        except Exception as error:  # of many types; none of them may stop the upload of the other runs
            reason = str(error) or type(error).__name__
            yield Outcome(run.directory, "bad", reason, error.fix if isinstance(error, BadRun) else "Run it again")
            if problem := server.problem():  # the remaining runs would fail in the same way
                lost = BadRun(f"not tried, as {server.url} fails: {problem}", "Run it again when that is fixed")


def is_running(run: OfflineRun) -> bool:
    """Return whether a training is still writing the run: it holds the lock of the run's directory.

    In a directory without a lock, a training that wrote within `FLUSH_SECONDS` and has not ended counts as running.
    """
    lock = run.directory.parent.parent / ".lock"
    if lock.exists():
        try:
            with FileLock(lock).acquire(timeout=0):
                return False
        except Timeout:
            return True
        except OSError:  # this user cannot open the lock
            return False
    written = [part.file for part in run.pending() if part.file.exists()]
    recent = [file for file in written if time.time() - file.stat().st_mtime < FLUSH_SECONDS]
    return any(not Part(file.parent).read().ended for file in recent)


@dataclass(frozen=True, slots=True)
class Server:
    """W&B's server, by its URL."""

    url: str

    def check_login(self) -> None:
        """Raise `InputError` if nobody is logged in, or the server refuses the key or does not answer."""
        if find_api_key(self.url) is None and "WANDB_IDENTITY_TOKEN_FILE" not in os.environ:
            raise InputError(
                f"{self.url}: expected an API key, found none. Run `wandb login`, or set WANDB_API_KEY. Nothing was "
                "uploaded."
            )
        if problem := self.problem():
            raise InputError(f"{self.url}: {problem}. Nothing was uploaded; run it again when that is fixed.")

    def problem(self) -> str | None:
        """Return why the server cannot be used, or None if it can."""
        return find_server_problem(self.url, find_api_key(self.url), PROBE_SECONDS)


def upload(run: OfflineRun, server: Server, timeout: float) -> str:
    """Upload a run, and mark its parts as uploaded.

    Args:
        run: the run.
        server: the server to upload to.
        timeout: the time limit for the upload, in seconds.

    Returns:
        The run's URL, followed by a description of the damage if there was any.

    Raises:
        BadRun: not everything was uploaded.
    """
    pending = run.pending()
    for part in pending:
        if not os.access(part.directory, os.W_OK):
            raise BadRun(
                "its directory is read-only, so it could not be marked as uploaded",
                "Make it writable, or copy it elsewhere",
            )
    run, damage = repair(run)
    with tempfile.TemporaryDirectory(prefix="flowers-sync-") as directory:
        address = _upload_staged(stage(run, Path(directory)), server, timeout)
    for part in dict.fromkeys([*pending, *run.pending()]):
        part.marker.touch()
    return f"{address} ({damage})" if damage else address


def repair(run: OfflineRun) -> tuple[OfflineRun, str]:
    """Replace damaged files by their readable records, and rebuild the lost ones in a new part.

    The damaged files are renamed to `NAME.damaged`.

    Returns:
        The run, with the new part if there is one, and a description of the damage; empty if there was none.

    Raises:
        BadRun: nothing can be read, and there is nothing to rebuild from.
    """
    logs = {part: part.read() for part in run.parts}
    damaged = [part for part in run.pending() if logs[part].damage or not logs[part].has_run]
    if not damaged:
        return run, ""
    from flowers.reporting.wandb_rebuild import rebuild  # imports Lightning

    reason = "; ".join(f"{part.file.name}: {logs[part].damage or 'it holds no run'}" for part in damaged)
    parent, records = run.directory.parent, [record for log in logs.values() for record in log.records]
    try:
        rebuilt = rebuild(parent.parent, run.parts[0].run_id, records, parent)
    except InputError as error:
        if not any(logs[part].has_run for part in damaged):
            raise BadRun(
                f"{reason}, and {error}", f"Put the file back, or delete {shorten(damaged[-1].directory)}"
            ) from error
        rebuilt, reason = None, f"{reason}, the rest {error}"
    for part in damaged:
        set_aside(part.file)
        if logs[part].has_run:
            write_log(part.file, logs[part].records)
    if rebuilt is None:
        return run, reason
    added = Part(rebuilt)
    return OfflineRun((*run.parts, added), (*run.wanted, added)), f"{reason}; rebuilt from {shorten(parent.parent)}"


def set_aside(file: Path) -> None:
    """Rename a file, if it exists, to `NAME.damaged` with a number that is not taken."""
    if file.exists():
        names = (file.with_name(f"{file.name}.damaged{number or ''}") for number in count())
        file.rename(next(path for path in names if not path.exists()))


def stage(run: OfflineRun, directory: Path) -> Path:
    """Make a directory that `wandb sync` can upload: one `.wandb` file with all parts, and links to their files.

    If the server has no other rows of the run than those of these parts, all parts are written again from the first
    line on. Otherwise, and at the first attempt, only the pending parts are sent, and W&B appends them.

    Returns:
        The path of the `.wandb` file.
    """
    logs = {part: part.read() for part in run.parts}
    parts = [part for part in run.parts if logs[part].has_run]
    pending = run.pending()
    whole = all(part in pending or _matches_server(part, logs[part]) for part in run.parts)
    append = not (whole and parts[0].started_alone())
    sent = [part for part in parts if part in pending] if append else parts
    first = sent[0]
    staged = directory / "wandb" / f"offline-{first.directory.name.removeprefix('offline-')}"
    for part in sent:
        _link_files(part.directory / "files", staged / "files")
    file = staged / first.file.name
    write_log(file, merge_logs([logs[part].records for part in sent], append=append))
    file.with_name(first.state.name).symlink_to(first.state)
    return file


def _matches_server(part: Part, log: Log) -> bool:
    """Return whether the server has exactly the rows of a part that is not pending.

    An online run that was killed may have sent more or less than is in its file. One that never started has no file.
    """
    if not part.file.exists() and not part.marker.exists():
        return True
    return log.has_run and log.damage is None and (log.ended or part.marker.exists())


def _link_files(source: Path, target: Path) -> None:
    """Link a part's files. They replace links of the same name from earlier parts."""
    target.mkdir(parents=True, exist_ok=True)
    for path in source.rglob("*"):
        link = target / path.relative_to(source)
        if path.is_dir():
            link.mkdir(parents=True, exist_ok=True)
        else:
            link.unlink(missing_ok=True)
            link.symlink_to(path)


def _upload_staged(file: Path, server: Server, timeout: float) -> str:
    """Run `wandb sync`, and return the run's URL."""
    root = file.parent.parent.parent
    inherited = {name: value for name, value in os.environ.items() if name not in TRAINING_VARIABLES}
    # W&B deletes artifacts' files from its data directory even if their upload fails. So it gets a temporary one.
    own = {"WANDB_DIR": str(root), "WANDB_DATA_DIR": str(root), "WANDB_BASE_URL": server.url, "WANDB_SILENT": "false"}
    output = root / "output.txt"
    with output.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "wandb", "sync", str(file)],
            env=LIMITS | inherited | own,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise BadRun(f"not uploaded within {timeout:g} s", "Run it again, with a longer timeout=SECONDS") from None
        finally:
            with suppress(ProcessLookupError):  # kills W&B's own process as well
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    text = output.read_text(errors="replace")
    problem = find_problem(text, [path.read_text(errors="replace") for path in root.glob("wandb/logs/debug-sync*.log")])
    if problem is None and (status or not file.with_name(f"{file.name}.synced").exists()):
        problem = f"wandb sync ended with status {status}: {text.strip().rpartition(chr(10))[2]}"
    if problem is not None:
        raise BadRun(problem, _suggest_fix(problem))
    addresses = re.findall(r"View run .*\bat (https?://\S+)", text)
    return addresses[-1] if addresses else ""


def find_problem(output: str, logs: Iterable[str]) -> str | None:
    """Return the first error in the output of `wandb sync`, or else in its JSON logs; None if there is none."""
    printed = re.findall(r"ERROR (?:\[\S+\] )?(.+)", output)
    logged = []
    for line in (line for log in logs for line in log.splitlines()):
        with suppress(ValueError):
            entry = json.loads(line)
            if entry.get("level") == "ERROR" and not str(entry.get("msg")).startswith(HARMLESS):
                logged.append(": ".join(str(entry[key]) for key in ("msg", "error") if key in entry))
    return next((problem.partition("\n")[0].strip() for problem in (*printed, *logged)), None)


def _suggest_fix(problem: str) -> str:
    if re.search(r"\b40[134]\b", problem):
        return "Check logger.wandb.entity and project, and that the account may write there"
    return "Run it again"
