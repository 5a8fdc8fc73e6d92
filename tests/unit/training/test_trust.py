"""Loading a run directory of somebody else runs no code and reads no secrets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningDataModule
from omegaconf import DictConfig, OmegaConf

from flowers.errors import InputError
from flowers.training.checkpoints import read_checkpoint
from flowers.training.runs import Run
from flowers.training.trust import check_trusted, is_known

PATH = Path("run/config.yaml")


def make_config(values: dict[str, Any]) -> DictConfig:
    """Return a training's configuration with these values at dotted keys, unresolved as a run stores it."""
    data = {"_target_": "flowers.data.datamodule.FlowersDataModule", "root": "data", "train_transform": []}
    model = {"_target_": "flowers.models.classifier.FlowerClassifier", "backbone": "lite0", "backbone_arguments": {}}
    config = OmegaConf.create({"data": data, "model": model, "seed": 1, "paths": {"cache_dir": "here"}})
    for key, value in values.items():
        OmegaConf.update(config, key, value, force_add=True)
    return config


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"data.root": "${paths.cache_dir}/garden", "data.seed": "${seed}"},
        {"paths.cache_dir": '${oc.env:FLOWERS_CACHE,"~/.cache/flowers"}', "data.cache_dir": "${paths.cache_dir}"},
        {"data.train_transform": [{"_target_": "albumentations.Compose", "transforms": []}]},
        {"data.train_transform": [{"_target_": "albumentations.HorizontalFlip", "p": 0.5}]},
        {"data.prepare": {"_target_": "flowers.synthetic.Garden"}},
        {"callbacks.mine": {"_target_": "mine.Callback", "user": "${oc.env:USER}"}},
        {"model.head": {"_target_": "timm.layers.ClassifierHead", "_partial_": True}},
    ],
)
def test_the_configuration_of_a_training_is_trusted(values: dict[str, Any]) -> None:
    config = make_config(values)
    check_trusted(config, PATH)
    assert config == make_config(values)


CALL = {"_target_": "os.system", "command": "touch broken_into"}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data._target_", "os.system"),
        ("model._target_", "my_package.MyModel"),
        ("data.train_transform", [CALL]),
        ("data.train_transform", [[{"transforms": [CALL]}]]),
        ("data.prepare", {"_target_": "flowers.synthetic.Garden", "_args_": [CALL]}),
        ("data.prepare", {"_target_": "flowers.synthetic.Garden", "_recursive_": False, "seed": CALL}),
        ("data.prepare", {"_target_": "flowers.synthetic.Garden", "seed": {**CALL, "_partial_": True}}),
        ("model.backbone_arguments", {"act_layer": CALL}),
        ("model._target_", ["os.system"]),
        ("model._target_", None),
        # Inside the known packages.
        ("data._target_", "flowers.data.workers.os.system"),
        ("data._target_", "flowers.data.datamodule.torch.load"),
        ("data._target_", "flowers.cli.run_command"),
        ("data._target_", "flowers.nowhere.Class"),
        ("data._target_", "flowers_of_somebody.Model"),
        ("model._target_", "lightning.pytorch.cli.instantiate_class"),
        ("model._target_", "lightning.pytorch.cli.LightningCLI"),
        ("model._target_", "flowers.models.classifier.FlowerClassifier.load_from_checkpoint"),
        ("model._target_", "timm.models.load_checkpoint"),
        ("model._target_", "timm.create_model"),
        ("data.train_transform", [{"_target_": "albumentations.from_dict"}]),
        ("data.train_transform", [{"_target_": "hydra.utils.get_method", "path": "os.system"}]),
        ("model._target_", "torch.hub.load"),
        ("model._target_", "torch.nn.Linear"),
    ],
)
def test_a_target_that_could_run_anything_is_refused(key: str, value: Any) -> None:
    with pytest.raises(InputError) as caught:
        check_trusted(make_config({key: value}), PATH)
    message = str(caught.value)
    assert message.startswith(f"{PATH}: {key}") and "trust=true" in message


