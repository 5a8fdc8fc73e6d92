"""Show the progress of a training: a bar on a terminal, and a line for each epoch everywhere."""

from __future__ import annotations

import time

import lightning as L
from lightning.pytorch.callbacks import Callback, RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import BatchesProcessedColumn, CustomBarColumn
from lightning.pytorch.trainer.states import TrainerFn
from rich import get_console
from rich.progress import ProgressColumn, TextColumn, TimeRemainingColumn

from flowers.settings import Count
from flowers.training.callbacks import Throughput
from flowers.training.monitor import metric_label

BAR_WIDTH = 16
"""The bar's width in characters, which leaves room for the other columns on a terminal of 80 characters."""


class ProgressBar(RichProgressBar):
    """Shows a bar with images/s, loss and time left on a terminal, and prints a line for each epoch.

    Without a terminal only the lines are printed.

    Args:
        metric: the monitored metric of the validation split; None: only losses are printed.
        refresh_rate: the number of batches between two updates.
    """

    def __init__(self, metric: str | None = None, refresh_rate: Count = 1) -> None:
        super().__init__(refresh_rate=refresh_rate)
        self._printed = {"train/loss": "loss", "val/loss": "val loss"}
        if metric is not None:
            self._printed.setdefault(metric, metric_label(metric))
        self._epoch = 0
        self._start = 0.0
        self._unprinted = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if not (get_console().is_terminal or get_console().is_jupyter):
            self.disable()

    def configure_columns(self, trainer: L.Trainer) -> list[ProgressColumn]:
        """Return the columns before the metrics. With the metrics they fit into 80 characters."""
        return [
            TextColumn("{task.description}"),
            CustomBarColumn(
                bar_width=BAR_WIDTH,
                complete_style=self.theme.progress_bar,
                finished_style=self.theme.progress_bar_finished,
                pulse_style=self.theme.progress_bar_pulse,
            ),
            BatchesProcessedColumn(style=self.theme.batch_progress),
            TimeRemainingColumn(compact=True),
        ]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._begin_epoch(trainer)  # a run resumed within an epoch has no on_train_epoch_start

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._print_epoch(trainer)
        self._begin_epoch(trainer)
        super().on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        self._unprinted = True  # the model logs its metrics after its callbacks

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._print_epoch(trainer)
        super().on_train_end(trainer, pl_module)

    def get_metrics(
        self, trainer: L.Trainer, pl_module: L.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        shown: dict[str, int | str | float | dict[str, float]] = {}
        speed = _speed(trainer)
        if speed is not None and trainer.training:
            shown["images/s"] = f"{speed:.1f}"
        if "train/loss_step" in trainer.callback_metrics:  # on the host: reading it makes no device wait
            shown["loss"] = f"{float(trainer.callback_metrics['train/loss_step']):.3f}"
        return shown

    def _get_train_description(self, current_epoch: int) -> str:
        # Like Lightning's, but counted from one.
        last = "" if self.trainer.max_epochs in (None, -1) else f"/{self.trainer.max_epochs}"
        return f"{f'Epoch {current_epoch + 1}{last}':{len(self.validation_description)}}"

    def _begin_epoch(self, trainer: L.Trainer) -> None:
        self._epoch, self._start = trainer.current_epoch, time.perf_counter()

    def _print_epoch(self, trainer: L.Trainer) -> None:
        if not self._unprinted or not trainer.is_global_zero or trainer.state.fn != TrainerFn.FITTING:
            return
        self._unprinted = False
        parts = [self._get_train_description(self._epoch).strip()]
        if "train/images_per_second" in trainer.callback_metrics:
            parts.append(f"{float(trainer.callback_metrics['train/images_per_second']):.1f} images/s")
        parts += [
            f"{label} {float(trainer.callback_metrics[name]):.3f}"
            for name, label in self._printed.items()
            if name in trainer.callback_metrics
        ]
        parts.append(_duration(time.perf_counter() - self._start))
        get_console().print("  ".join(parts), highlight=False, soft_wrap=True)


def _speed(trainer: L.Trainer) -> float | None:
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return next((own.images_per_second for own in callbacks if isinstance(own, Throughput)), None)


def _duration(seconds: float) -> str:
    """Format a duration as M:SS, or as H:MM:SS from one hour on."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
