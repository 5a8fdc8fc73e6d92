"""XLA as Lightning's accelerator `tpu`: data parallelism by the compiler, precision, the input pipeline.

`configs/trainer/tpu.yaml` selects it. Importing this module registers the accelerator. The same classes run on a TPU
and, under PJRT_DEVICE=CPU, on XLA's own CPU runtime with CPU_NUM_DEVICES virtual devices.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
import torch_xla
import torch_xla.core.xla_model as xm
import torch_xla.debug.metrics as counters
import torch_xla.distributed.spmd as spmd
import torch_xla.runtime as xr
from lightning.pytorch.accelerators import AcceleratorRegistry, XLAAccelerator
from lightning.pytorch.plugins import XLAPrecision
from lightning.pytorch.strategies.single_xla import SingleDeviceXLAStrategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from flowers.data.workers import fork_server
from flowers.errors import InputError
from flowers.interfaces import CompletesBatches
from flowers.settings import Positive
from flowers.training.checkpoint_io import AtomicCheckpointIO
from flowers.training.compilation import CompileCounts
from flowers.training.device_loader import DeviceLoader
from flowers.training.random_state import step_seed
from flowers.training.xla.batch_norm import allow_fixed_statistics
from flowers.training.xla.runtime import start_runtime

AUTOCAST = {"32-true": False, "32": False, "bf16-mixed": True, "bf16": True}
"""The values of trainer.precision, and whether they compute in bfloat16."""


class XLADevices(XLAAccelerator):
    """Lightning's accelerator `tpu`. One process on each host drives all of its devices."""

    @staticmethod
    def is_available() -> bool:  # type: ignore[override]
        return bool(xr.is_spmd())  # the strategy has started the runtime

    @staticmethod
    def auto_device_count() -> int:  # type: ignore[override]
        return int(xr.addressable_runtime_device_count())

    @staticmethod
    def parse_devices(devices: int | str | list[int]) -> int:
        count = XLADevices.auto_device_count()
        if devices not in (count, str(count)):
            raise InputError(
                f"trainer.devices={devices}: expected auto, as one process drives all {count} devices of a host. To "
                "use fewer, hide the others: CPU_NUM_DEVICES on the CPU, TPU_VISIBLE_CHIPS on a TPU."
            )
        return count

    @staticmethod
    def get_parallel_devices(devices: int | list[int]) -> list[torch.device]:
        return [torch.device("xla", 0)]


AcceleratorRegistry.register(XLADevices.name(), XLADevices, description=XLADevices.__name__, override=True)


class AutocastPrecision(XLAPrecision):
    """Keeps weights in float32. Training computes convolutions and matrix products in bfloat16 or float32.

    Evaluation is in float32, as on the CPU, so that a checkpoint has the same metrics. (A TPU itself may round the
    factors of products: docs/tpu.md.)

    Args:
        precision: a key of `AUTOCAST`.

    Raises:
        InputError: XLA does not support the precision.
    """

    def __init__(self, precision: str | int) -> None:
        if str(precision) not in AUTOCAST:
            raise InputError(
                f"trainer.precision={precision}: expected bf16-mixed or 32-true on XLA, found {precision}. float16 has "
                "no loss scaling there, and bf16-true would keep weights, averages and sums in bfloat16 as well. Set "
                "trainer.precision=bf16-mixed."
            )
        super().__init__("32-true")
        self._autocast = AUTOCAST[str(precision)]

    @contextmanager
    def train_step_context(self) -> Generator[None, None, None]:
        with torch.autocast("xla", dtype=torch.bfloat16, enabled=self._autocast):
            yield


