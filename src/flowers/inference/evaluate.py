"""A run's figures from its best checkpoint: what `python src/evaluate.py` does."""

from __future__ import annotations

import logging
from pathlib import Path

import lightning as L
from omegaconf import DictConfig

from flowers.instantiate import instantiate
from flowers.models.image_sizes import check_image_sizes
from flowers.training.distributed import closing_process_group
from flowers.training.runs import Run

log = logging.getLogger(__name__)


@closing_process_group()
def evaluate(config: DictConfig) -> tuple[dict[str, float], set[str]]:
    """The validation split's figures and what was wrong with each record that was skipped.

    Raises:
        InputError: no such run, or bad data or weights; see the message.
    """
    run = Run(Path(config.run))
    datamodule, model = run.load(config.data, trust=config.trust)
    check_image_sizes(model.backbone, {"data.eval_size": [datamodule.eval_size]})
    if datamodule.train_on == "train+val" and config.data.root is None:
        log.warning("The run was trained on the validation split as well: these figures say nothing of other images.")
    trainer: L.Trainer = instantiate(
        config.trainer,
        logger=False,
        enable_checkpointing=False,
        default_root_dir=str(run.best.parent),  # has none of SLURM's checkpoints, which Lightning would load
    )
    trainer.validate(model, datamodule=datamodule, verbose=False)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}, datamodule.gather_skipped()
