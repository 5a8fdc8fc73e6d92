"""What a trainer's limits mean for the batches of a data set."""

from __future__ import annotations

import lightning as L

from flowers.errors import InputError


def check_validation_interval(trainer: L.Trainer, batches: int) -> None:
    """Raise `InputError` where an epoch of so many batches ends before its first validation.

    Lightning raises a ValueError for it, when the run has begun.
    """
    interval, limit = trainer.val_check_interval, trainer.limit_train_batches
    each_epoch = trainer.check_val_every_n_epoch is not None and not trainer.fast_dev_run  # type: ignore[attr-defined]
    batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    if each_epoch and trainer.limit_val_batches > 0 and isinstance(interval, int) and interval > batches:
        raise InputError(
            f"trainer.val_check_interval={interval}: expected at most {batches}, the batches of an epoch. Lower it, "
            "or count over epochs with +trainer.check_val_every_n_epoch=null."
        )
