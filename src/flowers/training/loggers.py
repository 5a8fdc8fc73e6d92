"""A Weights & Biases logger that neither stops nor delays a training. Without an answering server it logs offline.

The training continues whatever happens to the server or to W&B's own process. Every wait has a time limit. The run's
`.wandb` file stays complete on disk, so that `python src/sync.py` can upload it later.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread, Timer
from typing import Any
from uuid import uuid4

import wandb
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import WandbLogger
from wandb.sdk.wandb_setup import singleton

from flowers.errors import InputError
from flowers.system.paths import shorten
from flowers.training.runs import Run
from flowers.training.wandb_server import find_api_key, find_server_problem

PROBE_SECONDS = 3.0
"""Time limit for an answer of the server, in seconds. A healthy server needs well under one."""

LIMITS = {"init_timeout": 4.0, "finish_timeout": 4.0}
"""Time limits in seconds for creating a run on the server, and for the last uploads: 5 % of an 80 s training.

The environment variables `WANDB_INIT_TIMEOUT` and `WANDB_FINISH_TIMEOUT` override them.
"""

HUNG_SECONDS = 10.0
"""Extra time in seconds for W&B's own process to finish a run. Then the process counts as hung and is killed."""

_staged: list[str] = []  # the values of WANDB_DATA_DIR that this process has set, one per run

LONGEST_TAG = 64
"""The most characters that W&B allows in a tag."""

MODES = ("online", "offline", "disabled", "shared", "run", "dryrun")
"""The values of `WANDB_MODE` that W&B accepts. The last two are older names of the first two."""


def wandb_logger(
    save_dir: str,
    project: str,
    entity: str | None = None,
    group: str | None = None,
    name: str | None = None,
    tags: list[str] | None = None,
    job_type: str | None = None,
) -> FallbackWandbLogger:
    """Create a W&B logger that writes to `save_dir/wandb`, and continues the W&B run that is already there.

    `WANDB_MODE` sets the mode. If it is not set, the run is online if there is an API key and the server answers.
    `WANDB_MODE=online` skips this check, but a run that cannot be created still goes offline.

    Args:
        save_dir: the run's directory.
        project: the project's name.
        entity: the team; None: the account's default.
        group: the name for a group of runs; None: the multirun's name, if the run is one of its jobs.
        name: the run's name; None: W&B generates one.
        tags: the run's tags. In a multirun, the job's settings are added.
        job_type: the kind of run.

    Raises:
        InputError: `WANDB_MODE` is not one of W&B's modes.
    """
    mode = os.environ.get("WANDB_MODE", "online")
    if mode not in MODES:
        raise InputError(f"WANDB_MODE={mode}: expected one of {', '.join(MODES)}. Set or unset it.")
    multirun, settings = describe_multirun()
    return FallbackWandbLogger(
        save_dir=save_dir,
        id=Run(Path(save_dir)).wandb_id(),
        project=project,
        entity=entity,
        group=group or multirun,
        name=name,
        tags=[*(tags or []), *settings],
        job_type=job_type,
    )


def describe_multirun() -> tuple[str | None, list[str]]:
    """Return the name of this job's multirun, and the job's settings that fit into tags.

    Outside a multirun the name is None, and there are no settings.
    """
    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return None, []
    job = HydraConfig.get()
    settings = [setting for setting in job.overrides.task if not setting.startswith("resume=")]
    return Path(job.sweep.dir).name, [setting for setting in settings if len(setting) <= LONGEST_TAG]


