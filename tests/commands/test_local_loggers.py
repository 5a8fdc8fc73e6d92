"""MLflow and trackio receive the settings and metrics of new and resumed trainings without a network."""

from __future__ import annotations

import csv
import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flowers.errors import InputError
from flowers.training.local_loggers import TrackioLogger, import_trackio, mlflow_logger
from tests.helpers.commands import run_interpreter, run_script
from tests.helpers.ensembles import read_summary, write_runs

LOGGERS = {
    "mlflow": ["logger=mlflow", "logger.mlflow.experiment_name=trees"],
    "trackio": ["logger=trackio", "logger.trackio.project=trees"],
    "tensorboard": ["logger=tensorboard"],
}


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of all logs. There is one, as trackio supports only one per process."""
    return tmp_path_factory.mktemp("logs")


@pytest.fixture(scope="module")
def trained(logs: Path, tiny_settings: list[str]) -> None:
    """Train an epoch with each logger, and resume it for another in the same directory."""
    for name in ("mlflow", "trackio"):
        train(tiny_settings, logs, name)
        last = logs / name / "run" / "checkpoints" / "last.ckpt"
        train(tiny_settings, logs, name, "trainer.max_epochs=2", f"ckpt_path={last}")


def train(settings: list[str], logs: Path, name: str, *more: str) -> None:
    """Train in DIR/NAME/run, with metrics.csv beside the logger."""
    beside = ["+logger.csv._target_=lightning.pytorch.loggers.CSVLogger", "+logger.csv.save_dir=${paths.output_dir}"]
    beside += ["+logger.csv.name=''", "+logger.csv.version=''"]
    where = [f"paths.log_dir={logs}", f"hydra.run.dir={logs / name / 'run'}", "data.num_workers=0"]
    where += ["data.batch_size=26", "+trainer.limit_train_batches=2", "+trainer.limit_val_batches=1"]
    done = run_script("train", *settings, *where, *LOGGERS[name], *beside, "trainer.log_every_n_steps=1", *more)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def read_metric(logs: Path, name: str, metric: str) -> list[tuple[int, float]]:
    """Return the steps and values of a metric in both parts of a run's metrics.csv."""
    directory = logs / name / "run"
    files = [*sorted(directory.glob("metrics-until-*.csv")), directory / "metrics.csv"]
    assert len(files) == 2
    rows = [row for path in files for row in csv.DictReader(path.open())]
    return [(int(row["step"]), float(row[metric])) for row in rows if row.get(metric)]


def read_trackio(run: Any, metric: str) -> list[tuple[int, float]]:
    """Return the steps and values of a metric that trackio has of a run."""
    from trackio.sqlite_storage import SQLiteStorage

    values = SQLiteStorage.get_metric_values(run.project, run.name, metric, run_id=run.id)
    return [(value["step"], value["value"]) for value in values]


def mlflow_runs(client: Any, directory: Path) -> list[Any]:
    """Return MLflow's runs of a run directory, in order of their start."""
    (experiment,) = client.search_experiments(filter_string="name = 'trees'")
    runs = client.search_runs([experiment.experiment_id], order_by=["start_time"])
    return [run for run in runs if run.info.run_name == str(directory)]


def trackio_runs(trackio: Any, directory: Path) -> list[Any]:
    """Return trackio's runs of a run directory."""
    return [run for run in trackio.Api().runs("trees") if run.name == str(directory)]


METRICS = ("val/macro_f1", "train/loss_step")


@pytest.mark.usefixtures("trained")
@pytest.mark.parametrize("metric", METRICS)
def test_mlflow_has_the_metrics_and_settings(logs: Path, metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"file:{logs}/mlflow")
    runs = mlflow_runs(client, logs / "mlflow" / "run")
    assert [run.info.status for run in runs] == ["FINISHED"] * 2
    assert {run.data.params["data/image_size"] for run in runs} == {"192"}
    found = [(point.step, point.value) for run in runs for point in client.get_metric_history(run.info.run_id, metric)]
    assert found == [(step, pytest.approx(value)) for step, value in read_metric(logs, "mlflow", metric)]


@pytest.mark.usefixtures("trained")
@pytest.mark.parametrize("metric", METRICS)
def test_trackio_has_the_metrics_and_settings(logs: Path, metric: str) -> None:
    trackio = import_trackio(logs / "trackio")
    (run,) = trackio_runs(trackio, logs / "trackio" / "run")  # the resumed one is the same
    assert run.config["data"]["image_size"] == 192
    assert read_trackio(run, metric) == read_metric(logs, "trackio", metric)


@pytest.mark.slow
@pytest.mark.parametrize("name", LOGGERS)
def test_an_ensemble_is_logged(name: str, logs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("TRACKIO_DIR", str(logs / "trackio"))
    output = tmp_path / "out"
    short = [f"runs=[{','.join(write_runs(tmp_path))}]", "methods=[mean]", "resamples=100"]
    # TensorBoard imports TensorFlow, whose protocol buffers clash with those that other tests import.
    run = run_interpreter if name == "tensorboard" else run_script
    done = run("ensemble", *short, f"paths.log_dir={logs}", *LOGGERS[name], f"hydra.run.dir={output}")
    assert done.returncode == 0, done.stderr
    assert read_scores(name, logs, output) == [pytest.approx(read_summary(output)["macro_f1"]["validated"]["value"])]


def read_scores(name: str, logs: Path, output: Path) -> list[float]:
    """Return the macro F1 that a logger has of the ensemble in a directory."""
    if name == "trackio":
        (run,) = trackio_runs(import_trackio(logs / "trackio"), output)
        return [value for _, value in read_trackio(run, "val/macro_f1")]
    if name == "mlflow":
        from mlflow.tracking import MlflowClient

        return [run.data.metrics["val/macro_f1"] for run in mlflow_runs(MlflowClient(f"file:{logs}/mlflow"), output)]
    read = (
        "import sys; from tensorboard.backend.event_processing.event_accumulator import EventAccumulator; "
        "print([event.value for event in EventAccumulator(sys.argv[1]).Reload().Scalars('val/macro_f1')])"
    )
    command = [sys.executable, "-c", read, str(output / "tensorboard")]
    values: list[float] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return values


def test_mlflow_and_trackio_do_not_use_the_network(logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", "")
    loggers = [
        TrackioLogger(str(logs / "trackio"), "trees", str(logs / "alone")),
        mlflow_logger(f"file:{logs}/mlflow", "alone", str(logs / "alone")),
    ]
    used = []
    for method in ("connect", "connect_ex", "bind"):
        monkeypatch.setattr(socket.socket, method, lambda _, address: used.append(address))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *address, **_: used.append(address) or [])
    for logger in loggers:
        logger.log_hyperparams({"seed": 0})
        logger.log_metrics({"loss": 0.0}, step=0)
        logger.finalize("success")
    assert used == []


def test_trackio_cannot_change_its_directory(logs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", "")
    import_trackio(logs / "trackio")
    logger = TrackioLogger(str(tmp_path), "trees", str(tmp_path / "run"))
    with pytest.raises(InputError, match=r"^logger\.trackio\.directory="):
        logger.log_metrics({"loss": 0.0}, step=0)


def test_trackio_receives_metrics_after_the_end(logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", "")
    logger = TrackioLogger(str(logs / "trackio"), "late", str(logs / "late"))
    for step in range(2):
        logger.log_metrics({"loss": float(step)}, step)
        logger.finalize("success")
    (run,) = import_trackio(logs / "trackio").Api().runs("late")
    assert read_trackio(run, "loss") == [(0, 0.0), (1, 1.0)]
