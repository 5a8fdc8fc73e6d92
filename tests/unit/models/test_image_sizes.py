"""Image sizes that a backbone cannot take are refused before training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from flowers.errors import InputError
from flowers.models.backbone import create_backbone
from flowers.models.image_sizes import check_image_sizes, explain_size, nearest_sizes

FIXED = "mixer_s32_224"  # accepts only the size that it was created for


def test_a_backbone_of_fixed_size_is_created_for_the_training_size() -> None:
    backbone = create_backbone(FIXED, 3, False, image_size=96)
    check_image_sizes(backbone, {"data.train_size": [96]})
    assert backbone(torch.zeros(1, 3, 96, 96)).shape == (1, 3)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("test_vit", {}), ("swin_tiny_patch4_window7_224", {"depths": (1, 1, 1, 1), "embed_dim": 24})],
)
def test_other_sizes_work_if_timm_supports_them(name: str, arguments: dict[str, Any]) -> None:
    backbone = create_backbone(name, 3, False, arguments, image_size=64)
    for side in (64, 96):
        assert backbone(torch.zeros(1, 3, side, side)).shape == (1, 3)
        assert explain_size(backbone, side) is None


def test_a_size_that_does_not_work_is_refused_with_sizes_that_do() -> None:
    sizes = {"data.train_size": [64], "data.eval_size": [100]}
    with pytest.raises(InputError, match=r"data\.eval_size: .* test_vit .*100 px.* 96 and 112"):
        check_image_sizes(create_backbone("test_vit", 3, False, image_size=64), sizes)
    backbone = create_backbone(FIXED, 3, False, image_size=96)
    assert explain_size(backbone, 128) is not None
    assert nearest_sizes(backbone, 128) == [96]


def test_images_too_small_for_a_network_are_refused() -> None:
    assert explain_size(create_backbone("inception_v3", 3, False), 32) is not None


def test_checking_sizes_does_not_change_the_model() -> None:
    backbone = create_backbone("test_vit", 3, False, image_size=64)
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    assert explain_size(backbone, 64) is None
    assert explain_size(backbone, 100) is not None
    assert torch.equal(torch.rand(1), expected)
    assert all(module.training for module in backbone.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())


def test_a_model_that_reads_values_is_checked_with_real_tensors() -> None:
    class Picky(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if float(images.sum()) or images.shape[-1] > 32:
                raise ValueError("too large")
            return images

    assert explain_size(Picky(), 32) is None
    assert explain_size(Picky(), 33) == "too large"


def test_weights_of_another_image_size_are_resampled(tmp_path: Path) -> None:
    source = create_backbone("test_vit", 3, False, image_size=96)
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    backbone = create_backbone("test_vit", 5, str(tmp_path / "weights.pth"), image_size=64)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():  # timm resamples inside the network as it resamples weights
        found, expected = (model.eval().forward_features(images) for model in (backbone, source))  # type: ignore[operator]
    torch.testing.assert_close(found, expected)


def test_arguments_of_the_user_take_precedence() -> None:
    backbone = create_backbone("test_vit", 3, False, {"img_size": 96, "dynamic_img_size": False}, image_size=64)
    assert backbone.patch_embed.img_size == (96, 96)  # type: ignore[union-attr]
    assert explain_size(backbone, 64) is not None


def test_a_size_that_a_backbone_cannot_be_created_for_is_refused() -> None:
    with pytest.raises(InputError, match=r"model\.backbone=mixer_s32_224: .*'img_size': -1"):
        create_backbone(FIXED, 3, False, image_size=-1)
