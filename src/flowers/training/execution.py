"""Run the steps of a network in a memory format, compiled or not, with a number of threads, keeping memory or not.

These settings do not change what a network computes, beyond rounding. They are keys of `trainer.*` beside Lightning's.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.plugins import MixedPrecision, Precision
from torch import Tensor, nn

from flowers.errors import InputError
from flowers.interfaces import HasNetwork
from flowers.settings import Positive
from flowers.system.memory import keeping_freed_memory
from flowers.training.compilation import Compiling


@dataclass(frozen=True, slots=True)
class Execution:
    """The memory format, compilation, threads and memory of a network's steps.

    Args:
        channels_last: the memory format of the network: channels-last, or contiguous. It needs a model with
            `get_network()`: see `flowers.interfaces.HasNetwork`.
        compile: whether to compile the network with torch.compile. On a CPU that needs a C++ compiler. A model without
            `get_network()` has its `forward` compiled.
        threads: the number of threads of this process on the CPU; None: PyTorch's default.
        autotune: whether to time these settings, precisions and numbers of workers first, and to take the fastest; see
            docs/speed.md.
        keep_memory: whether steps on a CPU keep the memory that they free for the next one, which is faster and takes
            more of it: see docs/speed.md.
    """

    channels_last: bool = True
    compile: bool = False
    threads: Positive | None = None
    autotune: bool = False
    keep_memory: bool = True


def check_execution(execution: Execution, trainer: L.Trainer) -> None:
    """Raise `InputError` if the device, or the number of processes, does not allow these settings."""
    for name in ("compile", "autotune"):
        if getattr(execution, name) and isinstance(trainer.strategy, Compiling):
            raise InputError(
                f"trainer.{name}=true: expected false with this strategy, found {type(trainer.strategy).__name__}, "
                f"which compiles each step by itself. Leave trainer.{name} out."
            )
    if execution.autotune and trainer.world_size > 1:
        raise InputError(
            f"trainer.autotune=true: expected one process, found {trainer.world_size}. Run it with trainer.devices=1 "
            "for a few steps, and set what it prints by hand."
        )
    if execution.compile and trainer.strategy.root_device.type == "cpu":
        check_compiler()


def check_compiler() -> None:
    """Raise `InputError` unless there is a C++ compiler, which torch.compile calls on a CPU."""
    if not has_compiler():
        raise InputError(
            "trainer.compile=true: expected a C++ compiler (g++, clang++ or the one in CXX), found none. Install g++, "
            "or set trainer.compile=false."
        )


def has_compiler() -> bool:
    """Return whether there is a C++ compiler."""
    return any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "clang++"))


def network_of(model: nn.Module) -> nn.Module:
    """Return the part of a model that is compiled and converted: its network, or else the model itself."""
    return model.get_network() if isinstance(model, HasNetwork) else model


@contextmanager
def executing(execution: Execution, model: nn.Module, trainer: L.Trainer) -> Iterator[None]:
    """Run a model's steps within the block as configured. Afterwards the model is not compiled.

    Raises:
        InputError: the settings do not fit the trainer, or the model cannot be compiled.
    """
    check_execution(execution, trainer)
    threads = torch.get_num_threads()
    torch.set_num_threads(execution.threads or threads)
    handle = None if isinstance(trainer.strategy, Compiling) else _set_memory_format(model, execution.channels_last)
    if execution.compile:
        # In place: the names of the weights stay as they are.
        network_of(model).compile(dynamic=False)  # type: ignore[no-untyped-call]
    keeps = execution.keep_memory and isinstance(trainer.accelerator, CPUAccelerator)
    try:
        with keeping_freed_memory() if keeps else nullcontext():
            yield
    except RuntimeError as error:
        if not (execution.compile and is_compile_error(error)):
            raise
        raise InputError(
            f"trainer.compile=true: expected a network that torch.compile accepts, found {first_line(error)}. Set "
            "trainer.compile=false."
        ) from error
    finally:
        torch.set_num_threads(threads)
        if execution.compile:
            network_of(model)._compiled_call_impl = None
        if handle is not None:
            handle.remove()


def _set_memory_format(model: nn.Module, channels_last: bool) -> Any:
    """Convert a model's network, if it has one; return the handle of the hook that converts its input, if any."""
    if not isinstance(model, HasNetwork):
        return None
    network = model.get_network()
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    network.to(memory_format=memory_format)  # type: ignore[call-overload]
    return None if channels_last else network.register_forward_pre_hook(_make_contiguous)


def _make_contiguous(network: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(value.contiguous() if isinstance(value, Tensor) else value for value in inputs)


def is_compile_error(error: Exception) -> bool:
    """Return whether torch.compile raised an error."""
    return type(error).__module__.startswith(("torch._dynamo", "torch._inductor"))


def first_line(error: Exception) -> str:
    """Return an error's type and the first line of its message, shortened."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0][:200] if text else 'no message'}"


def set_precision(trainer: L.Trainer, precision: str) -> None:
    """Make a trainer that has not started use another precision: `32-true` or `bf16-mixed`."""
    if str(trainer.precision) == precision:
        return
    device = trainer.strategy.root_device.type
    plugin = MixedPrecision("bf16-mixed", device) if precision == "bf16-mixed" else Precision()
    trainer.strategy.precision_plugin = plugin
