"""Offline runs are found, staged and repaired, and the problems of an upload are detected."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from wandb.proto.wandb_internal_pb2 import Record

from flowers.errors import InputError
from flowers.reporting.wandb_log import read_log, write_log
from flowers.reporting.wandb_rebuild import logged_metrics, missing_rows
from flowers.reporting.wandb_sync import Part, find_problem, find_runs, repair, set_aside, stage
from tests.helpers.wandb_runs import AXIS


def write_offline_run(
    directory: Path, *, marked: bool = False, starting_step: int | None = None, steps: int = 1, ended: bool = False
) -> Path:
    """Write a run's W&B directory with a log of `steps` rows."""
    run_id = directory.name.rpartition("-")[2]
    records = [Record(), *(Record() for _ in range(steps))]
    records[0].run.run_id = run_id
    for number, record in enumerate(records[1:]):
        record.history.item.add(nested_key=["_step"], value_json=str(number))
        record.history.step.num = number
    if ended:
        records.append(Record())
        records[-1].exit.exit_code = 0
    (directory / "files" / "media").mkdir(parents=True)
    (directory / "files" / "media" / f"{directory.name}.txt").write_text("media")
    (directory / "files" / "config.yaml").write_text(directory.name)
    file = directory / f"run-{run_id}.wandb"
    write_log(file, records)
    if marked:
        file.with_name(f"{file.name}.synced").touch()
    if starting_step is not None:
        file.with_name(f"{file.name}.syncstate").write_text(json.dumps({"starting_step": starting_step}))
    return directory


def directory_names(parts: object) -> list[str]:
    return [part.directory.name for part in parts]  # type: ignore[attr-defined]


def test_runs_are_found_at_any_depth_in_order_of_time(tmp_path: Path) -> None:
    write_offline_run(tmp_path / "a/b/wandb/offline-run-20260103_000000-c")
    write_offline_run(tmp_path / "z/wandb/offline-run-20260101_000000-a")
    write_offline_run(tmp_path / "z/wandb/run-20260102_000000-b")  # online
    write_offline_run(tmp_path / "z/other/offline-run-20260102_000000-b")  # not W&B's
    (tmp_path / "z/wandb/latest-run").symlink_to("offline-run-20260101_000000-a")
    expected = ["offline-run-20260101_000000-a", "offline-run-20260103_000000-c"]
    assert [run.directory.name for run in find_runs(str(tmp_path))] == expected
    assert [run.directory.name for run in find_runs([str(tmp_path / "z"), str(tmp_path / "a")])] == expected
    assert [run.directory.name for run in find_runs([str(tmp_path)] * 2)] == expected


def test_a_place_may_be_a_wandb_directory(tmp_path: Path) -> None:
    directory = write_offline_run(tmp_path / "wandb/offline-run-20260101_000000-a")
    (tmp_path / "wandb/latest-run").symlink_to(directory.name)
    for place in (tmp_path, tmp_path / "wandb", directory, tmp_path / "wandb/latest-run"):
        (run,) = find_runs(str(place))
        assert run.directory == directory


def test_an_online_run_is_synced_only_if_it_is_named(tmp_path: Path) -> None:
    online = write_offline_run(tmp_path / "wandb/run-20260101_000000-a")
    offline = write_offline_run(tmp_path / "wandb/offline-run-20260102_000000-a")
    (run,) = find_runs(str(tmp_path))
    assert directory_names(run.parts) == [online.name, offline.name] and directory_names(run.wanted) == [offline.name]
    (run,) = find_runs(str(online))
    assert directory_names(run.wanted) == [online.name, offline.name]


def test_a_place_that_does_not_exist_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere"):
        find_runs(str(tmp_path / "nowhere"))


def stage_steps(tmp_path: Path) -> tuple[list[int], bool]:
    """Stage the one run in `tmp_path`. Return its steps, and whether they are appended to those on the server."""
    (run,) = find_runs(str(tmp_path))
    out = tmp_path / "out"
    out.mkdir()
    records = read_log(stage(run, out)).records
    steps = [record.history.step.num for record in records if record.HasField("history")]
    return steps, any(record.run.resume for record in records)


def test_on_a_first_upload_wandb_decides_where_a_run_begins(tmp_path: Path) -> None:
    write_offline_run(tmp_path / "wandb/offline-run-20260101_000000-a", steps=2)
    write_offline_run(tmp_path / "wandb/offline-run-20260102_000000-a", steps=3)
    assert stage_steps(tmp_path) == ([0, 1, 2, 3, 4], True)


def test_a_run_that_is_complete_here_is_rewritten_from_its_start(tmp_path: Path) -> None:
    write_offline_run(tmp_path / "wandb/offline-run-20260101_000000-a", steps=2, marked=True, starting_step=0)
    write_offline_run(tmp_path / "wandb/offline-run-20260102_000000-a", steps=3)
    assert stage_steps(tmp_path) == ([0, 1, 2, 3, 4], False)


