"""A resumed training continues from its checkpoint, and settings that contradict it are refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Timer
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, OneCycleLR

from flowers.data.position import Position, check_same_order, check_same_split, read_position
from flowers.errors import InputError
from flowers.training.resuming import (
    TimeEachProcess,
    check_same_optimizer,
    check_same_schedule,
    find_replaced_arguments,
)


def test_the_state_of_a_timer_is_neither_saved_nor_loaded() -> None:
    callback, trainer, module = TimeEachProcess(), L.Trainer(logger=False), L.LightningModule()
    for hook in (callback.on_save_checkpoint, callback.on_load_checkpoint):
        checkpoint = {"callbacks": {"Timer": {}, "EMA": {}}}
        hook(trainer, module, checkpoint)
        assert checkpoint == {"callbacks": {"EMA": {}}}


@pytest.mark.parametrize(
    ("seconds", "stopped", "epochs", "steps", "logged", "cut_short"),
    [
        (0, True, 3, -1, 1, True),
        (0, True, -1, 9, 1, True),
        (0, True, -1, -1, 1, False),  # the time is the length of the run
        (0, False, 3, -1, 0, False),
        (3600, True, 3, -1, 0, False),
    ],
)
def test_a_run_that_is_out_of_time_logs_the_setting(
    seconds: int,
    stopped: bool,
    epochs: int,
    steps: int,
    logged: int,
    cut_short: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    limits = {"max_epochs": epochs, "max_steps": steps, "default_root_dir": "logs/mine"}
    trainer = SimpleNamespace(callbacks=[Timer({"seconds": seconds})], should_stop=stopped, global_step=7, **limits)
    callback = TimeEachProcess()
    callback.on_train_end(cast(Any, trainer), L.LightningModule())
    assert sum("trainer.max_time" in record.getMessage() for record in caplog.records) == logged
    assert callback.cut_short == cut_short
    advised = any("hydra.run.dir=logs/mine resume=true" in record.getMessage() for record in caplog.records)
    assert advised == cut_short


def make_optimizer(kind: Any, **settings: Any) -> torch.optim.Optimizer:
    optimizer: torch.optim.Optimizer = kind(nn.Linear(2, 2).parameters(), **{"lr": 0.1, **settings})
    LambdaLR(optimizer, lambda step: 0.5)  # the step's rate is half of the configured one
    return optimizer


def saved_groups(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    return list(optimizer.state_dict()["param_groups"])


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ({"betas": (0.9, 0.99)}, {"betas": [0.9, 0.99]}),
        ({"fused": True}, {"foreach": True}),
        ({"lr": torch.tensor(0.5)}, {"lr": 0.5}),
    ],
)
def test_an_equally_configured_optimizer_is_accepted(before: dict[str, Any], now: dict[str, Any]) -> None:
    adam = torch.optim.AdamW
    saved, optimizer = saved_groups(make_optimizer(adam, **before)), make_optimizer(adam, **now)
    own = saved_groups(optimizer)
    check_same_optimizer(Path("a.ckpt"), saved, optimizer)
    assert saved_groups(optimizer) == own


def test_a_schedule_may_change_the_momentum() -> None:
    optimizer = make_optimizer(torch.optim.SGD, momentum=0.9)
    schedule = OneCycleLR(optimizer, 1.0, total_steps=10)
    before = saved_groups(optimizer)
    optimizer.step()
    schedule.step()
    assert saved_groups(optimizer)[0]["momentum"] != before[0]["momentum"]
    check_same_optimizer(Path("a.ckpt"), before, optimizer)


def test_other_parameter_groups_are_refused() -> None:
    groups = saved_groups(make_optimizer(torch.optim.AdamW))
    with pytest.raises(InputError, match=r"a\.ckpt: .*parameter groups"):
        check_same_optimizer(Path("a.ckpt"), groups * 2, make_optimizer(torch.optim.AdamW))
    groups[0]["params"] = [0]
    with pytest.raises(InputError, match=r"a\.ckpt: .*parameter groups"):
        check_same_optimizer(Path("a.ckpt"), groups, make_optimizer(torch.optim.AdamW))


def test_arguments_of_a_schedule_that_the_checkpoint_replaces_are_found() -> None:
    before, now = (CosineAnnealingLR(make_optimizer(torch.optim.SGD), T_max=steps) for steps in (10, 20))
    assert find_replaced_arguments(before.state_dict(), now) == ["T_max"]
    assert find_replaced_arguments(before.state_dict(), before) == []
    schedule = LambdaLR(make_optimizer(torch.optim.SGD), lambda step: 1.0)
    assert find_replaced_arguments(schedule.state_dict() | {"last_epoch": 7}, schedule) == []


def test_a_schedule_of_another_kind_or_length_is_refused() -> None:
    saved = OneCycleLR(make_optimizer(torch.optim.SGD), 1.0, total_steps=10).state_dict()
    check_same_schedule(Path("a.ckpt"), saved, OneCycleLR(make_optimizer(torch.optim.SGD), 1.0, total_steps=10))
    for schedule in (
        OneCycleLR(make_optimizer(torch.optim.SGD), 1.0, total_steps=20),
        CosineAnnealingLR(make_optimizer(torch.optim.SGD), T_max=10),
    ):
        with pytest.raises(InputError, match=r"^scheduler.*a\.ckpt"):
            check_same_schedule(Path("a.ckpt"), saved, schedule)


def test_an_optimizer_with_a_subset_of_the_settings_is_refused() -> None:
    with pytest.raises(InputError, match=r"optimizer: .*a\.ckpt"):
        saved = saved_groups(make_optimizer(torch.optim.Adamax))
        check_same_optimizer(Path("a.ckpt"), saved, make_optimizer(torch.optim.RAdam))
    with pytest.raises(InputError, match="decoupled_weight_decay"):
        saved = saved_groups(make_optimizer(torch.optim.Adam, weight_decay=0.1))
        check_same_optimizer(Path("a.ckpt"), saved, make_optimizer(torch.optim.AdamW, weight_decay=0.1))


ORDER = {"records": 100, "data.train_on": "train", "data.folds": None, "data.fold": None, "data.seed": 1, "x": 1}


@pytest.mark.parametrize("batch", [0, 3])
@pytest.mark.parametrize(
    ("name", "value"), [("data.train_on", "train+val"), ("data.folds", 5), ("data.fold", 1), ("data.seed", 2)]
)
def test_another_split_is_refused_at_any_batch(name: str, value: Any, batch: int) -> None:
    for check in (check_same_split, check_same_order):
        with pytest.raises(InputError, match=f"^{name}: expected "):
            check(Position(1, batch, ORDER), {**ORDER, name: value})


def test_another_order_is_refused_within_an_epoch_only() -> None:
    check_same_order(Position(1, 0, ORDER), {**ORDER, "x": 2, "records": 120})
    with pytest.raises(InputError, match=r"^x: expected 1"):
        check_same_order(Position(1, 3, ORDER), {**ORDER, "x": 2})


def test_folds_of_other_records_are_refused_at_any_batch() -> None:
    folds = {**ORDER, "data.folds": 5, "data.fold": 0}
    with pytest.raises(InputError, match=r"^records: expected 100"):
        check_same_split(Position(1, 0, folds), {**folds, "records": 101})


@pytest.mark.parametrize("batch", [0, 3])
def test_an_order_of_another_version_is_refused(batch: int) -> None:
    with pytest.raises(InputError, match=r"ckpt_path: .*data\.shuffle_buffer"):
        check_same_order(Position(1, batch, {**ORDER, "data.shuffle_buffer": 3}), ORDER)
    check_same_order(Position(1, batch, {"data.seed": 1}), ORDER)  # an earlier version stored fewer keys
    with pytest.raises(InputError, match=r"ckpt_path: .*records_seen"):
        read_position({"epoch": 1, "batch": 2, "order": {}, "records_seen": 3})
