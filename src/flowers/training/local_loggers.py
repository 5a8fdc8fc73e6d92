"""Loggers that store their data in a directory and need neither an account nor a server: MLflow and trackio.

Their packages are optional, and imported only when a logger is used.
"""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import Logger, MLFlowLogger
from lightning.pytorch.utilities import rank_zero_only

from flowers.errors import InputError
from flowers.targets import require_package


def mlflow_logger(tracking_uri: str, experiment_name: str, run_dir: str) -> MLFlowLogger:
    """Create an MLflow logger.

    By default MLflow 3 rejects a directory as a store, and sends usage statistics. This function changes both, unless
    `MLFLOW_ALLOW_FILE_STORE` and `MLFLOW_DISABLE_TELEMETRY` are set.

    Args:
        tracking_uri: `file:DIR`, or the address of a tracking server.
        experiment_name: the experiment's name.
        run_dir: the run's directory, used as its name. A resumed run gets a new MLflow run with the same name.

    Raises:
        InputError: MLflow is not installed.
    """
    require_package("logger.mlflow", "mlflow", "mlflow-skinny")
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    return MLFlowLogger(experiment_name, run_name=name_run(run_dir), tracking_uri=tracking_uri)


class TrackioLogger(Logger):
    """Logs hyperparameters and metrics to trackio, in the first process of a run.

    A run that is resumed in the same directory continues the same trackio run. Only hyperparameters that were logged
    before the first metric are recorded.

    Args:
        directory: the directory with trackio's data of all runs. trackio reads this setting only once per process.
        project: the project's name.
        run_dir: the run's directory, used as its name.

    Raises:
        InputError: trackio is not installed, or already uses another directory.
    """

    def __init__(self, directory: str, project: str, run_dir: str) -> None:
        super().__init__()
        require_package("logger.trackio", "trackio", "trackio")
        self._directory = Path(directory).resolve()
        self._project = project
        self._run_name = name_run(run_dir)
        self._config: dict[str, Any] = {}
        self._run: Any = None

    @property
    def name(self) -> str:
        """Return the project's name."""
        return self._project

    @property
    def version(self) -> str:
        """Return the run's name."""
        return self._run_name

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """Return the trackio run, started at first use. Processes other than the first get a dummy."""
        if self._run is None:
            trackio = import_trackio(self._directory)
            with redirect_stdout(None):  # it prints a command that uses another directory
                self._run = trackio.init(
                    self._project, name=self._run_name, config=self._config, resume="allow", embed=False
                )
        return self._run

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Add hyperparameters to the run's."""
        self._config |= vars(params) if isinstance(params, Namespace) else params

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log metrics at a step of the training."""
        self.experiment.log(dict(metrics), step=step)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write pending data. Metrics that are logged later resume the run."""
        if self._run is not None:
            with redirect_stdout(None):
                import_trackio(self._directory).finish()
            self._run = None


def import_trackio(directory: Path) -> Any:
    """Import trackio and set its data directory, which it reads only once per process.

    Raises:
        InputError: trackio was imported with another directory.
    """
    os.environ["TRACKIO_DIR"] = str(directory)
    import trackio

    if directory != trackio.TRACKIO_DIR:
        raise InputError(
            f"logger.trackio.directory={directory}: expected {trackio.TRACKIO_DIR}, which trackio already uses in this "
            "process. Use that one, or start another process."
        )
    return trackio


def name_run(run_dir: str) -> str:
    """Return the name of a run: its directory, relative to the working directory if it is inside."""
    path = Path(run_dir).resolve()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
