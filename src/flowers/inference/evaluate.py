"""Recompute a run's metrics from its best checkpoint: what `python src/evaluate.py` does."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig

from flowers.interfaces import ReportsSkipped
from flowers.settings import Count, Node, Positive, load_settings
from flowers.training.distributed import closing_process_group
from flowers.training.lightning_trainer import TRAINER, make_plain_trainer
from flowers.training.pair import check_sizes, check_validated
from flowers.training.runs import Run

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DataOverrides:
    """Settings of `data` to use in place of those that the run was trained with; None: the run's."""

    root: str | None
    image_size: Positive | None
    batch_size: Positive | None
    num_workers: Count | None
    on_bad_record: Literal["stop", "skip"] | None
    storage_options: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class EvaluateSettings:
    """The settings of `python src/evaluate.py`.

    run: a training's directory.
    trust: whether its configuration may name any class, whose code runs.
    """

    run: str
    trust: bool
    trainer: Node
    data: DataOverrides


@closing_process_group()
def evaluate(config: DictConfig) -> tuple[dict[str, float], str, set[str]]:
    """Evaluate on the validation split.

    Returns:
        The metrics, the name of the monitored one, and why each skipped record was skipped.

    Raises:
        InputError: no such run, or bad data or weights; see the message.
    """
    settings = load_settings(EvaluateSettings, config, {"trainer": TRAINER})
    run = Run(Path(settings.run))
    datamodule, model = run.load(asdict(settings.data), trust=settings.trust)
    check_validated(model, datamodule)
    check_sizes(model, datamodule, "eval_size")
    if getattr(datamodule, "train_on", None) == "train+val" and settings.data.root is None:
        log.warning("The run was trained on the validation split as well: these metrics say nothing of other images.")
    trainer = make_plain_trainer(settings.trainer, run.best.parent)
    trainer.validate(model, datamodule=datamodule, verbose=False)
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    skipped = datamodule.gather_skipped() if isinstance(datamodule, ReportsSkipped) else set[str]()
    return metrics, run.monitored(), skipped
