"""W&B logs online while its server answers. If it fails, the training continues and its data stay on disk."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import wandb
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import OmegaConf
from wandb.proto.wandb_internal_pb2 import Record
from wandb.sdk import wandb_setup

from flowers import commands
from flowers.ensembling.ensemble import ensemble
from flowers.errors import InputError
from flowers.reporting.ensemble import log_ensemble
from flowers.reporting.ensemble_report import make_ensemble_report
from flowers.system.termination import Terminated
from flowers.training import loggers
from flowers.training.loggers import (
    exit_code_of,
    find_api_key,
    find_server_problem,
    finish_wandb_run,
    finished_wandb_run,
    wandb_logger,
)
from tests.helpers.ensembles import settings
from tests.helpers.members import make_rows, write_run
from tests.helpers.wandb_server import API_KEY, WandbServer, read_records, wandb_server

LIMIT = 1.0
"""Seconds for each wait that a failing server uses up. Other waits are long, as machines may be busy."""

ANYWHERE = "https://wandb.example:8443"


@pytest.fixture(autouse=True)
def netrc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Log out of W&B and clear its settings. Yield the path of the netrc file."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setattr(loggers, "PROBE_SECONDS", 20.0)
    monkeypatch.setattr(loggers, "LIMITS", {"init_timeout": 20.0, "finish_timeout": 20.0})
    wandb.teardown()
    yield tmp_path / "netrc"
    wandb.run = None
    wandb.teardown()


@pytest.fixture
def short_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the time for W&B to start a run."""
    monkeypatch.setattr(loggers, "PROBE_SECONDS", LIMIT)
    monkeypatch.setitem(loggers.LIMITS, "init_timeout", LIMIT)


@pytest.fixture
def short_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the time for W&B to finish a run."""
    monkeypatch.setitem(loggers.LIMITS, "finish_timeout", LIMIT)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    """Yield a server that answers, with this process logged in to it."""
    with wandb_server() as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        yield server


def log(directory: Path, values: int = 3) -> loggers.FallbackWandbLogger:
    """Start a run that logs its configuration and a few values."""
    logger = wandb_logger(str(directory), "flowers")
    assert isinstance(logger, loggers.FallbackWandbLogger)
    logger.log_hyperparams({"seed": 0})
    for step in range(values):
        logger.log_metrics({"loss": float(step)}, step)
    return logger


def read_finished(directory: Path) -> list[Record]:
    """Read the records of a finished run, once W&B's process has closed the file."""
    deadline = time.monotonic() + 10
    while not any(record.HasField("exit") for record in read_records(directory)):
        assert time.monotonic() < deadline, "no end of the run in its file"
        time.sleep(0.05)
    return read_records(directory)


def assert_complete(directory: Path, values: int = 3, exit_code: int = 0) -> None:
    """Assert that the run in this directory holds all logged values and its end, so that `sync.py` can upload it."""
    records = read_finished(directory)
    assert sum(record.WhichOneof("record_type") == "history" for record in records) == values
    assert [record.exit.exit_code for record in records if record.HasField("exit")] == [exit_code]


def find_sync_directory(text: str) -> Path:
    """Return the directory in the sync command of a text of one line."""
    assert text.count("\n") == 1 and text.startswith("W&B: "), text
    return Path(text.split("python src/sync.py runs=")[1].strip())


def test_without_a_login_no_key_is_found() -> None:
    assert find_api_key(ANYWHERE) is None


def test_a_key_is_found_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", API_KEY)
    assert find_api_key(ANYWHERE) == API_KEY


def test_a_key_is_found_in_netrc(netrc: Path) -> None:
    netrc.write_text("machine wandb.example:8443\n  login user\n  password secret\n")
    assert find_api_key(ANYWHERE) == "secret"
    assert find_api_key("https://elsewhere.example") is None
    netrc.write_text("machine api.wandb.ai\n  login user\n  password secret\n")
    assert find_api_key("https://api.forge.coreweave.com") == "secret"
    netrc.write_text("not a netrc file")
    assert find_api_key(ANYWHERE) is None


def test_a_server_that_answers_has_no_problem() -> None:
    with wandb_server() as server:
        assert find_server_problem(server.url, API_KEY, LIMIT) is None


@pytest.mark.parametrize(("behaviour", "problem"), [("hang", f" {LIMIT:g} s"), (503, "503"), (401, "key")])
def test_a_server_that_fails_has_a_problem(behaviour: str | int, problem: str) -> None:
    with wandb_server(behaviour) as server:  # type: ignore[arg-type]
        assert problem in str(find_server_problem(server.url, API_KEY, LIMIT))


def test_without_a_key_a_refusal_counts_as_an_answer() -> None:
    with wandb_server(401) as server:
        assert find_server_problem(server.url, None, LIMIT) is None


def test_slow_name_resolution_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(*_: object, **__: object) -> None:
        time.sleep(1.5)
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    start = time.monotonic()
    assert "no answer" in str(find_server_problem(ANYWHERE, None, 0.2))
    assert time.monotonic() - start < 1


