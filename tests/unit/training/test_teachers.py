"""A setting names a file or a run as the teacher, and unusable teachers are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from flowers.errors import InputError
from flowers.models.classifier import FlowerClassifier
from flowers.models.distillation import LiveTeacher, SoftTargets
from flowers.training.runs import Run
from flowers.training.teachers import describe_teacher, find_teacher, load_teacher
from tests.helpers.members import CLASSES, make_rows, write_file, write_foreign, write_run

TARGET = "flowers.models.classifier.FlowerClassifier"
ROWS = make_rows(20, 0)


class Data(L.LightningDataModule):
    """A data module with the training ids of `ROWS`, or those that a test gives."""

    def __init__(self, ids: list[str] = ROWS.ids, class_names: list[str] = CLASSES) -> None:
        super().__init__()
        self.class_names = class_names
        self.train_size = 64
        self._ids = ids

    def training_ids(self) -> list[str]:
        return self._ids


def find_named_teacher(teacher: object, target: str = TARGET) -> Path | Run | None:
    return find_teacher({"_target_": target, "teacher": teacher})


def write_trained(directory: Path, target: str = TARGET, **model: Any) -> Run:
    """Write a run's directory with the checkpoint of an untrained model."""
    run = Run(directory)
    run.best.parent.mkdir(parents=True)
    settings = {"backbone": "test_efficientnet", **model}
    node = {"_target_": target, "pretrained": True, **settings}
    data = {"_target_": "flowers.data.datamodule.FlowersDataModule", "train_size": 64, "train_on": "train"}
    OmegaConf.save(OmegaConf.create({"data": data, "model": node}), run.config_path)
    network = FlowerClassifier(CLASSES, **settings, image_size=64)
    torch.save(
        {
            "state_dict": network.state_dict(),
            "hyper_parameters": {"class_names": CLASSES},
            "loops": {"fit_loop": {"epoch_progress": {"current": {"completed": 1}}}},
            "global_step": 1,
        },
        run.best,
    )
    return run


def test_a_teacher_may_be_a_file_a_run_or_a_predictions_directory(tmp_path: Path) -> None:
    assert find_named_teacher(None) is None
    file = write_foreign(tmp_path / "mine.parquet", ROWS)
    assert find_named_teacher(str(file)) == file
    write_run(tmp_path / "run", ROWS)
    (tmp_path / "run" / "config.yaml").touch()
    assert find_named_teacher(str(tmp_path / "run")) == Run(tmp_path / "run")
    train = write_file(tmp_path / "run" / "predictions" / "train.parquet", ROWS)
    assert (
        find_named_teacher(str(tmp_path / "run")) == find_named_teacher(str(tmp_path / "run" / "predictions")) == train
    )


def test_a_model_of_a_user_may_have_a_setting_of_this_name() -> None:
    assert find_named_teacher("anything", "lightning.LightningModule") is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file or directory"),
        ("", "directory of a run"),
        ("ensemble.json", r"training split.*split=train"),
    ],
)
def test_an_unusable_teacher_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    directory = tmp_path / "teacher"
    if content is not None:
        directory.mkdir()
    if content:
        (directory / content).touch()
    with pytest.raises(InputError, match=f"model.teacher={directory}: .*{message}|{message}"):
        find_named_teacher(str(directory))


def test_a_file_has_the_teachers_probabilities_by_id(tmp_path: Path) -> None:
    more = make_rows(30, 0)
    file = write_foreign(tmp_path / "mine.parquet", more.shuffle(1))
    teacher = load_teacher(file, Data())
    assert isinstance(teacher, SoftTargets)
    np.testing.assert_allclose(teacher.look_up(ROWS.ids).numpy(), more.probabilities[:20], atol=1e-6)
    with pytest.raises(InputError):
        teacher.look_up([more.ids[25]])  # not a training image


def test_the_licence_of_a_teachers_weights_is_described(tmp_path: Path) -> None:
    file = write_file(tmp_path / "train.parquet", ROWS, licence="cc-by-nc-4.0")
    description = describe_teacher(load_teacher(file, Data()))
    assert description.startswith("20 ") and str(file) in description and "cc-by-nc-4.0" in description


