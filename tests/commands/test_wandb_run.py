"""The offline W&B run of a training holds its settings, metrics, images, tables and artifacts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from wandb.proto.wandb_internal_pb2 import Record

from flowers.reporting.wandb_workspace import make_workspace
from flowers.training.runs import Run
from tests.helpers.commands import run_script
from tests.helpers.wandb_server import read_records, wandb_server


@pytest.fixture(scope="module")
def run(tiny_settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a run of two epochs that mixes its images."""
    directory = tmp_path_factory.mktemp("runs") / "run"
    settings = ["logger=default", "report=true", "model.mixup_alpha=1", "trainer.max_epochs=2"]
    settings.append("trainer.log_every_n_steps=2")
    done = run_script("train", *tiny_settings, *settings, "data.batch_size=26", f"hydra.run.dir={directory}")
    assert done.returncode == 0, done.stderr
    return directory


@pytest.fixture(scope="module")
def offline(run: Path) -> Path:
    (directory,) = run.glob("wandb/offline-run-*")
    return directory


@pytest.fixture(scope="module")
def records(offline: Path) -> list[Record]:
    return read_records(offline)


@pytest.fixture(scope="module")
def resumed(run: Path, offline: Path, tiny_settings: list[str]) -> Path:
    """Return the W&B run of the same training, resumed for an epoch."""
    settings = ["logger=default", "model.mixup_alpha=1", "trainer.max_epochs=3", "data.batch_size=26"]
    settings += [f"hydra.run.dir={run}"]
    done = run_script("train", *tiny_settings, *settings, f"ckpt_path={run}/checkpoints/last.ckpt")
    assert done.returncode == 0, done.stderr
    (directory,) = set(run.glob("wandb/offline-run-*")) - {offline}
    return directory


@pytest.fixture(scope="module")
def prediction_run(run: Path, offline: Path, resumed: Path) -> Path:
    """Return the W&B run of its predictions."""
    done = run_script("predict", "--multirun", f"run={run}", "split=val,test", "trainer=cpu")
    assert done.returncode == 0, done.stderr
    return sorted(set(run.glob("wandb/offline-run-*")) - {offline, resumed})[-1]


