"""Start XLA's runtime, on a TPU or on the CPU with virtual devices."""

from __future__ import annotations

import atexit
import errno
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch_xla
import torch_xla.runtime as xr
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn
from torch_xla._internal import tpu

from flowers.errors import InputError
from flowers.training.xla.versions import TESTED, Versions, explain_libtpu, find_versions, release_of

log = logging.getLogger(__name__)

BUSY_SECONDS = 60.0
"""Time limit in seconds for chips that another process holds. After a kill they stay in use for 10 to 30 s."""

PROBE_SECONDS = 60.0
"""Time limit in seconds for the TPU's runtime to start if no chip is visible. Without a TPU it may wait for minutes."""


def start_runtime(cache_dir: str | None) -> None:
    """Start XLA's runtime in SPMD mode: on the TPU, unless `PJRT_DEVICE` is set.

    Args:
        cache_dir: the directory for compiled programs; None: none are kept. The CPU's runtime cannot read them back, so
            it keeps none.

    Raises:
        InputError: there is no TPU, its chips stay in use, or the runtime does not start.
    """
    versions = find_versions()
    if not xr.is_spmd():  # otherwise this is a second trainer in the same process
        if "PJRT_DEVICE" not in os.environ:
            _choose_tpu()
        if os.environ["PJRT_DEVICE"] == "TPU":
            _prepare_tpu(versions)
        rank_zero_only(log.info)(f"XLA on {os.environ['PJRT_DEVICE']}: {versions}")
        if release_of(versions.torch_xla) not in TESTED:
            rank_zero_warn(f"torch_xla {versions.torch_xla} is not tested. Tested versions: {' and '.join(TESTED)}.")
    try:
        if not xr.is_spmd():
            xr.use_spmd()
            if cache_dir is not None and xr.device_type() != "CPU":
                xr.initialize_cache(str(Path(cache_dir).expanduser()))
        if xr.addressable_runtime_device_count() == 0:
            raise RuntimeError("no device.")
    except (OSError, RuntimeError) as error:
        atexit.unregister(torch_xla._prepare_to_exit)  # in 2.8 it aborts the process if the runtime has not started
        found = {name: os.environ[name] for name in ("PJRT_DEVICE", "CPU_NUM_DEVICES") if name in os.environ}
        raise InputError(
            f"{', '.join(f'{name}={value}' for name, value in found.items())}: expected XLA's runtime to start, found "
            f"this: {str(error).strip().splitlines()[0].rstrip('.')} ({versions}). Set PJRT_DEVICE=TPU on a machine "
            "with a TPU, and elsewhere PJRT_DEVICE=CPU with CPU_NUM_DEVICES at 1 or more."
        ) from error


def _choose_tpu() -> None:
    if tpu.num_available_chips() == 0:
        raise InputError(
            "trainer=tpu: expected a TPU on this machine, found none. Start it on a TPU VM (docs/tpu.md), or try "
            "the same program on XLA's CPU runtime: PJRT_DEVICE=CPU CPU_NUM_DEVICES=4 python src/train.py "
            "trainer=tpu"
        )
    os.environ["PJRT_DEVICE"] = "TPU"


def _prepare_tpu(versions: Versions) -> None:
    if problem := explain_libtpu(versions):
        rank_zero_warn(problem)
    if tpu.num_available_chips() == 0:
        check_tpu_starts([sys.executable, "-c", _START], PROBE_SECONDS)
    else:
        wait_for_chips(find_chips(), BUSY_SECONDS)


_START = "import torch_xla.runtime as xr; xr.use_spmd(); assert xr.addressable_runtime_device_count()"


def check_tpu_starts(command: Sequence[str], seconds: float) -> None:
    """Raise `InputError` unless a command that starts the TPU's runtime succeeds within a time limit.

    It runs in a separate process, because without a TPU the runtime waits for minutes or aborts its process.
    """
    rank_zero_warn(f"PJRT_DEVICE=TPU, but no chip is visible on this machine. Trying for {seconds:g} s to start it.")
    try:
        done = subprocess.run(command, timeout=seconds, capture_output=True, text=True)
        problem = None if done.returncode == 0 else _explain_end(done.returncode, done.stderr)
    except subprocess.TimeoutExpired:
        problem = f"no answer within {seconds:g} s"
    if problem is not None:
        raise InputError(
            f"PJRT_DEVICE=TPU: expected XLA's runtime to start, found this: {problem}. Choose a machine with a TPU, or "
            "set PJRT_DEVICE=CPU."
        )


def find_chips() -> list[Path]:
    """Return the device files of this machine's TPU chips."""
    return sorted([*Path("/dev").glob("accel[0-9]*"), *Path("/dev/vfio").glob("[0-9]*")])


def wait_for_chips(chips: Sequence[Path], seconds: float) -> None:
    """Wait until no other process holds any of the chips.

    This comes first, because the runtime cannot be started a second time after it has failed.

    Raises:
        InputError: a chip is still in use after `seconds`.
    """
    end = time.monotonic() + seconds
    while busy := [chip for chip in chips if _is_busy(chip)]:
        names = ", ".join(map(str, busy))
        if time.monotonic() >= end:
            raise InputError(
                f"{names}: expected the TPU's chips to be free, found them in use for {seconds:g} s. End the process "
                "that holds them: on a notebook, restart its kernel; elsewhere, see sudo lsof FILE."
            )
        log.warning("%s: in use by another process. Trying again for up to %.0f s.", names, end - time.monotonic())
        time.sleep(min(5.0, seconds / 4))


def _is_busy(chip: Path) -> bool:
    try:
        os.close(os.open(chip, os.O_RDWR))
    except OSError as error:  # the runtime reports any other error
        return error.errno == errno.EBUSY
    return False


def _explain_end(status: int, stderr: str) -> str:
    errors = re.findall(r"^\w*Error: (.+)$", stderr, re.MULTILINE)
    how = f"it was ended by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
    return str(errors[-1]).rstrip(".") if errors else how