def test_a_run_that_began_elsewhere_is_appended(tmp_path: Path) -> None:
    write_offline_run(tmp_path / "wandb/offline-run-20260101_000000-a", steps=2, marked=True, starting_step=7)
    write_offline_run(tmp_path / "wandb/offline-run-20260102_000000-a", steps=3)
    assert stage_steps(tmp_path) == ([0, 1, 2], True)


@pytest.mark.parametrize(("ended", "expected"), [(True, ([0, 1, 2, 3, 4], False)), (False, ([0, 1, 2], True))])
def test_an_online_part_is_rewritten_only_if_it_is_complete(
    ended: bool, expected: tuple[list[int], bool], tmp_path: Path
) -> None:
    write_offline_run(tmp_path / "wandb/run-20260101_000000-a", steps=2, starting_step=0, ended=ended)
    write_offline_run(tmp_path / "wandb/run-20260101_120000-a", steps=2)
    Part(tmp_path / "wandb/run-20260101_120000-a").file.unlink()  # of a run that could not be created online
    write_offline_run(tmp_path / "wandb/offline-run-20260102_000000-a", steps=3)
    assert stage_steps(tmp_path) == expected


def test_an_uploaded_part_that_was_damaged_later_is_not_rewritten(tmp_path: Path) -> None:
    first = write_offline_run(tmp_path / "wandb/offline-run-20260101_000000-a", steps=2, marked=True, starting_step=0)
    write_offline_run(tmp_path / "wandb/offline-run-20260102_000000-a", steps=3)
    Part(first).file.write_bytes(Part(first).file.read_bytes()[:-3] + b"\xff" * 3)
    assert stage_steps(tmp_path) == ([0, 1, 2], True)


def test_staged_files_come_from_all_parts_and_later_ones_take_precedence(tmp_path: Path) -> None:
    first = write_offline_run(tmp_path / "wandb/offline-run-20260101_000000-a")
    last = write_offline_run(tmp_path / "wandb/offline-run-20260102_000000-a")
    (run,) = find_runs(str(tmp_path))
    file = stage(run, tmp_path / "out")
    assert {path.name for path in file.parent.glob("files/media/*")} == {f"{first.name}.txt", f"{last.name}.txt"}
    assert (file.parent / "files/config.yaml").read_text() == last.name
    file.with_name(f"{file.name}.syncstate").write_text("state")  # as W&B does
    assert Part(first).state.read_text() == "state"
    assert not list(tmp_path.glob("wandb/*/*.synced"))


def test_the_readable_part_of_a_damaged_file_is_kept(tmp_path: Path) -> None:
    directory = write_offline_run(tmp_path / "wandb/offline-run-20260101_000000-a", steps=5)
    file = Part(directory).file
    before = file.read_bytes()
    damaged = before[:-10] + b"\xff" * 10
    file.write_bytes(damaged)
    (run,) = find_runs(str(tmp_path))
    _, reason = repair(run)
    assert "config.yaml" in reason  # it is missing, so the rest cannot be rebuilt
    assert read_log(file).damage is None and len(read_log(file).records) == 5
    assert file.with_name(f"{file.name}.damaged").read_bytes() == damaged


def test_setting_a_file_aside_replaces_no_earlier_one(tmp_path: Path) -> None:
    file = tmp_path / "run-a.wandb"
    for content in ("first", "second", "third"):
        file.write_text(content)
        set_aside(file)
    set_aside(file)
    assert sorted(path.read_text() for path in tmp_path.iterdir()) == ["first", "second", "third"]


def test_missing_rows_are_those_that_were_not_logged() -> None:
    record = Record()
    for name, value in (("train/loss", "1.5"), (AXIS, "3"), ("_step", "0")):
        record.history.item.add(nested_key=[name], value_json=value)
    logged = set(logged_metrics([record, Record()]))
    rows = [
        {"epoch": "0", "step": "3", "train/loss": "1.5", "val/loss": ""},
        {"epoch": "0", "step": "3", "train/loss": "", "val/loss": "0.5"},
        {"epoch": "1", "step": "4", "train/loss": "nan", "val/loss": ""},
        {"epoch": "1", "step": "5", "train/loss": "0.", "val/loss": None},  # the process was killed
        {"epoch": "1", "step": "", "train/loss": "2", "val/loss": ""},
    ]
    found = missing_rows(rows, logged)  # type: ignore[arg-type]
    assert [step for step, _ in found] == [3, 4, 5]
    assert found[0][1] == {"epoch": 0, "val/loss": 0.5}
    assert str(found[1][1]["train/loss"]) == "nan"


@pytest.mark.parametrize(
    ("output", "log", "expected"),
    [
        ("wandb: View run a at http://x\n", '{"level":"INFO","msg":"done"}\n{"level":"WARN","msg":"w"}', None),
        ("wandb: ERROR [me/flowers/a] Fatal error.\nwandb: Finished", "", "Fatal error."),
        ("wandb: Finished", '{"level":"ERROR","msg":"runupserter: failed","error":"403\\nmore"}', "failed: 403"),
        ("", "no JSON", None),
    ],
)
def test_a_problem_is_found_in_output_and_log(output: str, log: str, expected: str | None) -> None:
    found = find_problem(output, [log])
    assert (found is None) == (expected is None)
    assert expected is None or expected in str(found)