class SPMDStrategy(SingleDeviceXLAStrategy):
    """Data parallelism by the compiler: one program over all devices of all hosts (GSPMD, arXiv:2105.04663).

    The rest of the program sees one device. A batch is split along its rows, weights are replicated, and means and
    batch norm are over the global batch. On a pod one process runs on each host and feeds its part of the batch. All
    processes decide alike, from the same metrics, and communicate only to wait for each other.

    Args:
        precision: `bf16-mixed` or `32-true`.
        cache_dir: the directory for compiled programs, for later runs; None: none are kept. It has no effect on the CPU
            runtime, which cannot read them back.
        hosts: the expected number of hosts, with one process on each; None: any number.

    Raises:
        InputError: there is no device, the number of hosts differs, or XLA does not support the precision.
    """

    def __init__(
        self, precision: str | int = "32-true", cache_dir: str | None = None, hosts: Positive | None = 1
    ) -> None:
        start_runtime(cache_dir)
        allow_fixed_statistics()
        super().__init__(device=0, precision_plugin=AutocastPrecision(precision))
        if hosts not in (None, xr.process_count()):
            raise InputError(
                f"trainer.strategy.hosts={hosts}: expected this many hosts in the slice, found {xr.process_count()}. "
                "Use trainer=tpu on a single host; on a pod, start the same command with trainer=tpu_pod on each host."
            )
        self.world_size = self.num_nodes = xr.process_count()  # one process on each host, which has its cores to itself
        self.global_rank = xr.process_index()
        rank_zero_only.rank = self.global_rank  # type: ignore[attr-defined]
        devices = xr.global_runtime_device_count()
        self.mesh = spmd.Mesh(np.arange(devices), (devices,), ("data",))
        self._loaders: list[DeviceLoader] = []
        self._files = AtomicCheckpointIO()  # XLA's own would not be atomic
        self._seed = 0

    @property
    def is_global_zero(self) -> bool:
        return self.global_rank == 0

    def compile_counts(self) -> CompileCounts:
        """Return the counts of compilations, fallbacks to the host and transfers so far."""
        compilations, nanoseconds, _ = counters.metric_data("CompileTime") or (0, 0.0, [])
        fallbacks = {
            name: counters.counter_value(name) for name in counters.counter_names() if name.startswith("aten::")
        }
        reads, *_ = counters.metric_data("TransferFromDeviceTime") or (0, 0.0, [])
        hits, misses = (counters.counter_value(f"PersistentCache{name}") or 0 for name in ("Hit", "Miss"))
        return CompileCounts(compilations, nanoseconds / 1e9, fallbacks, reads, hits, misses)

    def device_name(self) -> str:
        """Return the kind and number of devices: `TPU x 8`, or `XLA on CPU x 4` for the CPU runtime."""
        kind = "XLA on CPU" if xr.device_type() == "CPU" else str(xr.device_type())
        return f"{kind} x {xr.global_runtime_device_count()}"

    def setup_environment(self) -> None:
        assert self.lightning_module is not None
        check_trainer(self.lightning_module.trainer)
        self._seed = torch.initial_seed()
        super().setup_environment()

    def model_to_device(self) -> None:
        super().model_to_device()
        assert self.model is not None
        self._replicate(*self.model.parameters(), *self.model.buffers())

    def on_train_start(self) -> None:
        for optimizer in self.optimizers:
            create_moments(optimizer)
            self._replicate(*(value for slots in optimizer.state.values() for value in slots.values()))

    def _replicate(self, *values: Any) -> None:
        """Mark tensors as replicated on all devices.

        A program's results are marked this way. If its first input were not, the second step would be another program.
        """
        for value in values:
            if isinstance(value, Tensor) and value.device.type == "xla":
                spmd.mark_sharding(value, self.mesh, (None,) * value.ndim)

    # Steps are separated from what the host traces around them (metrics, resets), so that each is the same program.
    # This holds with accumulate_grad_batches as well: wrong gradients were reported on v6e for several batches fused
    # into one program, and it would need the memory of all of them.

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        torch_xla.sync()
        assert self.lightning_module is not None
        # The seed of dropout, which torch's seed does not set. It is an input of the step's program, so a new one
        # compiles nothing.
        xm.set_rng_state(step_seed(self._seed, self.lightning_module.current_epoch, batch_idx))

    def validation_step(self, *args: Any, **kwargs: Any) -> Any:
        torch_xla.sync()
        output = super().validation_step(*args, **kwargs)
        torch_xla.sync()
        return output

    def predict_step(self, *args: Any, **kwargs: Any) -> Any:
        output = super().predict_step(*args, **kwargs)
        torch_xla.sync()
        return output

    def process_dataloader(self, dataloader: object) -> object:
        if not isinstance(dataloader, DataLoader):
            raise InputError(
                f"data: expected torch's DataLoader on XLA, found a {type(dataloader).__name__}. Return one from "
                "train_dataloader() and the others."
            )
        check_batch_size(getattr(dataloader.batch_sampler, "batch_size", None), xr.addressable_runtime_device_count())
        if dataloader.num_workers > 0:
            dataloader.multiprocessing_context = fork_server()  # the runtime has threads, so a plain fork is unsafe
        self._loaders.append(DeviceLoader(dataloader, self._make_send))
        return self._loaders[-1]

    def _make_send(self) -> Callable[[Any], Any]:
        """Return the function that sends the batches of a pass that begins now."""
        module = self.lightning_module
        assert module is not None
        if module.trainer.state.fn == TrainerFn.PREDICTING:
            return self.send_images
        if module.trainer.training and isinstance(module, CompletesBatches):
            return lambda batch: self.send(module.complete_batch(batch))
        return self.send

    def batch_to_device(self, batch: Any, device: torch.device | None = None, dataloader_idx: int = 0) -> Any:
        """Return a batch on the device. If the loader's thread has not sent it, only its images are sent."""
        return batch if batch["image"].device.type == "xla" else self.send_images(batch)

    def send(self, batch: Any) -> Any:
        """Send a batch's tensors to the devices, with the rows split over all of them. Does not wait."""
        return apply_to_collection(batch, Tensor, self._split)

    def send_images(self, batch: Any) -> Any:
        """Send only a batch's images to the devices.

        Reading labels back from several devices would compile a program for each batch.
        """
        return {**batch, "image": self._split(batch["image"])}

    def _split(self, tensor: Tensor) -> Tensor:
        rows = ("data", *[None] * (tensor.ndim - 1))
        # minibatch: the tensor is this host's part of the global batch
        sharding = spmd.ShardingSpec(self.mesh, rows, minibatch=self.world_size > 1)
        sent: Tensor = xm.send_cpu_data_to_device(tensor, self.root_device, sharding)[0]
        return sent

    def barrier(self, name: str | None = None) -> None:
        if self.world_size > 1:
            self._sum_over_devices(1.0)

    def reduce_boolean_decision(self, decision: bool, all: bool = True) -> bool:
        if self.world_size == 1:
            return decision
        agreeing = self._sum_over_devices(float(decision))
        return agreeing == xr.global_runtime_device_count() if all else agreeing > 0

    def _sum_over_devices(self, value: float) -> float:
        """Sum each host's value over all devices. Returns when every host has contributed."""
        return float(self._split(torch.full((xr.addressable_runtime_device_count(),), value)).sum().cpu())

    def teardown(self) -> None:
        while self._loaders:
            self._loaders.pop().close()
        torch_xla.sync()  # otherwise a separate program would compute each weight on its way to the host
        super().teardown()

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None) -> None:
        torch_xla.sync()
        # Every host copies the tensors, though only the first one writes: all hosts must run the same programs.
        on_host = xm._maybe_convert_to_cpu(checkpoint, convert=True)
        if self.is_global_zero:
            self._files.save_checkpoint(on_host, filepath, storage_options)


