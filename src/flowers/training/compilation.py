"""Watches a device that compiles: what it compiled, what it could not, and when it should have been done with it.

An accelerator takes part by a strategy that has `compile_counts`; for others, nothing happens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_warn

from flowers.errors import InputError

READ = "aten::_local_scalar_dense"
"""The fallback that is no mistake: a figure read by the host, which makes the device wait."""


@dataclass(frozen=True, slots=True)
class CompileCounts:
    """What a device has done since the process began.

    compilations: programs compiled.
    seconds: spent on them.
    fallbacks: how often each operation ran on the host instead, by its name (`aten::nonzero`).
    """

    compilations: int = 0
    seconds: float = 0.0
    fallbacks: Mapping[str, int] = field(default_factory=dict)

    def since(self, earlier: CompileCounts) -> CompileCounts:
        """What came after `earlier`."""
        fallbacks = {name: count - earlier.fallbacks.get(name, 0) for name, count in self.fallbacks.items()}
        return CompileCounts(
            self.compilations - earlier.compilations,
            self.seconds - earlier.seconds,
            {name: count for name, count in fallbacks.items() if count},
        )


@runtime_checkable
class Compiling(Protocol):
    """A strategy whose device compiles."""

    def compile_counts(self) -> CompileCounts:
        """What the device has done so far."""

    def device_name(self) -> str:
        """What it is, and how many there are."""


def faults(counts: CompileCounts) -> list[str]:
    """What a step after warm-up should not have done; figures that the host reads are none."""
    found = [f"compiled {counts.compilations} programs in {counts.seconds:.1f} s"] if counts.compilations else []
    return found + [f"ran {name} on the host {count} times" for name, count in counts.fallbacks.items() if name != READ]


class CompileGuard(Callback):
    """Logs what each epoch compiled, and speaks up when that goes on after warm-up.

    Logged each epoch: `compile/count`, `compile/seconds`, `compile/fallbacks`.

    Args:
        warmup_epochs: epochs that may compile: the steps in the first, their borders in the next two.
        after_warmup: `warn`, or `fail`: end the run.
    """

    def __init__(self, warmup_epochs: int = 3, after_warmup: Literal["warn", "fail"] = "warn") -> None:
        self.warmup_epochs = warmup_epochs
        self.after_warmup = after_warmup
        self._epoch_start = CompileCounts()
        self._last = CompileCounts()
        self._epochs = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._epochs = 0  # of this process: a resumed run compiles again

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._look(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not isinstance(trainer.strategy, Compiling):
            return
        self._look(trainer)
        epoch = self._last.since(self._epoch_start)
        self._epoch_start = self._last
        self._epochs += 1
        figures = {
            "count": epoch.compilations,
            "seconds": epoch.seconds,
            "fallbacks": sum(epoch.fallbacks.values()),
        }
        # Tensors on the host: a number would be sent to the device, and read back.
        tensors = {f"compile/{name}": torch.tensor(float(value)) for name, value in figures.items()}
        pl_module.log_dict(tensors, batch_size=1)

    def _look(self, trainer: L.Trainer) -> None:
        if not isinstance(trainer.strategy, Compiling):
            return
        now = trainer.strategy.compile_counts()
        new, self._last = now.since(self._last), now
        if self._epochs < self.warmup_epochs or not (found := faults(new)):
            return
        message = (
            f"step {trainer.global_step} (epoch {trainer.current_epoch}): expected nothing to compile after "
            f"{self.warmup_epochs} epochs of warm-up, but the device {' and '.join(found)}. Look for shapes or Python "
            "numbers that change from step to step, and for figures read in a step: docs/tpu.md."
        )
        if self.after_warmup == "fail":
            raise InputError(message)
        rank_zero_warn(message)