def test_a_mode_that_does_not_exist_is_an_input_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WANDB_MODE", "onlin")
    with pytest.raises(InputError, match=r"WANDB_MODE=onlin.*offline"):
        wandb_logger(str(tmp_path), "flowers")


def test_a_run_with_a_server_that_answers_is_online(
    server: WandbServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log(tmp_path)
    finish_wandb_run(0)
    (directory,) = tmp_path.glob("wandb/run-*")
    assert_complete(directory)
    assert any(b'"exitcode":0' in body for body in server.bodies)
    assert "W&B: " not in capfd.readouterr().err


@pytest.mark.usefixtures("short_start")
@pytest.mark.parametrize("failure", ["refuses", "hangs", 500, 401, "hangs on UpsertBucket"])
def test_with_a_failing_server_the_run_is_offline(
    failure: str | int, server: WandbServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    if failure == "refuses":
        server.vanish()
    elif failure == "hangs":
        server.behaviour = "hang"
    elif isinstance(failure, int):
        server.behaviour = failure
    else:
        server.hang_on = ("UpsertBucket",)
    log(tmp_path)
    lines = [line for line in capfd.readouterr().err.splitlines(keepends=True) if "W&B: " in line]
    finish_wandb_run(0)
    directory = find_sync_directory("".join(lines))
    assert directory.parent == tmp_path / "wandb" and directory.name.startswith("offline-run-")
    assert_complete(directory)
    assert list(tmp_path.glob("wandb/*run-*/*.wandb")) == list(directory.glob("*.wandb"))


@pytest.mark.usefixtures("short_end")
@pytest.mark.parametrize("failure", ["vanishes", "hangs", 500])
def test_a_server_that_fails_later_does_not_delay_the_end(
    failure: str | int, server: WandbServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    logger = log(tmp_path)
    if failure == "vanishes":
        server.vanish()
    else:
        server.behaviour = "hang" if failure == "hangs" else int(failure)
    logger.log_metrics({"loss": 9.0}, 9)
    capfd.readouterr()
    start = time.monotonic()
    finish_wandb_run(0)
    assert time.monotonic() - start < LIMIT + 5
    lines = [line for line in capfd.readouterr().err.splitlines(keepends=True) if "W&B: " in line]
    directory = find_sync_directory("".join(lines))
    assert directory == next(tmp_path.glob("wandb/run-*"))
    assert_complete(directory, values=4)


def test_the_next_run_of_a_process_asks_the_server_again(server: WandbServer, tmp_path: Path) -> None:
    log(tmp_path / "first job")
    finish_wandb_run(0)
    server.vanish()
    log(tmp_path / "next job")
    finish_wandb_run(0)
    assert_complete(next(tmp_path.glob("first job/wandb/run-*")))
    assert_complete(next(tmp_path.glob("next job/wandb/offline-run-*")))


def test_a_dead_process_of_wandb_does_not_end_a_training(
    server: WandbServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    logger = log(tmp_path)
    os.kill(wandb_setup.singleton()._connection._proc._process.pid, signal.SIGKILL)  # type: ignore[union-attr]
    time.sleep(0.2)
    for step in range(3):
        logger.log_metrics({"loss": 1.0}, step)
    logger.log_hyperparams({"seed": 1})
    finish_wandb_run(0)
    assert wandb.run is None
    assert capfd.readouterr().err.count("W&B: ") == 2  # at the first loss, and at the end

    log(tmp_path / "next job")
    finish_wandb_run(0)
    assert_complete(next(tmp_path.glob("next job/wandb/run-*")))


@pytest.mark.usefixtures("short_end")
def test_a_process_of_wandb_that_hangs_is_killed(
    server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(loggers, "HUNG_SECONDS", 1.0)
    log(tmp_path)
    os.kill(wandb_setup.singleton()._connection._proc._process.pid, signal.SIGSTOP)  # type: ignore[union-attr]
    start = time.monotonic()
    finish_wandb_run(0)
    assert time.monotonic() - start < 2 * loggers.LIMITS["finish_timeout"] + 10
    assert wandb.run is None
    assert capfd.readouterr().err.count("W&B: ") == 1


def test_without_a_key_a_run_is_offline_without_a_message(
    server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    log(tmp_path)
    finish_wandb_run(0)
    assert_complete(next(tmp_path.glob("wandb/offline-run-*")))
    assert "W&B: " not in capfd.readouterr().err
    assert server.requests == []


def test_a_run_has_its_team_and_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    logger = wandb_logger(str(tmp_path), "flowers", entity="botany", group="folds", name="first", tags=["a"])
    logger.log_metrics({"loss": 1.0}, 0)
    run = wandb.run
    assert run is not None
    found = (run.settings.entity, run.settings.run_group, run.settings.run_name, run.settings.run_tags)
    finish_wandb_run(0)
    assert found == ("botany", "folds", "first", ("a",))


@pytest.mark.parametrize(("mode", "runs"), [("offline", 1), ("disabled", 0)])
def test_the_mode_in_the_environment_is_used(
    mode: str, runs: int, server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", mode)
    log(tmp_path)
    finish_wandb_run(0)
    assert server.requests == []
    assert len(list(tmp_path.glob("wandb/offline-run-*"))) == runs


def test_in_online_mode_the_server_is_not_probed(
    server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    log(tmp_path)
    finish_wandb_run(0)
    assert "Probe" not in server.requests and "UpsertBucket" in server.requests


def test_other_ranks_make_no_request(server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    logger = wandb_logger(str(tmp_path), "flowers")
    logger.log_hyperparams({"seed": 0})
    logger.experiment.log({"loss": 0.0})
    finish_wandb_run(0)
    assert wandb.run is None and server.requests == []


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError(), 1),
        (SystemExit(143), 143),
        (SystemExit("error: no"), 1),
        (SystemExit(), 0),
    ],
)
def test_an_error_has_the_exit_code_of_its_process(error: BaseException, code: int) -> None:
    assert exit_code_of(error) == code


def test_an_offline_run_that_fails_is_recorded_as_failed(tmp_path: Path) -> None:
    with pytest.raises(SystemExit), finished_wandb_run():
        log(tmp_path)
        raise Terminated(signal.SIGINT)
    assert_complete(next(tmp_path.glob("wandb/offline-run-*")), exit_code=130)


def test_a_training_that_fails_is_recorded_as_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(config: object) -> None:
        log(tmp_path)
        raise RuntimeError

    monkeypatch.setattr("flowers.training.train.train", fail)
    with pytest.raises(RuntimeError):
        commands._train(OmegaConf.create({"resume": False}))
    assert_complete(next(tmp_path.glob("wandb/offline-run-*")), exit_code=1)


def blend(directory: Path) -> None:
    """Ensemble two trainings, and log the result to W&B."""
    rows = [(make_rows(60, seed), make_rows(30, seed, first=1000)) for seed in range(2)]
    runs = [write_run(directory / f"run{at}", val, test) for at, (val, test) in enumerate(rows)]
    target = {"_target_": "flowers.training.loggers.wandb_logger", "save_dir": str(directory), "project": "flowers"}
    config = settings(directory / "out", runs, logger={"wandb": target})
    result = ensemble(config)
    log_ensemble(result, make_ensemble_report(result, ""), config.logger)


def test_tables_and_artifacts_are_uploaded(
    server: WandbServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    blend(tmp_path)
    assert "W&B: " not in capfd.readouterr().err
    assert_complete(next(tmp_path.glob("wandb/run-*")), values=2)
    (run,) = server.runs.values()
    (tables,) = (row for row in run.history() if "ensemble/members" in row)
    shown = json.loads(run.files[tables["ensemble/members"]["path"]])["data"]
    assert len(shown) == tables["ensemble/members"]["nrows"] == 2
    assert json.loads(server.artifacts["ensemble/members.table.json"])["data"] == shown
    assert server.requests.count("CommitArtifact") == server.requests.count("CreateArtifact") > 1
    types = list(server.artifact_types.values())
    assert types.count("predictions") == 1 and "run_table" in types


def test_an_artifact_keeps_its_type(server: WandbServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    logger = log(tmp_path)
    logger.try_within_limit(lambda: log_artifact(logger, "model"))
    finish_wandb_run(0)
    assert server.artifact_types == {"roses": "model"}
    logger = log(tmp_path)
    logger.try_within_limit(lambda: log_artifact(logger, "model"))
    assert "W&B: " not in capfd.readouterr().err
    logger.try_within_limit(lambda: log_artifact(logger, "dataset"))
    assert "already exists with type 'model'" in capfd.readouterr().err
    finish_wandb_run(0)


def log_artifact(logger: loggers.FallbackWandbLogger, kind: str) -> None:
    artifact = wandb.Artifact("roses", kind)
    with artifact.new_file("petals.txt") as file:
        file.write("five")
    logger.experiment.log_artifact(artifact)


@pytest.mark.usefixtures("short_end")
@pytest.mark.parametrize("failure", ["refuses", "hangs after the start"])
def test_an_ensemble_is_complete_without_its_server(
    failure: str, server: WandbServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    if failure == "refuses":
        server.vanish()
    else:
        server.hang_on = ("ArtifactType", "CreateRunFiles", "file_stream")
    start = time.monotonic()
    blend(tmp_path)
    assert time.monotonic() - start < 4 * LIMIT + 20
    lines = [line for line in capfd.readouterr().err.splitlines(keepends=True) if "W&B: " in line]
    directory = find_sync_directory("".join(line for line in lines if "sync.py" in line))
    assert directory.name.startswith("offline-run-" if failure == "refuses" else "run-")
    assert_complete(directory, values=2 if failure == "refuses" else 1)
    tables = list(directory.glob("files/media/table/ensemble/members_*.table.json"))
    # A hanging server is asked before a table is logged, so a line reports that the table was not logged.
    assert len(tables) == (1 if failure == "refuses" else 0)
    assert len(lines) == (1 if failure == "refuses" else 2)