def create_moments(optimizer: Optimizer) -> None:
    """Create the moments of a new Adam or AdamW optimizer, with which its first step would start.

    The first step is then the same program as all others, which saves a compilation.
    """
    if not isinstance(optimizer, torch.optim.Adam) or optimizer.state or optimizer.defaults["amsgrad"]:
        return
    for group in optimizer.param_groups:
        for weight in group["params"]:
            zeros = {name: torch.zeros_like(weight) for name in ("exp_avg", "exp_avg_sq")}
            optimizer.state[weight] = {"step": torch.tensor(0.0), **zeros}


def check_batch_size(size: int | None, devices: int) -> None:
    """Raise `InputError` unless a batch can be split evenly over the devices."""
    if size is None or size % devices:
        fewer = (size or 0) // devices * devices
        fitting = f"{fewer} or {fewer + devices}" if fewer else str(devices)
        raise InputError(
            f"data.batch_size={size}: expected a multiple of the {devices} devices that share a batch. Set it to "
            f"{fitting}."
        )


def check_trainer(trainer: L.Trainer) -> None:
    """Raise `InputError` for settings that XLA does not support, or that make the device wait at every step."""
    if trainer.state.fn != TrainerFn.FITTING:
        return
    if trainer._detect_anomaly:
        raise InputError(
            "trainer.detect_anomaly=true: expected false on XLA, where backward runs as one compiled program "
            "without single operations to check. Look for anomalies on the CPU: trainer=cpu."
        )
    interval: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
    if interval < 10 and not trainer.fast_dev_run:  # type: ignore[attr-defined]
        raise InputError(
            f"trainer.log_every_n_steps={interval}: expected 10 or more on XLA, found {interval}: to read a metric, "
            "the host waits for the device, which then waits for the host. Set trainer.log_every_n_steps=50."
        )