def test_the_message_names_the_target() -> None:
    with pytest.raises(InputError, match=r"run/config\.yaml: model\._target_: .*my_package\.MyModel.*trust=true"):
        check_trusted(make_config({"model._target_": "my_package.MyModel"}), PATH)


@pytest.mark.parametrize(
    "value",
    [
        "${oc.env:SECRET}",
        "s3://bucket/${oc.env:SECRET}",
        "${oc.env:FLOWERS_CACHE,${oc.env:SECRET}}",
        "${oc.decode:'{a: 1}'}",
        "${oc.create:${other}}",
        "${hydra:job.name}",
        "${${name}:SECRET}",
        "${.${name}}",
        r"\${oc.env:SECRET}",
        "${ oc.env : SECRET }",
        "${dollar}{oc.env:SECRET}",
    ],
)
def test_a_reference_that_reads_the_environment_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "word")
    others = {"name": "oc.env", "other": {"_target_": "os.system"}, "dollar": "$"}
    for place in ("data.root", "elsewhere"):
        config = make_config({**others, "data.root": "${elsewhere}", "elsewhere": "", place: value})
        with pytest.raises(InputError, match="trust=true") as caught:
            check_trusted(config, PATH)
        assert "word" not in str(caught.value)


@pytest.mark.parametrize("reference", ["${callbacks.x}", "${..callbacks.x}", "${logger.x}", "${[callbacks].x}"])
def test_a_reference_into_unchecked_groups_is_refused(reference: str) -> None:
    unchecked = {f"{group}.x": "https://elsewhere/${oc.env:HOME}" for group in ("callbacks", "logger")}
    with pytest.raises(InputError, match="trust=true"):
        check_trusted(make_config({**unchecked, "data.root": reference}), PATH)


def test_a_target_given_by_a_reference_is_refused() -> None:
    for target in ("${name}", "${call._target_}"):
        with pytest.raises(InputError, match=r"data\._target_.*os\.system"):
            check_trusted(make_config({"name": "os.system", "call": CALL, "data._target_": target}), PATH)
    with pytest.raises(InputError, match=r"data\.prepare\._target_.*os\.system"):
        check_trusted(make_config({"call": CALL, "data.prepare": "${call}"}), PATH)


@pytest.mark.parametrize("name", ["checkpoint_path", "pretrained", "pretrained_cfg"])
def test_arguments_that_load_a_file_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"model.backbone_arguments.{name}: "):
        check_trusted(make_config({f"model.backbone_arguments.{name}": "weights.pth"}), PATH)


@pytest.mark.parametrize(
    ("target", "known"),
    [
        ("torch.optim.AdamW", True),
        ("torch.optim.lr_scheduler.OneCycleLR", True),
        ("timm.optim.Lamb", True),
        ("lightning.LightningModule", True),
        ("torch.optimal.AdamW", False),
        ("torch.optim.adamw.Tensor", False),
    ],
)
def test_only_targets_of_known_libraries_are_known(target: str, known: bool) -> None:
    assert is_known(target) == known


class Breach:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_checkpoint_that_pickles_another_object_is_refused(tmp_path: Path) -> None:
    content = {"state_dict": Breach(tmp_path / "broken_into"), "hyper_parameters": {"class_names": []}}
    torch.save(content, tmp_path / "best.ckpt")
    with pytest.raises(InputError, match=r"best\.ckpt: .*checkpoint"):
        read_checkpoint(tmp_path / "best.ckpt", LightningDataModule())
    assert not (tmp_path / "broken_into").exists()


def test_loading_an_untrusted_run_creates_nothing(tmp_path: Path) -> None:
    marker = tmp_path / "broken_into"
    config = make_config({"data.train_transform": [{"_target_": "pathlib.Path.touch", "_args_": [str(marker)]}]})
    OmegaConf.save(config, tmp_path / "config.yaml")
    with pytest.raises(InputError, match="trust=true"):
        Run(tmp_path).load({})
    assert not marker.exists()