class FallbackWandbLogger(WandbLogger):
    """Lightning's W&B logger, which goes offline instead of failing, and stops logging when W&B's process dies."""

    _dead = False

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """Return the W&B run, created at first use. Processes other than the first get a dummy."""
        attached = getattr(self, "_attach_id", None) is not None
        if self._experiment is None and wandb.run is None and not attached:
            self._create_run()
        return super().experiment

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log metrics, unless W&B's process is dead."""
        with self.ignore_dead_process():
            super().log_metrics(metrics, step)

    def log_hyperparams(self, params: Any) -> None:
        """Log the configuration, unless W&B's process is dead."""
        with self.ignore_dead_process():
            super().log_hyperparams(params)

    @contextmanager
    def ignore_dead_process(self) -> Iterator[None]:
        """Suppress errors of the block if W&B's process is dead. Nothing more is logged, and the training continues."""
        try:
            yield
        except ConnectionError as error:  # the connection to W&B's process on this machine, not to the server
            if not self._dead:
                _report(f"{error}. Its process has ended: nothing more is logged.")
            self._dead = True

    def try_within_limit(self, log: Callable[[], None]) -> None:
        """Call `log` within the time limit for the end of a run, and report if that fails.

        This is for tables and artifacts: W&B logs them only after its server has answered, and waits without a limit.
        """
        problems: SimpleQueue[str | None] = SimpleQueue()

        def attempt() -> None:
            try:
                log()
            except Exception as error:  # W&B raises many types, none of which may end a training
                problems.put(str(error).partition("\n")[0] or type(error).__name__)
            else:
                problems.put(None)

        online = self.experiment.settings.mode == "online"
        Thread(target=attempt, daemon=True).start()
        try:
            problem = problems.get(timeout=LIMITS["finish_timeout"] if online else None)
        except Empty:
            problem = f"no answer within {LIMITS['finish_timeout']:g} s"
        if problem is not None:
            _report(f"{problem}: tables and artifacts were not logged.")

    def _create_run(self) -> None:
        mode = os.environ.get("WANDB_MODE")
        if mode not in (None, "online", "run"):
            self._start(mode)
            return
        url = wandb.setup().settings.base_url
        key = find_api_key(url)
        if mode is None and key is None and "WANDB_IDENTITY_TOKEN_FILE" not in os.environ:
            self._start("offline")
            return
        problem = find_server_problem(url, key, PROBE_SECONDS) if mode is None else None
        problem = problem or self._try_online()
        if problem is not None:
            self._start("offline")
            _report(f"{url}: {problem}. Logging offline.", wandb.run)

    def _try_online(self) -> str | None:
        """Start an online run. Return the problem if that fails, else None."""
        try:
            self._start("online")
        except Exception as error:  # W&B raises many types, none of which may end a training
            _abandon()
            for file in Path(self.save_dir or ".").glob(f"*wandb/run-*-{self._id}/*.wandb"):
                file.unlink()  # an empty run, which nobody should upload
            return str(error).partition("\n")[0] or type(error).__name__
        return None

    def _start(self, mode: str) -> None:
        _stage_files(Path(self.save_dir or ".") / "wandb")
        # Offline, W&B would print three lines of advice that do not apply here. The command prints its own at the end.
        # Listing the installed packages would take seconds, and constraints.txt has their versions.
        settings = wandb.Settings(
            quiet=True, silent=mode != "online", finish_timeout_raises=True, x_save_requirements=False, **_limits()
        )
        self._id = self._id or uuid4().hex[:8]
        self._wandb_init.pop("anonymous", None)  # W&B warns about the None that Lightning passes
        self._wandb_init |= {"mode": mode, "settings": settings, "id": self._id}
        _ = super().experiment


def _stage_files(directory: Path) -> None:
    """Make W&B keep the images of tables in the run's directory, so that they move with an offline run."""
    if os.environ.get("WANDB_DATA_DIR", "") in ("", *_staged):
        os.environ["WANDB_DATA_DIR"] = str(directory.resolve())
        _staged.append(os.environ["WANDB_DATA_DIR"])


def _limits() -> dict[str, Any]:
    return {name: seconds for name, seconds in LIMITS.items() if f"WANDB_{name.upper()}" not in os.environ}


@contextmanager
def finished_wandb_run() -> Iterator[None]:
    """Finish the W&B run, if there is one, after the block: with exit code 0, or as failed if the block raises.

    Write and print results inside the block, because finishing may take up to its time limit.
    """
    try:
        yield
    except BaseException as error:
        finish_wandb_run(exit_code_of(error))
        raise
    finish_wandb_run(0)


def exit_code_of(error: BaseException) -> int:
    """Return the exit code of a process that ends with `error`."""
    if not isinstance(error, SystemExit) or isinstance(error.code, str):
        return 1
    return error.code or 0


def finish_wandb_run(exit_code: int) -> None:
    """Finish the W&B run, if there is one. A problem is reported in one line, so that no results are lost to it."""
    run = wandb.run
    if run is None:
        return
    limit: float = run.settings.finish_timeout or LIMITS["finish_timeout"]
    watchdog = Timer(limit + HUNG_SECONDS, _kill_process)
    watchdog.start()
    try:
        run.finish(exit_code=exit_code)
    except Exception as error:
        _report(f"{str(error).rstrip('.') or 'its process has ended'}: not everything was uploaded.", run)
        if not isinstance(error, TimeoutError):
            _abandon()
    finally:
        watchdog.cancel()


def _kill_process() -> None:
    """Kill W&B's own process, because `finish` waits for it without a limit."""
    with suppress(AttributeError):  # it has ended already
        singleton()._connection._proc._process.kill()  # type: ignore[union-attr]


def _abandon() -> None:
    """Abandon W&B's process, which may be dead, so that the next run starts a new one."""

    def tear_down() -> None:
        with suppress(Exception):
            wandb.teardown()

    thread = Thread(target=tear_down, daemon=True)  # it waits for that process, without a limit
    thread.start()
    thread.join(LIMITS["finish_timeout"])
    wandb.run = None


def _report(message: str, run: Any = None) -> None:
    upload = f" Upload it later: python src/sync.py runs={shorten(Path(run.settings.sync_dir))}" if run else ""
    print(f"W&B: {message}{upload}", file=sys.stderr, flush=True)
