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
from flowers.settings import Count

READ = "aten::_local_scalar_dense"
"""The fallback that stands for a figure read by the host: no mistake, now and then."""

READING = 10
"""Steps in a row that read a figure, after which it is taken for a mistake."""


@dataclass(frozen=True, slots=True)
class CompileCounts:
    """Counts of a device's work since the process began.

    compilations: programs compiled.
    seconds: spent on them.
    fallbacks: how often each operation ran on the host instead, by its name (`aten::nonzero`).
    reads: transfers to the host, for each of which it waits until the device is done.
    cache_hits: programs taken from the cache that `trainer.strategy.cache_dir` keeps, instead of being compiled.
    cache_misses: programs that were looked for there in vain.
    """

    compilations: int = 0
    seconds: float = 0.0
    fallbacks: Mapping[str, int] = field(default_factory=dict)
    reads: int = 0
    cache_hits: int = 0
    cache_misses: int = 0

    def since(self, earlier: CompileCounts) -> CompileCounts:
        """Return the counts since `earlier`."""
        fallbacks = {name: count - earlier.fallbacks.get(name, 0) for name, count in self.fallbacks.items()}
        return CompileCounts(
            self.compilations - earlier.compilations,
            self.seconds - earlier.seconds,
            {name: count for name, count in fallbacks.items() if count},
            self.reads - earlier.reads,
            self.cache_hits - earlier.cache_hits,
            self.cache_misses - earlier.cache_misses,
        )


@runtime_checkable
class Compiling(Protocol):
    """A strategy whose device compiles."""

    def compile_counts(self) -> CompileCounts:
        """Return the counts so far."""

    def device_name(self) -> str:
        """Return the kind of device, and how many there are."""


def faults(counts: CompileCounts) -> list[str]:
    """Describe unwanted work in steps after warm-up; metrics that the host reads are not part of it."""
    found = [f"compiled {counts.compilations} programs in {counts.seconds:.1f} s"] if counts.compilations else []
    return found + [f"ran {name} on the host {count} times" for name, count in counts.fallbacks.items() if name != READ]


class CompileGuard(Callback):
    """Logs what each epoch compiled, and warns or fails if that goes on after warm-up, or if every step reads a metric.

    Logged each epoch, as `compile/NAME`: count, seconds, fallbacks, reads, cache_hits, cache_misses.

    Args:
        warmup_epochs: epochs that may compile: the steps in the first, their borders in the next two.
        after_warmup: `warn`, or `fail`: end the run.
    """

    def __init__(self, warmup_epochs: Count = 3, after_warmup: Literal["warn", "fail"] = "warn") -> None:
        self.warmup_epochs = warmup_epochs
        self.after_warmup = after_warmup
        self._epoch_start = CompileCounts()
        self._last = CompileCounts()
        self._epochs = 0
        self._reading_steps = 0

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "fit" and isinstance(trainer.strategy, Compiling):
            self._epoch_start = self._last = trainer.strategy.compile_counts()
            self._epochs = 0  # of this run and process: a resumed one compiles again

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        new = self._new(trainer)
        if new is None or self._epochs < self.warmup_epochs:
            return
        self._reading_steps = self._reading_steps + 1 if new.reads else 0
        found = faults(new)
        if self._reading_steps == READING:
            found.append(f"had figures read by the host in {READING} steps running")
        self._speak(trainer, found)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        new = self._new(trainer)
        if new is None:
            return
        epoch, self._epoch_start = self._last.since(self._epoch_start), self._last
        figures = {
            "count": epoch.compilations,
            "seconds": epoch.seconds,
            "fallbacks": sum(epoch.fallbacks.values()),
            "reads": epoch.reads,
            "cache_hits": epoch.cache_hits,
            "cache_misses": epoch.cache_misses,
        }
        # Tensors on the host: a number would be sent to the device, and read back.
        tensors = {f"compile/{name}": torch.tensor(float(value)) for name, value in figures.items()}
        pl_module.log_dict(tensors, batch_size=1)
        if self._epochs >= self.warmup_epochs:
            self._speak(trainer, faults(new))
        self._epochs += 1

    def _new(self, trainer: L.Trainer) -> CompileCounts | None:
        """Return the counts since the last call, or None if nothing compiles."""
        if not isinstance(trainer.strategy, Compiling):
            return None
        now = trainer.strategy.compile_counts()
        new, self._last = now.since(self._last), now
        return new

    def _speak(self, trainer: L.Trainer, found: list[str]) -> None:
        if not found:
            return
        message = (
            f"step {trainer.global_step} (epoch {trainer.current_epoch}): expected nothing to compile after "
            f"{self.warmup_epochs} epochs of warm-up, and figures to be read only now and then, but the device "
            f"{' and '.join(found)}."
            " Look for shapes or Python numbers that change from step to step, and for figures read in a step: "
            "docs/tpu.md."
        )
        if self.after_warmup == "fail":
            raise InputError(message)
        rank_zero_warn(message)
