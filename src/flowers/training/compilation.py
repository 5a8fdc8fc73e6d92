"""Monitor a device that compiles: its compilations, its fallbacks to the host, and whether they end after warm-up.

A strategy takes part if it has the methods of `Compiling`; for others nothing happens.
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

READ_OPERATION = "aten::_local_scalar_dense"
"""The fallback that reads a value on the host, as logging occasionally does."""

MAX_READING_STEPS = 10
"""The number of consecutive steps with a read after which the guard reports them."""


@dataclass(frozen=True, slots=True)
class CompileCounts:
    """Counts of a device's compilations, fallbacks and transfers since the process started.

    compilations: programs that were compiled.
    seconds: the time spent on compiling.
    fallbacks: how often each operation ran on the host instead, by its name (`aten::nonzero`).
    reads: transfers to the host, each of which waits until the device is done.
    cache_hits: programs loaded from `trainer.strategy.cache_dir` instead of being compiled.
    cache_misses: programs that were not found there.
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
    """A strategy whose device compiles programs."""

    def compile_counts(self) -> CompileCounts:
        """Return the counts so far."""

    def device_name(self) -> str:
        """Return the kind of device, and how many there are."""


def describe_unwanted_work(counts: CompileCounts) -> list[str]:
    """Describe compilations and fallbacks to the host, which steps after warm-up should not have.

    Reads of metrics do not count.
    """
    found = [f"compiled {counts.compilations} programs in {counts.seconds:.1f} s"] if counts.compilations else []
    fallbacks = {name: count for name, count in counts.fallbacks.items() if name != READ_OPERATION}
    return found + [f"ran {name} on the host {count} times" for name, count in fallbacks.items()]


class CompileGuard(Callback):
    """Warns, or fails, if compilation continues after warm-up, or if every step reads a metric.

    Each epoch logs `compile/NAME` with these names: count, seconds, fallbacks, reads, cache_hits, cache_misses.

    Args:
        warmup_epochs: the number of epochs that may compile. The first compiles the steps, the next two the code
            between epochs.
        after_warmup: `warn`, or `fail` to end the run.
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
            self._epochs = 0  # counted in this process, as a resumed run compiles again

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        new = self._new(trainer)
        if new is None or self._epochs < self.warmup_epochs:
            return
        self._reading_steps = self._reading_steps + 1 if new.reads else 0
        found = describe_unwanted_work(new)
        if self._reading_steps == MAX_READING_STEPS:
            found.append(f"had metrics read by the host in {MAX_READING_STEPS} consecutive steps")
        self._report(trainer, found)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        new = self._new(trainer)
        if new is None:
            return
        epoch, self._epoch_start = self._last.since(self._epoch_start), self._last
        metrics = {
            "count": epoch.compilations,
            "seconds": epoch.seconds,
            "fallbacks": sum(epoch.fallbacks.values()),
            "reads": epoch.reads,
            "cache_hits": epoch.cache_hits,
            "cache_misses": epoch.cache_misses,
        }
        # Tensors on the host: a number would be sent to the device, and read back.
        tensors = {f"compile/{name}": torch.tensor(float(value)) for name, value in metrics.items()}
        pl_module.log_dict(tensors, batch_size=1)
        if self._epochs >= self.warmup_epochs:
            self._report(trainer, describe_unwanted_work(new))
        self._epochs += 1

    def _new(self, trainer: L.Trainer) -> CompileCounts | None:
        """Return the counts since the last call, or None if nothing compiles."""
        if not isinstance(trainer.strategy, Compiling):
            return None
        now = trainer.strategy.compile_counts()
        new, self._last = now.since(self._last), now
        return new

    def _report(self, trainer: L.Trainer, found: list[str]) -> None:
        if not found:
            return
        message = (
            f"step {trainer.global_step} (epoch {trainer.current_epoch}): expected no compilation after "
            f"{self.warmup_epochs} epochs of warm-up, and only occasional reads of metrics, but the device "
            f"{' and '.join(found)}."
            " Look for shapes or Python numbers that change from step to step, and for metrics read in a step: "
            'docs/tpu.md, "When it is slow".'
        )
        if self.after_warmup == "fail":
            raise InputError(message)
        rank_zero_warn(message)
