"""Cross-validate a training: what `python src/cross_validate.py` does."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from flowers.cross_validation.folds import predict_folds, train_folds
from flowers.cross_validation.plan import Plan, claim
from flowers.cross_validation.spread import Spread, spreads
from flowers.ensembling.ensemble import Ensemble, EnsembleSettings, ensemble
from flowers.ensembling.scores import Estimate
from flowers.system.atomic import write_atomic

_BOOTSTRAP = {"folds": 5, "resamples": 1000}
"""The calibration's folds and the resamples of the interval, as in configs/ensemble.yaml."""


@dataclass(frozen=True, slots=True)
class CrossValidation:
    """A finished cross-validation.

    directory: the directory of all results.
    monitored: the metric that selected the best checkpoints.
    folds: the metrics of each fold.
    spreads: the summary over folds of each metric.
    ensemble: the folds' predictions as one member of an ensemble, out of fold.
    files: the files that were written.
    """

    directory: Path
    monitored: str
    folds: list[dict[str, float | None]]
    spreads: dict[str, Spread]
    ensemble: Ensemble
    files: list[Path]

    @property
    def macro_f1(self) -> Estimate:
        """Return the out-of-fold macro F1 of all images, with its bootstrap interval."""
        return self.ensemble.assessment.ensemble.validated


def cross_validate(plan: Plan) -> CrossValidation:
    """Train, predict and score all folds. What an earlier call has finished is not repeated.

    Raises:
        InputError: another process uses the directory, its settings differ, or a fold fails.
    """
    with claim(plan):
        train_folds(plan)
        predict_folds(plan)
        return _summarise(plan)


def _summarise(plan: Plan) -> CrossValidation:
    folds = [json.loads(plan.run(fold).metrics_path.read_text()) for fold in range(plan.settings.folds)]
    for leftover in plan.directory.glob(".joined-*"):  # of a process that was killed here
        shutil.rmtree(leftover, ignore_errors=True)
    joined = ensemble(_ensemble_settings(plan))
    path = plan.directory / "cross_validation.json"
    result = CrossValidation(
        plan.directory, plan.settings.monitor.metric, folds, spreads(folds), joined, [*joined.files, path]
    )
    write_atomic(path, json.dumps(_contents(result, plan), indent=2, allow_nan=False) + "\n")
    return result


def _ensemble_settings(plan: Plan) -> EnsembleSettings:
    """Return the settings of an ensemble with one member: the runs of all folds."""
    settings = plan.settings
    return EnsembleSettings(
        runs=[str(plan.run(fold).directory) for fold in range(settings.folds)],
        method="mean",
        methods=["mean"],
        offsets=False,
        allow_missing=False,
        seed=settings.seed,
        logger=None,
        paths=replace(settings.paths, output_dir=str(plan.directory)),
        task_name="cross_validate",
        tags=settings.tags,
        **_BOOTSTRAP,
    )


def _contents(result: CrossValidation, plan: Plan) -> dict[str, Any]:
    """Return the contents of cross_validation.json."""
    return {
        "folds": plan.settings.folds,
        "overrides": plan.call.overrides,
        "monitored": result.monitored,
        "metrics": result.folds,
        "over_folds": {name: asdict(own) for name, own in result.spreads.items()},
        "out_of_fold": {"macro_f1": asdict(result.macro_f1), "images": result.ensemble.rows[0]},
        "test_images": result.ensemble.rows[1],
    }
