"""The monitored metric, which selects the best epoch, stops training early and is the objective of a sweep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn

from flowers.errors import InputError, nearest
from flowers.interfaces import DeclaresMetrics
from flowers.settings import Mode, Node, Nodes
from flowers.targets import locate


@dataclass(frozen=True, slots=True)
class Monitor:
    """The settings of the monitored metric.

    metric: the metric's name, as the model logs it.
    mode: whether the lowest value (`min`) or the highest (`max`) is the best.
    """

    metric: str
    mode: Mode


def check_monitors(monitor: Monitor, callbacks: Nodes, model: Node) -> None:
    """Raise `InputError` for a monitored metric that the model does not log, or a mode that would keep the worst epoch.

    Models that do not declare their metrics are checked at their first validation: see `CheckMonitor`.
    """
    target = locate(model["_target_"], "model")
    if not isinstance(target, DeclaresMetrics):
        return
    _check_monitor("monitor.metric", "monitor.mode", monitor.metric, monitor.mode, target.metric_modes)
    for name, node in (callbacks or {}).items():
        if node is not None and "monitor" in node and "mode" in node:
            key = f"callbacks.{name}"
            _check_monitor(f"{key}.monitor", f"{key}.mode", node["monitor"], node["mode"], target.metric_modes)


def _check_monitor(metric_key: str, mode_key: str, metric: str, mode: str, modes: Mapping[str, str]) -> None:
    if metric not in modes:
        raise InputError(
            f"{metric_key}={metric}: expected a metric that the model logs, found another.{nearest(metric, modes)}"
        )
    if mode != modes[metric]:
        raise InputError(
            f"{mode_key}={mode}: expected {modes[metric]} with {metric}. monitor={metric.rpartition('/')[2]} sets both."
        )


class CheckMonitor(Callback):
    """Ends a run at its first validation if the model does not log the monitored metric."""

    def __init__(self, metric: str) -> None:
        self.metric = metric

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        logged = trainer.callback_metrics
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking and self.metric not in logged:
            raise InputError(explain_missing(self.metric, type(pl_module).__name__, logged))


def explain_missing(metric: str, model: str, logged: Mapping[str, Any]) -> str:
    """Return the message for a monitored metric that the model has not logged."""
    return (
        f"monitor.metric={metric}: expected a metric that {model} logs in its validation, found none of that name."
        f"{nearest(metric, sorted(logged)) or ' It logs no metrics.'}"
    )


def metric_label(name: str) -> str:
    """Return the display name of a metric, without its split: `macro F1` for `val/macro_f1`."""
    return name.rpartition("/")[2].replace("_", " ").replace("f1", "F1")
