"""Log the results of a training to Weights & Biases: best metrics, scores and curves by class, mistakes, artifacts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import wandb
from lightning.pytorch.utilities import rank_zero_only

from flowers.data.datamodule import FlowersDataModule
from flowers.data.layout import SPLITS, find_shards
from flowers.reporting.report import Report
from flowers.reporting.wandb_images import log_media
from flowers.training.loggers import FallbackWandbLogger
from flowers.training.outcomes import Outcomes
from flowers.training.runs import Run
from flowers.training.train import Trained


@rank_zero_only
def log_results(trained: Trained, report: Report | None) -> None:
    """Log what a training leaves to its W&B run, if it has one.

    The summary gets the metrics of the best checkpoint as `best/...`. Artifacts refer to the data set's shards and to
    the checkpoints (`best` and `latest`) by path and checksum: nothing is copied.
    """
    logger = next((logger for logger in trained.loggers if isinstance(logger, FallbackWandbLogger)), None)
    if logger is None:
        return
    with logger.outliving_its_process():
        run = logger.experiment
        run.summary.update({f"best/{name}": value for name, value in trained.metrics.items() if "/" in name})
        logger.try_within_limit(lambda: _log_all(logger, trained, report))


def _log_all(logger: FallbackWandbLogger, trained: Trained, report: Report | None) -> None:
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
    """Return W&B's chart of a confusion matrix, without the empty cells, which would be too many."""
    table = wandb.Table(["Actual", "Predicted", "nPredictions"])
    names = outcomes.class_names
    for actual, predicted in np.argwhere(outcomes.confusion).tolist():
        table.add_data(names[actual], names[predicted], int(outcomes.confusion[actual, predicted]))
    fields = {str(name): str(name) for name in table.columns}
    return wandb.plot_table("wandb/confusion_matrix/v1", table, fields)


def _mistakes(report: Report) -> wandb.Table:
    table = wandb.Table(["id", "image", "saliency", "truth", "p(truth)", "predicted", "p(predicted)"])
    for mistake in report.mistakes:
        images = [wandb.Image(picture.image, caption=picture.caption) for picture in mistake.pictures]
        image, saliency = (*images, None, None)[:2]
        predicted, probability = mistake.likeliest[0]
        table.add_data(
            mistake.identity, image, saliency, mistake.truth, mistake.true_probability, predicted, probability
        )
    return table


def _log_data_set(run: Any, trained: Trained) -> None:
    """Log the shards that the run was trained on: by path and checksum if they are local, by address otherwise."""
    data = trained.datamodule
    if not isinstance(data, FlowersDataModule):
        return
    name = f"{Path(str(data.root)).name or 'data'}-{data.image_size}px"
    artifact = wandb.Artifact(_artifact_name(name), "dataset", metadata={"root": str(data.root)})
    for split in SPLITS:
        for shard in find_shards(data.root, split, data.image_size):
            local = isinstance(shard.path, Path)
            address = shard.path.resolve().as_uri() if isinstance(shard.path, Path) else str(shard.path)
            artifact.add_reference(address, name=f"{split}/{shard.path.name}", checksum=local)
    run.log_artifact(artifact)  # not use_artifact, which waits for the server, and offline is refused


def _log_checkpoints(run: Any, directory: Run, metrics: Mapping[str, float]) -> None:
    for path, alias in ((directory.best, "best"), (directory.last, "latest")):  # W&B calls the last one latest
        if path.exists():
            artifact = wandb.Artifact(_artifact_name(f"model-{run.id}"), "model", metadata=dict(metrics))
            artifact.add_reference(path.resolve().as_uri(), name=path.name)
            run.log_artifact(artifact, aliases=[alias])


def _artifact_name(text: str) -> str:
    """Return a text without the characters that W&B does not take in a name."""
    return "".join(character if character.isalnum() or character in "-_." else "_" for character in text)
