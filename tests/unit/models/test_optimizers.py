"""Parameter groups scale rates by layer but not weight decay, and optimizers are created by timm's names."""

from __future__ import annotations

import functools
import io

import pytest
import timm.optim
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR

from flowers.errors import InputError
from flowers.models.optimizers import (
    check_optimizer_name,
    configure,
    layer_scales,
    make_timm_optimizer,
    parameter_groups,
)

NAMES = [
    name
    for name in timm.optim.list_optimizers()
    if not name.startswith(("bnb", "fused", "kron"))  # which need a GPU, or compile for a minute
    and not timm.optim.get_optimizer_info(name).second_order
]

ADAMW = functools.partial(torch.optim.AdamW, lr=1e-2, weight_decay=0.02)


@pytest.fixture(scope="module")
def backbone() -> nn.Module:
    return timm.create_model("test_efficientnet", num_classes=3)


def test_rates_decay_by_layer_as_in_timm(backbone: nn.Module) -> None:
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


def test_head_lr_scale_affects_only_the_head(backbone: nn.Module) -> None:
    groups = parameter_groups(backbone, ["classifier"], head_lr_scale=10.0)
    fast = {id(parameter) for group in groups if group.get("lr_scale") == 10 for parameter in group["params"]}
    assert fast == {id(parameter) for parameter in backbone.get_submodule("classifier").parameters()}


def test_weight_decay_does_not_depend_on_the_rate_of_a_layer(backbone: nn.Module) -> None:
    configured = configure(ADAMW, None, parameter_groups(backbone, layer_decay=0.5))
    assert isinstance(configured, torch.optim.Optimizer)
    assert len({group["lr"] for group in configured.param_groups}) > 2
    decayed = {
        round(group["lr"] * group["weight_decay"], 12) for group in configured.param_groups if group["weight_decay"]
    }
    assert decayed == {round(1e-2 * 0.02, 12)}


def test_a_schedule_keeps_the_ratios_of_the_rates(backbone: nn.Module) -> None:
    configured = configure(
        ADAMW, lambda optimizer: LambdaLR(optimizer, lambda step: 0.5), parameter_groups(backbone, (), 0.5)
    )
    assert isinstance(configured, dict)
    rates = {group["lr"] / group.get("lr_scale", 1.0) for group in configured["optimizer"].param_groups}
    assert rates == {0.5e-2}


def test_a_schedule_of_one_rate_for_all_is_refused(backbone: nn.Module) -> None:
    one_cycle = functools.partial(OneCycleLR, max_lr=1e-2, total_steps=10)
    with pytest.raises(InputError, match=r"scheduler: .*OneCycleLR"):
        configure(ADAMW, one_cycle, parameter_groups(backbone, layer_decay=0.5))
    configure(ADAMW, one_cycle, parameter_groups(backbone))


def test_a_backbone_without_known_layers_is_refused() -> None:
    with pytest.raises(InputError, match=r"model\.layer_decay=0.5: .*Linear"):
        layer_scales(nn.Linear(2, 2), 0.5)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 3))


@pytest.mark.parametrize("name", NAMES)
def test_every_timm_optimizer_trains_with_our_groups(name: str) -> None:
    model = network()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    factory = functools.partial(make_timm_optimizer, opt=name, lr=0.01, weight_decay=0.1)
    optimizer = configure(factory, None, parameter_groups(model))
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(8, 3, 4, 4)).square().mean().backward()
        optimizer.step()
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert not all(torch.equal(one, other) for one, other in zip(before, model.parameters(), strict=True))
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    torch.load(file, weights_only=True)  # as every command loads a checkpoint


def test_a_name_gives_torchs_optimizer_of_that_name() -> None:
    steps = []
    for make in (
        functools.partial(make_timm_optimizer, opt="adamw", lr=0.01, weight_decay=0.1, betas=(0.8, 0.9)),
        functools.partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1, betas=(0.8, 0.9)),
    ):
        model = network()
        optimizer = make(parameter_groups(model))
        model(torch.ones(8, 3, 4, 4)).square().mean().backward()
        optimizer.step()
        steps.append(model.state_dict())
    torch.testing.assert_close(steps[0], steps[1])


@pytest.mark.parametrize(
    ("name", "hint"), [("adamW2", "adamw"), ("momentun", "momentum"), ("nothing-like-it", "lists")]
)
def test_an_unknown_name_is_refused_with_similar_names(name: str, hint: str) -> None:
    with pytest.raises(InputError, match=rf"optimizer\.opt={name}: .*{hint}"):
        check_optimizer_name(name)


def test_an_optimizer_that_needs_second_derivatives_is_refused() -> None:
    with pytest.raises(InputError, match=r"optimizer\.opt=adahessian: "):
        check_optimizer_name("adahessian")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_an_optimizer_that_cannot_run_here_is_refused() -> None:
    with pytest.raises(InputError, match=r"optimizer\.opt=fusedadam: "):
        make_timm_optimizer([nn.Parameter(torch.zeros(1))], opt="fusedadam", lr=0.1, weight_decay=0.0)


def test_an_argument_that_an_optimizer_does_not_take_is_refused() -> None:
    factory = functools.partial(make_timm_optimizer, opt="lion", lr=0.1, weight_decay=0.0, nonsense=1)
    with pytest.raises(InputError, match=r"optimizer: .*nonsense"):
        configure(factory, None, [nn.Parameter(torch.zeros(1))])
