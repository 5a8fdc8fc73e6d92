"""Parameter groups: rates by layer, weight decay that does not follow them."""

from __future__ import annotations

import functools

import pytest
import timm
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR

from flowers.errors import InputError
from flowers.models.optimizers import configure, layer_scales, parameter_groups

ADAMW = functools.partial(torch.optim.AdamW, lr=1e-2, weight_decay=0.02)


@pytest.fixture(scope="module")
def backbone() -> nn.Module:
    return timm.create_model("test_efficientnet", num_classes=3)


def test_rates_decay_layer_by_layer_as_timms(backbone: nn.Module) -> None:
    from timm.optim import param_groups_layer_decay

    expected = {
        id(parameter): group["lr_scale"]
        for group in param_groups_layer_decay(backbone, layer_decay=0.5)
        for parameter in group["params"]
    }
    groups = parameter_groups(backbone, layer_decay=0.5)
    found = {id(parameter): group.get("lr_scale", 1.0) for group in groups for parameter in group["params"]}
    assert found == pytest.approx(expected)


def test_every_trained_parameter_is_in_one_group(backbone: nn.Module) -> None:
    for settings in ({}, {"layer_decay": 0.9}, {"heads": ["classifier"], "head_lr_scale": 10.0}):
        groups = parameter_groups(backbone, **settings)  # type: ignore[arg-type]
        found = [id(parameter) for group in groups for parameter in group["params"]]
        assert sorted(found) == sorted(id(parameter) for parameter in backbone.parameters())


def test_the_heads_rate_is_scaled_alone(backbone: nn.Module) -> None:
    groups = parameter_groups(backbone, ["classifier"], head_lr_scale=10.0)
    fast = {id(parameter) for group in groups if group.get("lr_scale") == 10 for parameter in group["params"]}
    assert fast == {id(parameter) for parameter in backbone.get_submodule("classifier").parameters()}


def test_a_weight_decays_as_much_at_any_rate(backbone: nn.Module) -> None:
    made = configure(ADAMW, None, parameter_groups(backbone, layer_decay=0.5))
    assert isinstance(made, torch.optim.Optimizer)
    assert len({group["lr"] for group in made.param_groups}) > 2
    decayed = {round(group["lr"] * group["weight_decay"], 12) for group in made.param_groups if group["weight_decay"]}
    assert decayed == {round(1e-2 * 0.02, 12)}


def test_a_schedule_keeps_the_rates_apart(backbone: nn.Module) -> None:
    made = configure(
        ADAMW, lambda optimizer: LambdaLR(optimizer, lambda step: 0.5), parameter_groups(backbone, (), 0.5)
    )
    assert isinstance(made, dict)
    rates = {group["lr"] / group.get("lr_scale", 1.0) for group in made["optimizer"].param_groups}
    assert rates == {0.5e-2}


def test_a_schedule_of_one_rate_for_all_is_refused(backbone: nn.Module) -> None:
    one_cycle = functools.partial(OneCycleLR, max_lr=1e-2, total_steps=10)
    with pytest.raises(InputError, match=r"scheduler: .*OneCycleLR"):
        configure(ADAMW, one_cycle, parameter_groups(backbone, layer_decay=0.5))
    configure(ADAMW, one_cycle, parameter_groups(backbone))


def test_a_backbone_without_known_layers_is_refused() -> None:
    with pytest.raises(InputError, match=r"model\.layer_decay=0.5: .*Linear"):
        layer_scales(nn.Linear(2, 2), 0.5)
