"""Continue what is in a run's directory: `resume=true` leaves a finished run, resumes a stopped one or starts one."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from flowers.errors import InputError, first_few
from flowers.settings import flatten
from flowers.training.checkpoints import is_stopped
from flowers.training.runs import PASSIVE_CALLBACKS, Run

log = logging.getLogger(__name__)

_MAY_CHANGE = (
    *("ckpt_path", "data.num_workers", "logger", "paths", "report", "resume", "tags", "task_name"),
    *("trainer.keep_memory", "trainer.max_time"),
    *PASSIVE_CALLBACKS,
)
"""Settings that a run may be continued with in another value, because they do not change its results."""

_TUNED = tuple(f"trainer.{name}" for name in ("precision", "channels_last", "compile", "threads"))
"""Settings that `trainer.autotune` has chosen in a run's configuration. A resumed run keeps them."""


def find_finished(config: DictConfig) -> dict[str, float] | None:
    """Return the metrics of the run in a training's directory if `resume` is true and the run is finished, else None.

    A run that was ended by its time limit has metrics, too, but is not finished.

    Raises:
        InputError: the directory's run has other settings than these.
    """
    if config.resume is not True:
        return None
    run = Run(Path(config.paths.output_dir))
    check_same_run(run, config)
    if run.unfinished_path.exists() and run.find_last_checkpoint() is not None:
        return None
    return run.read_metrics()


def check_same_run(run: Run, config: DictConfig) -> None:
    """Raise `InputError` if a directory has a run that began with other settings.

    A job of a multirun finds its directory by its number. If values were added to the sweep, another job has it now.
    """
    if not run.config_path.is_file():
        return
    began, now = (dict(flatten(_to_container(found))) for found in (run.config(), config))
    names = sorted(name for name in began.keys() | now.keys() if began.get(name) != now.get(name))
    tuned = _TUNED if began.get("trainer.autotune") is True and now.get("trainer.autotune") is True else ()
    changed = [
        f"{name}: {began.get(name)} before, {now.get(name)} now"
        for name in names
        if not _may_change(name) and name not in tuned
    ]
    if changed:
        raise InputError(
            f"{run.config_path}: expected the settings that this training has now, found others:\n  "
            f"{first_few(changed)}\nresume=true continues a run with its own settings. Repeat its command without "
            "changes, or set hydra.run.dir (hydra.sweep.dir of a multirun) to a new directory. To continue with other "
            f"settings, set ckpt_path={run.last} instead of resume=true."
        )


def _may_change(name: str) -> bool:
    return any(name == key or name.startswith(f"{key}.") for key in _MAY_CHANGE)


def _to_container(config: DictConfig) -> Any:
    """Return a configuration's values as its file would hold them, with unresolved references."""
    return OmegaConf.to_container(OmegaConf.create(OmegaConf.to_yaml(config)))


class FollowMove(Callback):
    """Lets a resumed run find its best checkpoint if its directory was moved, or copied to another machine.

    Lightning's ModelCheckpoint saves absolute paths. It would forget the best score, and overwrite the best checkpoint.
    """

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        moved = Path(trainer.default_root_dir).resolve() in Path(str(trainer.ckpt_path)).resolve().parents
        for callback in trainer.checkpoint_callbacks:
            state = checkpoint.get("callbacks", {}).get(callback.state_key)
            if moved and isinstance(callback, ModelCheckpoint) and isinstance(state, dict) and state.get("dirpath"):
                checkpoint["callbacks"][callback.state_key] = _replace_directory(
                    state, str(state["dirpath"]), str(callback.dirpath)
                )


def _replace_directory(value: Any, before: str, after: str) -> Any:
    """Replace a directory in all paths of a callback's state."""
    if isinstance(value, dict):
        return {
            _replace_directory(key, before, after): _replace_directory(v, before, after) for key, v in value.items()
        }
    if isinstance(value, str) and (value == before or value.startswith(f"{before}/")):
        return after + value.removeprefix(before)
    return value


class StayStopped(Callback):
    """Ends a run at once that is resumed after early stopping had ended it. It would train until its next validation.

    Such a run was killed before its metrics were written.
    """

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn == TrainerFn.FITTING and is_stopped(checkpoint.get("callbacks", {})):
            rank_zero_only(log.info)("Early stopping had ended this training. Only its evaluation is left.")
            trainer.should_stop = True
