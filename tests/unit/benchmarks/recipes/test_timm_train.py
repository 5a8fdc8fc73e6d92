"""The recipes of other libraries get the stored images in folders, and the project's weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.recipes.baselines.timm_train import find_checkpoints
from benchmarks.recipes.folders import class_folders, export_folders
from benchmarks.recipes.images import count_classes, read_records
from benchmarks.recipes.task import BACKBONE, Task
from benchmarks.recipes.weights import create_pretrained, to_input
from flowers.errors import InputError


@pytest.fixture
def task(garden: Path, tmp_path: Path) -> Task:
    return Task("timm_train", "timm_train", garden, 192, 2, 1, tmp_path)


def test_folders_hold_the_stored_images(task: Task, tmp_path: Path) -> None:
    export_folders(task, tmp_path / "images")
    names = class_folders(count_classes(task))
    assert names == sorted(names)
    for split, folder in (("train", "train"), ("val", "validation")):
        files = sorted((tmp_path / "images" / folder).glob("*/*.jpg"), key=lambda path: path.stem)
        records = read_records(task, split)  # type: ignore[arg-type]
        assert [path.read_bytes() for path in files] == [record.image for record in records]
        assert [names.index(path.parent.name) for path in files] == [record.label for record in records]


def test_missing_checkpoints_are_reported(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-1.pth.tar").touch()
    with pytest.raises(InputError, match="timm_script"):
        find_checkpoints(tmp_path, 2)


def test_the_weights_are_those_that_the_project_starts_from() -> None:
    from flowers.models.backbone import create_backbone

    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8))
    ours, theirs = create_backbone(BACKBONE, 5, "wheel").eval(), create_pretrained(5).eval()
    with torch.no_grad():
        inputs = to_input(images, torch.device("cpu"))
        torch.testing.assert_close(theirs.forward_features(inputs), ours.forward_features(inputs))
    assert 0.005 < theirs.classifier.weight.std() < 0.015
    assert create_pretrained(0).eval()(inputs).shape == (2, 1280)