@pytest.fixture(scope="module")
def ensemble(prediction_run: Path, run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the W&B run of an ensemble of this one run."""
    directory = tmp_path_factory.mktemp("ensembles") / "ensemble"
    done = run_script("ensemble", f"runs=[{run}]", "methods=[mean]", "resamples=100", f"hydra.run.dir={directory}")
    assert done.returncode == 0, done.stderr
    (logged,) = directory.glob("wandb/offline-run-*")
    return logged


@pytest.fixture(scope="module")
def ensemble_records(ensemble: Path) -> list[Record]:
    return read_records(ensemble)


def item_values(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def run_record(records: list[Record]) -> Any:
    return next(record.run for record in records if record.HasField("run"))


def read_history(records: list[Record]) -> list[dict[str, Any]]:
    return [item_values(record.history.item) for record in records if record.HasField("history")]


def read_config(records: list[Record]) -> dict[str, Any]:
    """Return a run's configuration, including W&B's own values as `_wandb/...`."""
    found: dict[str, Any] = {}
    for record in records:
        found |= item_values(record.config.update) if record.HasField("config") else {}
    return found


def logged_names(records: list[Record]) -> set[str]:
    """Return the names that a run has logged, also in its summary, with the names of images and tables themselves."""
    names = {name for row in read_history(records) for name in row}
    names |= {name for record in records for name in item_values(record.summary.update)}
    return names | {name.removesuffix("/_type") for name in names}


def read_table(offline: Path, records: list[Record], name: str) -> dict[str, Any]:
    """Return the last table that was logged under a name."""
    paths = [row[f"{name}/path"] for row in read_history(records) if f"{name}/path" in row]
    read: dict[str, Any] = json.loads((offline / "files" / paths[-1]).read_text())
    return read


def test_the_run_has_the_composed_configuration(run: Path, records: list[Record]) -> None:
    logged, composed = read_config(records), yaml.safe_load((run / "config.yaml").read_text())
    assert logged["model"]["backbone"] == composed["model"]["backbone"] == "test_efficientnet"
    assert logged["trainer"]["max_epochs"] == 2
    assert logged["device"] == "cpu"
    assert run_record(records).job_type == "train"


def test_steps_have_the_metrics_of_a_step(records: list[Record]) -> None:
    rows = [row for row in read_history(records) if "train/loss_step" in row]
    assert [row["trainer/global_step"] for row in rows] == list(range(1, 16, 2))
    assert all(row["train/learning_rate"] > 0 and row["train/gradient_norm"] > 0 for row in rows)


def test_epochs_have_the_metrics_of_an_epoch(records: list[Record]) -> None:
    rows = [row for row in read_history(records) if "train/loader_wait" in row]
    assert len(rows) == 2
    assert all(0 <= row["train/loader_wait"] < 1 and row["train/images_per_second"] > 0 for row in rows)
    assert all(0.1 < row["train/device_memory"] < 64 for row in rows)
    assert sum("val/macro_f1" in row for row in read_history(records)) == 2


def test_the_summary_has_the_best_metrics(run: Path, records: list[Record]) -> None:
    found = {}
    for record in records:
        found |= item_values(record.summary.update) if record.HasField("summary") else {}
    metrics = json.loads((run / "metrics.json").read_text())
    assert {name: found[f"best/{name}"] for name in metrics} == pytest.approx(metrics)


def test_the_logged_training_images_are_mixed(offline: Path) -> None:
    (path,) = offline.glob("files/media/images/train/images_*.png")
    strip = np.asarray(Image.open(path))
    assert strip.shape == (64, 8 * 64, 3)


def test_each_validation_has_its_mistakes_with_images(offline: Path, records: list[Record]) -> None:
    rows = [row for row in read_history(records) if "val/mistakes/captions" in row]
    assert len(rows) == 2
    assert len(rows[-1]["val/mistakes/captions"]) == rows[-1]["val/mistakes/count"] == 8
    assert all((offline / "files" / name).is_file() for name in rows[-1]["val/mistakes/filenames"])


def test_scores_and_curves_are_logged_by_class(offline: Path, records: list[Record]) -> None:
    scores = read_table(offline, records, "val/classes")
    assert len(scores["data"]) == 104
    f1 = [row[scores["columns"].index("f1")] for row in scores["data"]]
    assert f1 == sorted(f1) and f1[0] < f1[-1]
    curves = read_table(offline, records, "val/precision_recall_table")["data"]
    assert {row[0] for row in curves} == {row[0] for row in read_table(offline, records, "val/classes")["data"]}
    confusion = read_table(offline, records, "val/confusion_table")["data"]
    assert sum(row[2] for row in confusion) == 104


def test_the_worst_mistakes_have_saliency(offline: Path, records: list[Record]) -> None:
    worst = read_table(offline, records, "val/worst_mistakes")
    assert worst["columns"][1:3] == ["image", "saliency"]
    assert all(row[1] == row[2] == "Image" for row in worst["data"])


def test_artifacts_refer_to_data_and_checkpoints(run: Path, garden: Path, records: list[Record]) -> None:
    artifacts = [record.artifact for record in records if record.HasField("artifact")]
    (data,) = [artifact for artifact in artifacts if artifact.type == "dataset"]
    shards = {entry.ref for entry in data.manifest.contents}
    assert shards == {path.as_uri() for path in (garden / "tfrecords-jpeg-192x192").rglob("*.tfrec")}
    assert all(entry.digest for entry in data.manifest.contents)
    models = {alias: artifact for artifact in artifacts if artifact.type == "model" for alias in artifact.aliases}
    for alias, name in (("best", "best.ckpt"), ("latest", "last.ckpt")):
        assert [entry.ref for entry in models[alias].manifest.contents] == [
            (run / "checkpoints" / name).resolve().as_uri()
        ]


def test_the_whole_run_is_uploaded(
    run: Path, offline: Path, records: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    shutil.copytree(offline, tmp_path / "wandb" / offline.name)
    with wandb_server() as server:
        done = run_script("sync", f"runs={tmp_path}", **server.environment())
        assert done.returncode == 0, done.stdout + done.stderr
        (uploaded,) = server.runs.values()
    assert [row["_step"] for row in uploaded.history()] == [row["_step"] for row in read_history(records)]
    assert uploaded.config()["model"]["backbone"] == "test_efficientnet"
    assert uploaded.summary()["best/val/macro_f1"] == json.loads((run / "metrics.json").read_text())["val/macro_f1"]
    media = {str(path.relative_to(offline / "files")) for path in offline.glob("files/media/**/*") if path.is_file()}
    assert media and media <= uploaded.files.keys()
    assert "classes.table.json" in " ".join(server.artifacts)


def test_the_logged_images_lie_in_the_directory_of_the_run(run: Path, records: list[Record]) -> None:
    files = [
        Path(entry.local_path)
        for record in records
        if record.HasField("artifact")
        for entry in record.artifact.manifest.contents
        if entry.local_path
    ]
    assert len(files) > 20
    assert all(path.is_file() and run.resolve() in path.parents for path in files)


def test_a_resumed_training_continues_the_run(run: Path, records: list[Record], resumed: Path) -> None:
    continued = read_records(resumed)
    assert run_record(continued).run_id == run_record(records).run_id == Run(run).wandb_id()
    last = max(row["trainer/global_step"] for row in read_history(records) if "trainer/global_step" in row)
    steps = [row["trainer/global_step"] for row in read_history(continued) if "train/loss_step" in row]
    assert min(steps) > last


def test_predictions_are_an_artifact_of_the_run(run: Path, records: list[Record], prediction_run: Path) -> None:
    found = read_records(prediction_run)
    assert run_record(found).run_id == run_record(records).run_id
    (artifact,) = [record.artifact for record in found if record.HasField("artifact")]
    refs = {entry.ref for entry in artifact.manifest.contents}
    assert refs == {path.resolve().as_uri() for path in (run / "predictions/test.parquet", run / "submission.csv")}


def test_the_lineage_of_an_ensemble_includes_its_members(ensemble: Path, resumed: Path) -> None:
    found = read_records(ensemble)
    assert run_record(found).job_type == "ensemble"
    artifacts = [record.artifact for record in found if record.HasField("artifact")]
    (used,) = [artifact for artifact in artifacts if artifact.use_after_commit]
    (logged,) = [record.artifact for record in read_records(resumed) if "best" in record.artifact.aliases]
    assert (used.name, used.digest) == (logged.name, logged.digest)  # W&B treats it as the same version
    (predictions,) = [artifact for artifact in artifacts if artifact.type == "predictions"]
    assert len(predictions.manifest.contents) == 3


def test_an_ensemble_logs_its_members_and_its_scores_by_class(ensemble: Path) -> None:
    found = read_records(ensemble)
    assert len(read_table(ensemble, found, "ensemble/members")["data"]) == 1
    assert len(read_table(ensemble, found, "val/classes")["data"]) == 104


def test_the_jobs_of_a_multirun_are_grouped_and_tagged(tiny_settings: list[str], tmp_path: Path) -> None:
    settings = [
        "logger=default",
        "+trainer.limit_train_batches=1",
        "+trainer.limit_val_batches=1",
        "seed=1,2",
        f"hydra.sweep.dir={tmp_path}/search",
    ]
    assert run_script("train", "--multirun", *tiny_settings, *settings).returncode == 0
    jobs = [run_record(read_records(directory)) for directory in sorted(tmp_path.glob("search/*/wandb/offline-run-*"))]
    assert [job.run_group for job in jobs] == ["search", "search"]
    assert [set(job.tags) & {"flowers", "seed=1", "seed=2"} for job in jobs] == [
        {"flowers", "seed=1"},
        {"flowers", "seed=2"},
    ]


ON_XLA = ("compile/count",)
"""Names that only runs on XLA have."""


def workspace_panels() -> list[dict[str, Any]]:
    spec = make_workspace("", "flowers", "flowers")._spec["spec"]
    return [panel for section in spec["section"]["panelBankConfig"]["sections"] for panel in section["panels"]]


def shown_names(panel: dict[str, Any]) -> set[str]:
    """Return the metrics, images and tables that a panel of the workspace shows."""
    settings = panel["config"]
    if panel["viewType"] == "Weave":
        return {settings["panel2Config"]["exp"]["fromOp"]["inputs"]["key"]["val"]}
    if panel["viewType"] == "Vega2":
        return {table_key(settings)}
    axis = {settings["xAxis"]} if "xAxis" in settings else set()
    return axis | set(settings.get("metrics", [])) | set(settings.get("mediaKeys", []))


def table_key(settings: dict[str, Any]) -> str:
    """Return the name of the table that a W&B chart is drawn from."""
    (query,) = settings["userQuery"]["queryFields"]
    (field,) = (field for field in query["fields"] if field["name"] == "summaryTable")
    key: str = field["args"][0]["value"]
    return key


def test_the_workspace_shows_what_is_logged(records: list[Record], ensemble_records: list[Record]) -> None:
    names = {name for panel in workspace_panels() for name in shown_names(panel)}
    assert len(names) > 20 and all(shown_names(panel) for panel in workspace_panels())
    assert names - logged_names(records) - logged_names(ensemble_records) <= set(ON_XLA)
    # The names that distinguish the two kinds of run.
    assert "best/val/macro_f1" in logged_names(records) - logged_names(ensemble_records)
    assert {"val/macro_f1_low", "val/gain"} <= logged_names(ensemble_records) - logged_names(records)


def test_the_workspace_groups_by_configured_keys(records: list[Record]) -> None:
    keys = {panel["config"]["groupBy"] for panel in workspace_panels() if panel["config"].get("groupBy")} - {"jobType"}
    assert len(keys) == 2
    for key in keys:
        group, _, rest = key.partition(".value")
        found = read_config(records)[group]
        assert not rest or rest.removeprefix(".") in found


def test_the_workspace_draws_tables_as_the_run_does(records: list[Record]) -> None:
    charts = [panel["config"] for panel in workspace_panels() if panel["viewType"] == "Vega2"]
    logged = [
        value["panel_config"] for name, value in read_config(records).items() if name.startswith("_wandb/visualize/")
    ]
    parts = ("panelDefId", "fieldSettings", "stringSettings", "transform")
    drawn = [([chart[part] for part in parts], table_key(chart)) for chart in charts]
    assert len(drawn) == 2
    assert all(chart in [([one[part] for part in parts], table_key(one)) for one in logged] for chart in drawn)