def test_without_a_list_of_images_the_whole_file_is_used(tmp_path: Path) -> None:
    class Other(L.LightningDataModule):
        class_names = CLASSES

    teacher = load_teacher(write_foreign(tmp_path / "mine.parquet", ROWS), Other())
    assert isinstance(teacher, SoftTargets)
    np.testing.assert_allclose(teacher.look_up(ROWS.ids).numpy(), ROWS.probabilities, atol=1e-6)


def test_images_that_the_teacher_lacks_are_reported(tmp_path: Path) -> None:
    file = write_file(tmp_path / "train.parquet", ROWS, run="logs/run", recipe="made by predict.py")
    with pytest.raises(InputError, match=r"all 22 .*2 missing \(x, y\)\. .*predict\.py run=logs/run split=train"):
        load_teacher(file, Data([*ROWS.ids, "x", "y"]))


@pytest.mark.parametrize("names", [CLASSES[::-1], CLASSES[:2], [*CLASSES, "daisy"]], ids=["order", "fewer", "more"])
def test_other_classes_are_refused(tmp_path: Path, names: list[str]) -> None:
    file = write_file(tmp_path / "train.parquet", ROWS)
    with pytest.raises(InputError, match=rf"train\.parquet: .*\b{len(names)} classes"):
        load_teacher(file, Data(class_names=names))
    run = write_trained(tmp_path / "run")
    with pytest.raises(InputError, match=r"best\.ckpt: .*data set's"):
        load_teacher(run, Data(class_names=names))


def test_rows_that_are_not_probabilities_are_refused(tmp_path: Path) -> None:
    file = write_foreign(tmp_path / "mine.parquet", ROWS.replace_row(3, probabilities=[0.5, 0.2, 0.1]))
    with pytest.raises(InputError, match=f"sum to one .*{ROWS.ids[3]}: 0.8"):
        load_teacher(file, Data())


def test_a_duplicate_id_is_refused(tmp_path: Path) -> None:
    file = write_foreign(tmp_path / "mine.parquet", ROWS, {"id": [*ROWS.ids[:-1], ROWS.ids[0]]})
    with pytest.raises(InputError, match=r"mine\.parquet: .*\bid\b.* each row"):
        load_teacher(file, Data())


def test_the_best_model_of_a_run_is_a_live_teacher(tmp_path: Path) -> None:
    torch.manual_seed(3)
    run = write_trained(tmp_path / "run")
    state = torch.get_rng_state()
    teacher = load_teacher(run, Data())
    assert torch.equal(torch.get_rng_state(), state)  # the student starts with the same weights as without a teacher
    assert isinstance(teacher, LiveTeacher)
    weights = torch.load(run.best, weights_only=True)["state_dict"]
    assert all(torch.equal(value, weights[name]) for name, value in teacher.model.state_dict().items())


def test_predictions_of_other_weights_than_the_best_are_refused(tmp_path: Path) -> None:
    run = write_trained(tmp_path / "run")
    file = write_file(run.predictions("train"), ROWS, weights="of before the run was resumed")
    with pytest.raises(InputError, match=rf"{run.best}, .*run={run.directory} split=train"):
        load_teacher(file, Data())


def test_an_untrusted_teacher_is_refused_with_the_command_for_a_file(tmp_path: Path) -> None:
    run = write_trained(tmp_path / "run", teacher="${oc.env:HOME}")
    with pytest.raises(InputError, match=rf"predict\.py run={run.directory} split=train trust=true"):
        load_teacher(run, Data())


def test_a_teacher_of_other_image_sizes_is_refused(tmp_path: Path) -> None:
    run = write_trained(tmp_path / "run", backbone="test_vit")
    data = Data()
    data.train_size = 71
    with pytest.raises(InputError, match=r"data\.train_size: .*test_vit"):
        load_teacher(run, data)


@pytest.mark.parametrize(
    ("source", "warned"), [({}, False), ({"trained_on": "train+val"}, True), ({"folds": 5, "fold": 1}, True)]
)
def test_a_teacher_trained_on_the_validation_images_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, source: dict[str, Any], warned: bool
) -> None:
    class Validated(Data):
        has_validation = True

    load_teacher(write_file(tmp_path / "train.parquet", ROWS, **source), Validated())
    assert ("validation metrics" in caplog.text) == warned
