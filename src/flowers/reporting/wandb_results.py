"""Log results to Weights & Biases: best metrics, scores and curves by class, mistakes, artifacts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import wandb
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import OmegaConf

from flowers.data.datamodule import FlowersDataModule
from flowers.data.layout import SPLITS, list_shards
from flowers.reporting.wandb_images import log_media
from flowers.training.loggers import FallbackWandbLogger, finished_wandb_run, wandb_logger
from flowers.training.outcomes import Outcomes
from flowers.training.predictions import read_outcomes, read_provenance
from flowers.training.runs import Run
from flowers.training.train import TrainingResult

if TYPE_CHECKING:
    from flowers.ensembling.ensemble import Ensemble
    from flowers.reporting.report import Report


@rank_zero_only
def log_results(trained: TrainingResult, report: Report | None) -> None:
    """Log the results of a training to its W&B run, if it has one.

    The summary gets the best checkpoint's metrics as `best/...`. Artifacts refer to the data set's shards and to the
    checkpoints (`best` and `latest`) by path and checksum: nothing is copied.
    """
    logger = next((logger for logger in trained.loggers if isinstance(logger, FallbackWandbLogger)), None)
    if logger is None:
        return
    with logger.ignore_dead_process():
        run = logger.experiment
        run.summary.update({f"best/{name}": value for name, value in trained.metrics.items() if "/" in name})
        logger.try_within_limit(lambda: _log_all(logger, trained, report))


def log_ensemble_results(logger: FallbackWandbLogger, result: Ensemble, report: Report) -> None:
    """Log an ensemble's tables, charts and predictions, and its members' models for the lineage."""
    with logger.ignore_dead_process():
        logger.try_within_limit(lambda: _log_ensemble(logger, result, report))


def _log_ensemble(logger: FallbackWandbLogger, result: Ensemble, report: Report) -> None:
    outcomes = read_outcomes(result.directory / "predictions" / "val.parquet", result.class_names)
    tables = {f"ensemble/{shown.title.lower()}": wandb.Table([*shown.columns], shown.rows) for shown in report.tables}
    log_media(logger, {**tables, **_media(outcomes, report)}, 0)
    run = logger.experiment
    for directory in sorted({Path(read_provenance(path).run) for member in result.members for path in member.val}):
        member = Run(directory)
        if (own := member.wandb_id()) is not None and member.best.exists():
            # The same as use_artifact for a model that is not on the server yet, which fails offline.
            run._log_artifact(_model(own, member.best, {}), is_user_created=True, use_after_commit=True)
    _log_predictions(run, result.files)


def log_predictions(run: Run, files: Sequence[Path]) -> None:
    """Log the predictions of a run as an artifact of its W&B run, if it has one, by path and checksum."""
    place = _project_of(run)
    if run.wandb_id() is None or place is None:
        return
    with finished_wandb_run():
        logger = wandb_logger(str(run.directory), **place)
        with logger.ignore_dead_process():
            logger.try_within_limit(lambda: _log_predictions(logger.experiment, files))


def _project_of(run: Run) -> dict[str, Any] | None:
    """Return the project and the entity of a run's W&B logger; None without a project, or for interpolations.

    Interpolations are not resolved here.
    """
    raw: dict[str, Any] = OmegaConf.to_container(run.config(), resolve=False)  # type: ignore[assignment]
    node = (raw.get("logger") or {}).get("wandb") or {}
    place = {name: node[name] for name in ("project", "entity") if node.get(name) is not None}
    return place if "project" in place and "${" not in "".join(map(str, place.values())) else None


def _log_predictions(run: Any, files: Sequence[Path]) -> None:
    artifact = wandb.Artifact(_artifact_name(f"predictions-{run.id}"), "predictions")
    for path in files:
        if path.suffix in (".parquet", ".csv"):
            artifact.add_reference(path.resolve().as_uri(), name=path.name)
    run.log_artifact(artifact)


def _log_all(logger: FallbackWandbLogger, trained: TrainingResult, report: Report | None) -> None:
    if trained.outcomes is not None:
        log_media(logger, _media(trained.outcomes, report), trained.steps)
    _log_data_set(logger.experiment, trained)
    _log_checkpoints(logger.experiment, trained.run, trained.metrics)


def _media(outcomes: Outcomes, report: Report | None) -> dict[str, Any]:
    scores = wandb.Table(["class", "images", "precision", "recall", "f1"])
    for score in sorted(outcomes.class_scores(), key=lambda score: score.f1):  # the worst first
        scores.add_data(score.name, score.count, score.precision, score.recall, score.f1)
    names = list(outcomes.class_names)
    curves = wandb.plot.pr_curve(outcomes.labels.tolist(), outcomes.probabilities.tolist(), names)
    media = {"val/classes": scores, "val/confusion": _confusion(outcomes), "val/precision_recall": curves}
    if report is not None and report.mistakes:
        media["val/worst_mistakes"] = _mistakes(report)
    return media


def _confusion(outcomes: Outcomes) -> Any:
    """Return W&B's chart of a confusion matrix, without empty cells: there would be too many."""
    table = wandb.Table(["Actual", "Predicted", "nPredictions"])
    names = outcomes.class_names
    for actual, predicted in np.argwhere(outcomes.confusion).tolist():
        table.add_data(names[actual], names[predicted], int(outcomes.confusion[actual, predicted]))
    fields = {str(name): str(name) for name in table.columns}
    return wandb.plot_table("wandb/confusion_matrix/v1", table, fields)


