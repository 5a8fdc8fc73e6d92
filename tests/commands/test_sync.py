"""`sync.py` uploads each row of offline W&B runs once, despite damaged files, failing servers and killed processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess
from threading import Thread

import pytest
import wandb
from filelock import FileLock

from tests.helpers.commands import ROOT, ScriptProcess, run_script
from tests.helpers.wandb_runs import AXIS, copy_offline, find_wandb_file, log_run, settle, write_results
from tests.helpers.wandb_server import BLOCK, WandbServer, wandb_server

QUICK = {
    "WANDB__GRAPHQL_RETRY_MAX": "1",
    "WANDB__GRAPHQL_RETRY_WAIT_MIN_SECONDS": "1",
    "WANDB__GRAPHQL_TIMEOUT_SECONDS": "1",
    "WANDB__FILE_STREAM_RETRY_MAX": "1",
    "WANDB__FILE_STREAM_RETRY_WAIT_MIN_SECONDS": "1",
    "WANDB__FILE_STREAM_TIMEOUT_SECONDS": "1",
    "WANDB__FILE_TRANSFER_RETRY_MAX": "1",
    "WANDB__FILE_TRANSFER_RETRY_WAIT_MIN_SECONDS": "1",
    "WANDB__FILE_TRANSFER_TIMEOUT_SECONDS": "1",
}
"""Short timeouts and few retries for a server that fails."""

EXTRA = {"media/strip.txt": "an image"}


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished offline run of steps 0 to 4 with a file. Read only."""
    return log_run(tmp_path_factory.mktemp("offline"), "abc00001", range(5), EXTRA)


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the same run, resumed offline for steps 5 to 7. Read only."""
    return log_run(tmp_path_factory.mktemp("resumed"), "abc00001", range(5, 8))


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an offline run of several blocks of the file format. Read only."""
    directory = log_run(tmp_path_factory.mktemp("long"), "abc00001", range(400))
    assert find_wandb_file(directory).stat().st_size > 3 * BLOCK
    return directory


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[WandbServer]:
    """Yield a server that answers, with this process logged in to it and nowhere else."""
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    with wandb_server() as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        yield server


def sync(place: Path, *overrides: str, **environment: str) -> CompletedProcess[str]:
    return run_script("sync", f"runs={place}", *overrides, **environment)


def uploaded_steps(server: WandbServer, run_id: str = "abc00001") -> list[int]:
    """Return the steps of a run on the server, after checking the value logged at each."""
    rows = [row for row in server.runs[run_id].history() if "train/loss" in row]
    assert all(row["train/loss"] == 10 * row[AXIS] for row in rows)
    order = [row["_step"] for row in rows]
    assert order == sorted(set(order))
    return [row[AXIS] for row in rows]


def is_marked(directory: Path) -> bool:
    return any(directory.glob("*.wandb.synced"))


def test_runs_are_uploaded_once(server: WandbServer, offline: Path, tmp_path: Path) -> None:
    first = copy_offline(offline, tmp_path / "logs/train/runs/first")
    second = copy_offline(log_run(tmp_path / "elsewhere", "abc00002", range(2)), tmp_path / "logs/second")
    done = sync(tmp_path / "logs")
    assert done.returncode == 0, done.stdout + done.stderr
    assert uploaded_steps(server) == [0, 1, 2, 3, 4] and uploaded_steps(server, "abc00002") == [0, 1]
    run = server.runs["abc00001"]
    assert (run.exit_code, run.config()["model"]) == (0, {"backbone": "tiny"})
    assert run.variables["tags"] == ["a", "b"]
    assert run.files["media/strip.txt"] == b"an image"
    assert is_marked(first) and is_marked(second)
    assert f"{server.url}/me/flowers/runs/abc00001" in done.stdout
    server.requests.clear()

    again = sync(tmp_path / "logs")
    assert again.returncode == 0 and "2 already uploaded" in again.stdout
    assert server.requests == []


