"""Create a data module and a model that fit together, and check that they have what a command needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning as L
from lightning.pytorch.utilities.model_helpers import is_overridden

from flowers.errors import InputError
from flowers.instantiate import instantiate
from flowers.interfaces import ChecksImageSizes, HasClassNames
from flowers.settings import Node, Rule
from flowers.targets import is_required, locate, parameters_of

MODEL = Rule(given=("class_names", "image_size", "count_classes", "optimizer", "scheduler"))
"""The arguments that a model is given if its signature has parameters of these names."""


def make_data(node: Mapping[str, Any]) -> L.LightningDataModule:
    """Create the configured data module.

    Raises:
        InputError: it is not a LightningDataModule, or its settings are inconsistent.
    """
    datamodule = instantiate("data", node)
    if not isinstance(datamodule, L.LightningDataModule):
        raise InputError(
            f"data._target_={node['_target_']}: expected a LightningDataModule, found a {type(datamodule).__name__}. "
            "See docs/your-own.md."
        )
    return datamodule


def make_model(node: Mapping[str, Any], datamodule: L.LightningDataModule, **arguments: Any) -> L.LightningModule:
    """Create the configured model for a data module.

    Args:
        node: the model's settings.
        datamodule: the source of the class names, the side of the training images and `count_classes`, if it has them.
        arguments: further arguments for the model. All are passed only if its signature has them and `node` does not.

    Raises:
        InputError: it is not a LightningModule, needs something that the data module lacks, or its settings are
            inconsistent.
    """
    attributes = {"class_names": "class_names", "image_size": "train_size", "count_classes": "count_classes"}
    given = {name: getattr(datamodule, own) for name, own in attributes.items() if hasattr(datamodule, own)} | arguments
    taken, _ = parameters_of(locate(node["_target_"], "model"))
    given = {name: value for name, value in given.items() if name in taken and name not in node}
    if "class_names" in taken and "class_names" not in {**given, **node} and is_required(taken["class_names"]):
        raise InputError(
            f"data: {node['_target_']} needs the names of the classes, and {type(datamodule).__name__} has no "
            "class_names. Add the attribute: a list of str in label order."
        )
    model = instantiate("model", node, **given)
    if not isinstance(model, L.LightningModule):
        raise InputError(
            f"model._target_={node['_target_']}: expected a LightningModule, found a {type(model).__name__}. See "
            "docs/your-own.md."
        )
    return model


def check_data(datamodule: L.LightningDataModule) -> None:
    """Raise `InputError` if a data module has no `train_dataloader`."""
    _check_methods("data", datamodule, L.LightningDataModule, ["train_dataloader"], "train.py")


def check_model(model: L.LightningModule, datamodule: L.LightningDataModule) -> None:
    """Raise `InputError` if a model cannot be trained, or does not take the image sizes of a data module."""
    needed = ["training_step", "configure_optimizers", *(["validation_step"] if has_validation(datamodule) else [])]
    _check_methods("model", model, L.LightningModule, needed, "train.py")
    check_sizes(model, datamodule, "train_size", "eval_size")


def check_validated(model: L.LightningModule, datamodule: L.LightningDataModule) -> None:
    """Raise `InputError` if a model or a data module has no validation."""
    _check_methods("model", model, L.LightningModule, ["validation_step"], "evaluate.py")
    _check_methods("data", datamodule, L.LightningDataModule, ["val_dataloader"], "evaluate.py")


def check_sizes(model: L.LightningModule, datamodule: L.LightningDataModule, *attributes: str) -> None:
    """Raise `InputError` unless a model takes images of the sizes in these attributes of a data module."""
    if isinstance(model, ChecksImageSizes):
        sizes = {f"data.{name}": [getattr(datamodule, name)] for name in attributes if hasattr(datamodule, name)}
        model.check_image_sizes(sizes)


def check_testable(test: bool, model: Node, datamodule: L.LightningDataModule) -> None:
    """Raise `InputError` if `test=true` is set for a model or data without a labelled test split."""
    if not test:
        return
    fix = "Add the method, or write predictions: python src/predict.py run=DIR split=test."
    if not is_overridden("test_dataloader", datamodule, L.LightningDataModule):
        raise InputError(f"test=true: {type(datamodule).__name__} has no test_dataloader(). {fix}")
    target = locate(model["_target_"], "model")
    if getattr(target, "test_step", None) in (None, L.LightningModule.test_step):
        raise InputError(f"test=true: {model['_target_']} has no test_step(). {fix}")


def has_validation(datamodule: L.LightningDataModule) -> bool:
    """Return whether a data module has a validation split. It has none if it trains on train and val."""
    own: bool | None = getattr(datamodule, "has_validation", None)
    return is_overridden("val_dataloader", datamodule, L.LightningDataModule) if own is None else own


def class_names_of(thing: object) -> list[str] | None:
    """Return the class names of a data module or a model, in label order; None if it has none."""
    return list(thing.class_names) if isinstance(thing, HasClassNames) else None


def _check_methods(key: str, found: Any, base: type, names: list[str], command: str) -> None:
    missing = [name for name in names if not is_overridden(name, found, base)]
    if missing:
        raise InputError(
            f"{key}: {type(found).__name__} has no {missing[0]}(), which {command} needs. Add the method: "
            "docs/your-own.md shows an example."
        )