def _mistakes(report: Report) -> wandb.Table:
    table = wandb.Table(["id", "image", "saliency", "truth", "p(truth)", "predicted", "p(predicted)"])
    for mistake in report.mistakes:
        images = [wandb.Image(image.image, caption=image.caption) for image in mistake.images]
        image, saliency = (*images, None, None)[:2]
        predicted, probability = mistake.likeliest[0]
        table.add_data(
            mistake.identity, image, saliency, mistake.truth, mistake.true_probability, predicted, probability
        )
    return table


def _log_data_set(run: Any, trained: TrainingResult) -> None:
    """Log the run's shards as an artifact: by path and checksum if they are local, otherwise by URL."""
    data = trained.datamodule
    if not isinstance(data, FlowersDataModule):
        return
    name = f"{Path(str(data.root)).name or 'data'}-{data.image_size}px"
    artifact = wandb.Artifact(_artifact_name(name), "dataset", metadata={"root": str(data.root)})
    for (number, root), split in product(enumerate(data.roots), SPLITS):
        directory = f"{number}/{split}" if number else split
        for shard in list_shards(root, split, data.image_size):
            local = isinstance(shard.path, Path)
            address = shard.path.resolve().as_uri() if isinstance(shard.path, Path) else str(shard.path)
            artifact.add_reference(address, name=f"{directory}/{shard.path.name}", checksum=local)
    run.log_artifact(artifact)  # use_artifact would wait for the server, and fail offline


def _log_checkpoints(run: Any, directory: Run, metrics: Mapping[str, float]) -> None:
    for path, alias in ((directory.best, "best"), (directory.last, "latest")):  # W&B's alias of the last is "latest"
        if path.exists():
            run.log_artifact(_model(run.id, path, metrics), aliases=[alias])


def _model(run_id: str, checkpoint: Path, metrics: Mapping[str, float]) -> wandb.Artifact:
    """Return a checkpoint as an artifact. To W&B, artifacts with the same name and content are the same version."""
    artifact = wandb.Artifact(_artifact_name(f"model-{run_id}"), "model", metadata=dict(metrics))
    artifact.add_reference(checkpoint.resolve().as_uri(), name=checkpoint.name)
    return artifact


def _artifact_name(text: str) -> str:
    """Replace the characters that W&B does not allow in an artifact's name."""
    return "".join(character if character.isalnum() or character in "-_." else "_" for character in text)