def test_without_offline_runs_no_login_is_needed(tmp_path: Path) -> None:
    done = sync(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_place_that_does_not_exist_is_reported(tmp_path: Path) -> None:
    done = sync(tmp_path / "nowhere")
    assert done.returncode == 1 and f"runs={tmp_path / 'nowhere'}" in done.stderr


def test_several_places_are_uploaded_if_all_exist(server: WandbServer, offline: Path, tmp_path: Path) -> None:
    first = copy_offline(offline, tmp_path / "a")
    done = run_script("sync", f"runs=[{first},{tmp_path / 'b'}]")
    assert done.returncode == 1 and not is_marked(first)
    (tmp_path / "b").mkdir()
    assert run_script("sync", f"runs=[{first},{tmp_path / 'b'}]").returncode == 0
    assert is_marked(first)


def test_an_online_run_is_uploaded_again_if_it_is_named(server: WandbServer, tmp_path: Path) -> None:
    online = log_run(tmp_path, "abc00001", range(5), EXTRA, mode="online")
    del server.runs["abc00001"].files["media/strip.txt"]
    server.requests.clear()
    assert sync(tmp_path).returncode == 0 and server.requests == []
    assert sync(online).returncode == 0 and uploaded_steps(server) == [0, 1, 2, 3, 4]
    assert server.runs["abc00001"].files["media/strip.txt"] == b"an image"


def test_a_bad_run_does_not_stop_the_others(server: WandbServer, offline: Path, tmp_path: Path) -> None:
    bad = copy_offline(offline, tmp_path / "bad", run_id="bad00000")
    find_wandb_file(bad).write_bytes(b"no W&B file")
    settle(find_wandb_file(bad))
    good = copy_offline(offline, tmp_path / "good", "20260101_000001")
    for _ in range(2):
        done = sync(tmp_path)
        assert done.returncode == 1
        assert str(bad) in done.stdout and "config.yaml" in done.stdout and "bad00000" not in server.runs
        assert is_marked(good) and not is_marked(bad) and uploaded_steps(server) == [0, 1, 2, 3, 4]
        assert find_wandb_file(bad).read_bytes() == b"no W&B file"


def test_all_that_a_killed_process_wrote_is_uploaded(server: WandbServer, long: Path, tmp_path: Path) -> None:
    directory = copy_offline(long, tmp_path)
    file = find_wandb_file(directory)
    os.truncate(file, file.stat().st_size // 2)
    settle(file)
    before = file.read_bytes()
    done = sync(directory)
    assert done.returncode == 0, done.stdout
    found = uploaded_steps(server)
    assert 100 < len(found) < 300 and found == list(range(len(found)))
    assert server.runs["abc00001"].exit_code == 1  # W&B shows it as failed
    assert is_marked(directory) and file.read_bytes() == before


def overwrite(file: Path, position: int) -> None:
    with file.open("r+b") as stream:
        stream.seek(position)
        stream.write(b"\xff" * 20)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "garbage": lambda file: file.write_bytes(os.urandom(5000)),
    "empty": lambda file: file.write_bytes(b""),
    "header only": lambda file: os.truncate(file, 7),
    "missing": Path.unlink,
    "damaged in the middle": lambda file: overwrite(file, file.stat().st_size // 2),
    "damaged at its end": lambda file: overwrite(file, file.stat().st_size - 20),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_run_is_rebuilt(damage: str, server: WandbServer, long: Path, tmp_path: Path) -> None:
    directory = copy_offline(long, tmp_path)
    write_results(tmp_path, range(250), range(250, 400))
    file = find_wandb_file(directory)
    DAMAGES[damage](file)
    before = file.read_bytes() if file.exists() else None
    if before is not None:
        settle(file)
    done = sync(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert uploaded_steps(server) == list(range(400))
    run = server.runs["abc00001"]
    assert run.summary()["best/val/loss"] == 0.25 and run.exit_code == 0
    assert run.config()["model"]["backbone"] == "tiny"
    assert run.variables["tags"] == ["a", "b"] and run.variables["project"] == "flowers"
    saved = [path.read_bytes() for path in directory.glob("*.damaged")]
    assert saved == ([] if before is None else [before])
    server.requests.clear()
    assert sync(tmp_path).returncode == 0 and server.requests == []


def test_a_rebuilt_run_has_the_names_of_its_configuration(server: WandbServer, offline: Path, tmp_path: Path) -> None:
    file = find_wandb_file(copy_offline(offline, tmp_path))
    file.write_bytes(b"")
    settle(file)
    write_results(tmp_path, range(5))
    assert sync(tmp_path).returncode == 0
    variables = server.runs["abc00001"].variables
    names = [variables[name] for name in ("project", "entity", "groupName", "displayName", "tags")]
    assert names == ["flowers", "botany", "folds", "first", ["a", "b"]]
    assert [row["epoch"] for row in server.runs["abc00001"].history()] == [0] * 5


@pytest.mark.slow
def test_a_failed_upload_of_a_rebuilt_run_is_repeated(server: WandbServer, offline: Path, tmp_path: Path) -> None:
    file = find_wandb_file(copy_offline(offline, tmp_path))
    file.write_bytes(b"")
    settle(file)
    write_results(tmp_path, range(5))
    server.hang_on = ("CreateRunFiles",)
    assert sync(tmp_path, **QUICK).returncode == 1
    server.hang_on = ()
    assert sync(tmp_path).returncode == 0
    assert uploaded_steps(server) == [0, 1, 2, 3, 4]
    assert len(list(tmp_path.glob("wandb/offline-run-*"))) == 2


def test_a_resumed_run_is_uploaded_as_one_run(
    server: WandbServer, offline: Path, resumed: Path, tmp_path: Path
) -> None:
    second = copy_offline(resumed, tmp_path, "20260101_000001")
    first = copy_offline(offline, tmp_path, "20260101_000000")
    assert sync(second).returncode == 0
    assert uploaded_steps(server) == list(range(8))
    assert server.runs["abc00001"].files["media/strip.txt"] == b"an image"
    assert is_marked(first) and is_marked(second)


@pytest.mark.slow
def test_a_run_may_be_resumed_after_its_upload(
    server: WandbServer, offline: Path, resumed: Path, tmp_path: Path
) -> None:
    first = copy_offline(offline, tmp_path, "20260101_000000")
    assert sync(tmp_path).returncode == 0
    copy_offline(resumed, tmp_path, "20260101_000001")
    server.hang_on = ("CreateRunFiles",)  # the metrics arrive, but the files do not
    assert sync(tmp_path, **QUICK).returncode == 1
    server.hang_on = ()
    assert sync(tmp_path).returncode == 0
    assert uploaded_steps(server) == list(range(8))
    assert is_marked(first)


def test_a_part_is_appended_to_parts_that_were_removed_here(
    server: WandbServer, offline: Path, resumed: Path, tmp_path: Path
) -> None:
    first = copy_offline(offline, tmp_path, "20260101_000000")
    assert sync(tmp_path).returncode == 0
    shutil.rmtree(first)
    copy_offline(resumed, tmp_path, "20260101_000001")
    assert sync(tmp_path).returncode == 0
    assert uploaded_steps(server) == list(range(8))


def test_without_a_key_no_request_is_made(
    server: WandbServer, offline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = copy_offline(offline, tmp_path)
    monkeypatch.delenv("WANDB_API_KEY")
    done = sync(tmp_path)
    assert done.returncode == 1 and "wandb login" in done.stderr and "Traceback" not in done.stderr
    assert server.requests == [] and not is_marked(directory)


@pytest.mark.slow
@pytest.mark.parametrize("failure", [401, 500, "hangs", "is down"])
def test_a_server_that_cannot_be_used_ends_the_command_soon(
    failure: int | str, server: WandbServer, offline: Path, tmp_path: Path
) -> None:
    directories = [copy_offline(offline, tmp_path / name, run_id=f"abc0000{name}") for name in "123"]
    if failure == "is down":
        server.vanish()
    else:
        server.behaviour = failure if isinstance(failure, int) else "hang"
    start = time.monotonic()
    done = sync(tmp_path)
    assert time.monotonic() - start < 30
    assert done.returncode == 1 and server.url in done.stderr and "Traceback" not in done.stderr
    assert not any(map(is_marked, directories))


@pytest.mark.slow
@pytest.mark.parametrize("part", ["file_stream", "/put/", "CreateRunFiles", "UpsertBucket"])
def test_an_incomplete_upload_is_not_marked(part: str, server: WandbServer, offline: Path, tmp_path: Path) -> None:
    directory = copy_offline(offline, tmp_path)
    server.hang_on = (part,)
    start = time.monotonic()
    done = sync(tmp_path, **QUICK)
    assert time.monotonic() - start < 40
    assert done.returncode == 1 and not is_marked(directory), done.stdout
    server.hang_on = ()
    assert sync(tmp_path).returncode == 0
    assert uploaded_steps(server) == [0, 1, 2, 3, 4] and is_marked(directory)
    assert server.runs["abc00001"].files["media/strip.txt"] == b"an image"


@pytest.mark.slow
def test_an_upload_that_takes_too_long_is_stopped(server: WandbServer, offline: Path, tmp_path: Path) -> None:
    directory = copy_offline(offline, tmp_path)
    server.hang_on = ("file_stream",)
    start = time.monotonic()
    done = sync(tmp_path, "timeout=4")
    assert time.monotonic() - start < 30
    assert done.returncode == 1 and "timeout" in done.stdout and not is_marked(directory)


@pytest.mark.slow
def test_after_the_server_has_vanished_no_run_is_uploaded(server: WandbServer, offline: Path, tmp_path: Path) -> None:
    directories = [copy_offline(offline, tmp_path / name, run_id=f"abc0000{name}") for name in "123"]
    server.hang_on = ("file_stream",)

    def vanish() -> None:
        while not any("file_stream" in name for name in server.requests):
            time.sleep(0.05)
        server.vanish()

    Thread(target=vanish, daemon=True).start()
    start = time.monotonic()
    done = sync(tmp_path, **QUICK)
    assert time.monotonic() - start < 40
    assert done.returncode == 1 and not any(map(is_marked, directories))
    assert all(str(directory) in done.stdout for directory in directories)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_upload_is_repeated(
    number: signal.Signals, server: WandbServer, offline: Path, resumed: Path, tmp_path: Path
) -> None:
    directories = [
        copy_offline(offline, tmp_path, "20260101_000000"),
        copy_offline(resumed, tmp_path, "20260101_000001"),
    ]
    server.hang_on = ("CreateRunFiles",)
    process = ScriptProcess("sync", f"runs={tmp_path}", **server.environment())
    while "CreateRunFiles" not in server.requests:
        assert process.process.is_alive(), process.stderr
        time.sleep(0.05)
    os.kill(process.pid, number)
    assert process.wait().returncode in (-number, 128 + number)
    assert not any(map(is_marked, directories))
    server.hang_on = ()
    assert sync(tmp_path).returncode == 0
    assert uploaded_steps(server) == list(range(8)) and all(map(is_marked, directories))


def test_a_running_training_is_not_uploaded(server: WandbServer, offline: Path, tmp_path: Path) -> None:
    directory = copy_offline(offline, tmp_path)
    with FileLock(tmp_path / ".lock"):
        done = sync(tmp_path)
        assert done.returncode == 0 and "1 running" in done.stdout and not is_marked(directory)
    assert sync(tmp_path).returncode == 0 and is_marked(directory)


def test_without_a_lock_a_growing_file_is_not_uploaded(server: WandbServer, long: Path, tmp_path: Path) -> None:
    file = find_wandb_file(copy_offline(long, tmp_path))
    os.truncate(file, file.stat().st_size // 2)
    done = sync(tmp_path)
    assert done.returncode == 0 and "1 running" in done.stdout and not server.runs
    settle(file)
    assert sync(tmp_path).returncode == 0 and server.runs


def test_a_read_only_directory_is_reported(server: WandbServer, offline: Path, tmp_path: Path) -> None:
    directory = copy_offline(offline, tmp_path / "run")
    command = [sys.executable, str(ROOT / "src/sync.py"), f"runs={directory}"]
    if os.getuid() == 0:  # root may write wherever the mount is not read-only
        mount = f"mount --bind {directory} {directory} && mount -o remount,bind,ro {directory}"
        command = ["unshare", "--mount", "sh", "-c", f'{mount} && exec "$@"', "sh", *command]
    else:
        directory.chmod(0o555)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    directory.chmod(0o755)
    assert done.returncode == 1 and str(directory) in done.stdout and "read-only" in done.stdout, done.stderr
    assert "Traceback" not in done.stderr and not server.runs


@pytest.mark.slow
def test_the_files_of_artifacts_are_uploaded_after_a_failure(
    server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "wandb"))  # as the trainings' logger does
    run = wandb.init(dir=tmp_path, project="flowers", mode="offline", id="abc00001", resume="allow")
    run.log({"table": wandb.Table(["a"], [[1], [2]])})
    run.finish()
    wandb.teardown()
    server.hang_on = ("CreateArtifactFiles",)
    assert sync(tmp_path, **QUICK).returncode == 1
    server.hang_on = ()
    assert sync(tmp_path).returncode == 0
    assert json.loads(server.artifacts["table.table.json"])["data"] == [[1], [2]]
