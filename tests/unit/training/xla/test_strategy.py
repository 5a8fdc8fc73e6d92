"""The parts of `trainer=tpu` are tested on XLA's CPU runtime. Not tested: a TPU."""

from __future__ import annotations

from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.trainer.states import TrainerFn

from flowers.errors import InputError
from flowers.training.xla import strategy as strategy_module
from flowers.training.xla.strategy import AutocastPrecision, check_batch_size, check_trainer, create_moments


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.Adam, torch.optim.SGD])
def test_moments_created_in_advance_do_not_change_the_updates(kind: type[torch.optim.Optimizer]) -> None:
    weights = [torch.nn.Parameter(torch.ones(3, 2)) for _ in range(2)]
    optimizers = [kind([weight], lr=0.1, weight_decay=0.01) for weight in weights]  # type: ignore[call-arg]
    create_moments(optimizers[1])
    for step in range(3):
        for weight, optimizer in zip(weights, optimizers, strict=True):
            weight.grad = torch.arange(6.0).view(3, 2) - step
            optimizer.step()
        assert torch.equal(*weights)


@pytest.mark.parametrize(("size", "fitting"), [(30, "28 or 32"), (3, "4"), (None, "4")])
def test_a_batch_size_that_devices_cannot_divide_is_refused(size: int | None, fitting: str) -> None:
    check_batch_size(32, 4)
    with pytest.raises(InputError, match=f"Set it to {fitting}."):
        check_batch_size(size, 4)


@pytest.mark.parametrize("precision", ["16-mixed", "bf16-true", "16-true", "64-true", 64])
def test_precisions_that_xla_lacks_are_refused(precision: str | int) -> None:
    with pytest.raises(InputError, match=rf"trainer\.precision={precision}: .*trainer\.precision=bf16-mixed"):
        AutocastPrecision(precision)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"detect_anomaly": True}, "trainer.detect_anomaly=true: "),
        ({"log_every_n_steps": 1}, "trainer.log_every_n_steps=1: .* 10 "),
    ],
)
def test_settings_that_stall_a_device_are_refused_in_training(settings: dict[str, Any], message: str) -> None:
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, **settings)
    check_trainer(trainer)  # accepted in evaluation
    trainer.state.fn = TrainerFn.FITTING
    with pytest.raises(InputError, match=message):
        check_trainer(trainer)


def test_a_pods_hosts_are_nodes_of_one_process_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strategy_module, "start_runtime", lambda _: None)
    monkeypatch.setattr(strategy_module.SingleDeviceXLAStrategy, "__init__", lambda *_, **__: None)
    monkeypatch.setattr(strategy_module.rank_zero_only, "rank", 0)
    for name, value in (("process_count", 64), ("process_index", 3), ("global_runtime_device_count", 256)):
        monkeypatch.setattr(strategy_module.xr, name, lambda value=value: value)
    strategy = strategy_module.SPMDStrategy(hosts=None)
    assert (strategy.world_size, strategy.num_nodes) == (64, 64)  # these decide how many cores a process gets
