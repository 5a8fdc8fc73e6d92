"""`predict.py` writes what the model of a run computes by hand from its data."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from sklearn.metrics import f1_score
from torch import Tensor, nn

from flowers.data.datamodule import FlowersDataModule
from flowers.ensembling.members import find_members
from flowers.errors import InputError
from flowers.inference.evaluate import evaluate
from flowers.inference.predict import predict
from flowers.models.classifier import FlowerClassifier
from flowers.preparation.reader import PhotographReader
from flowers.training.predictions import read_provenance, read_rows
from flowers.training.runs import Run
from tests.conftest import damage_first_record
from tests.helpers.commands import run_script
from tests.helpers.configuration import compose_config

Views = Callable[[Tensor], list[Tensor]]


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Run:
    """Return a copy of the trained run to write into."""
    shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns("predictions", "submission.csv"))
    return Run(tmp_path / "run")


def load_run(run: Run) -> tuple[FlowersDataModule, FlowerClassifier]:
    datamodule, model = run.load({"num_workers": 0, "batch_size": 24})
    return datamodule, model.eval().requires_grad_(False)


def predict_by_hand(run: Run, views: Views) -> NDArray[np.float32]:
    """Return the mean probabilities over the views of each test image, `[N, K]`."""
    datamodule, model = load_run(run)
    means = [
        torch.stack([model(view).softmax(1) for view in views(batch["image"])]).mean(0)[batch["valid"]]
        for batch in datamodule.loader("test")
    ]
    return torch.cat(means).numpy()


def run_predict(run: Run, *settings: str) -> NDArray[np.float32]:
    """Run the command, and return the probabilities of each test image, `[N, K]`."""
    done = run_script("predict", f"run={run.directory}", "trainer=cpu", *settings)
    assert done.returncode == 0, done.stderr
    path = run.predictions("test")
    return np.concatenate([part.probabilities for part in read_rows(path, read_provenance(path).class_names)])


def test_flips_are_averaged_with_the_original_images(run: Run) -> None:
    found = run_predict(run, "tta.symmetries=flip")
    expected = predict_by_hand(run, lambda images: [images, torch.from_numpy(images.numpy()[:, :, ::-1].copy())])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(found - predict_by_hand(run, lambda images: [images])).max() > 1e-4  # the flip makes a difference

    provenance, config = read_provenance(run.predictions("test")), OmegaConf.load(run.config_path)
    assert (provenance.run, provenance.split, provenance.image_size) == (str(run.directory), "test", 192)
    assert (provenance.tta, provenance.backbone) == ("flip", config.model.backbone)
    weights = torch.load(run.best, weights_only=True)["state_dict"]
    learnt = [name for name, _ in load_run(run)[1].named_parameters()]
    assert provenance.parameters == sum(weights[name].numel() for name in learnt) > 0
    assert provenance.images_per_second is not None and provenance.images_per_second > 0
    assert (provenance.trained_on, provenance.folds, provenance.fold) == ("train", None, None)
    assert provenance.recipe == run.recipe()
    assert provenance.skipped == 0


def test_five_crops_are_resized_and_averaged(run: Run) -> None:
    def views(images: Tensor) -> list[Tensor]:
        crops = [images[:, top : top + 56, left : left + 56] for top, left in ((0, 0), (0, 8), (8, 0), (8, 8), (4, 4))]
        pixels = [crop.permute(0, 3, 1, 2).float() for crop in crops]
        resized = [nn.functional.interpolate(each, (48, 48), mode="bilinear", antialias=True) for each in pixels]
        return [each.permute(0, 2, 3, 1) for each in resized]

    found = run_predict(run, "tta.five_crops=true", "tta.sizes=[48]")
    np.testing.assert_allclose(found, predict_by_hand(run, views), atol=1e-5)
    assert read_provenance(run.predictions("test")).tta == "five crops, 48 px"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("tta.symmetries=diagonal", r"tta\.symmetries=diagonal: .*'none', 'flip', 'flips' or 'all'"),
        ("tta.sizes=[7]", r"tta\.sizes: .*32 to 256 .*found 7\."),
    ],
)
def test_invalid_views_are_refused(run: Run, setting: str, message: str) -> None:
    done = run_script("predict", f"run={run.directory}", "trainer=cpu", setting)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr + done.stdout
    errors = [line for line in done.stderr.splitlines() if "error" in line]
    assert len(errors) == 1 and re.match(f"error: {message}", errors[0])
    assert not run.predictions("test").parent.exists() and not run.submission.exists()


def test_unreadable_records_are_counted(run: Run, garden: Path, tmp_path: Path) -> None:
    root = tmp_path / "damaged"
    damage_first_record(garden, root, "test")
    found = run_predict(run, f"data.root={root}", "data.on_bad_record=skip")
    assert len(found) == 71
    assert read_provenance(run.predictions("test")).skipped == 1


def compose_command(run: Run, *overrides: str, name: str = "predict") -> DictConfig:
    """Compose the configuration of `predict` or `evaluate` in this process."""
    return compose_config(
        name, f"run={run.directory}", "trainer=cpu", "data.num_workers=0", "data.batch_size=24", *overrides
    )


def change_config(run: Run, **values: Any) -> None:
    config = OmegaConf.load(run.config_path)
    for key, value in values.items():
        OmegaConf.update(config, key.replace("__", "."), value, force_add=True)
    OmegaConf.save(config, run.config_path)


@pytest.mark.parametrize(("name", "command"), [("predict", predict), ("evaluate", evaluate)])
def test_folds_of_another_data_set_are_refused(
    run: Run, tmp_path: Path, name: str, command: Callable[[DictConfig], Any]
) -> None:
    change_config(run, data__folds=5, data__fold=0)
    with pytest.raises(InputError, match=rf"data\.root={tmp_path}: .*\bfolds\b"):
        split = ["split=val"] if name == "predict" else []
        command(compose_command(run, f"data.root={tmp_path}", *split, name=name))


@pytest.mark.parametrize("limit", [1, 0.5, 0])
def test_predictions_of_a_part_never_replace_those_of_the_whole_split(run: Run, limit: float) -> None:
    predict(compose_command(run))
    files = {path: path.read_bytes() for path in (run.predictions("test"), run.submission)}
    assert files[run.submission].count(b"\n") == 73
    with pytest.raises(InputError, match=f"trainer.limit_predict_batches={limit}: "):
        predict(compose_command(run, f"+trainer.limit_predict_batches={limit}"))
    assert {path: path.read_bytes() for path in files} == files
    predict(compose_command(run, "+trainer.limit_predict_batches=1.0"))
    assert {path: path.read_bytes() for path in files if path.suffix == ".csv"} == {
        path: content for path, content in files.items() if path.suffix == ".csv"
    }


def test_predictions_that_are_not_finite_are_refused(run: Run) -> None:
    checkpoint = torch.load(run.best, weights_only=True)
    checkpoint["state_dict"]["backbone.classifier.bias"][3] = float("nan")
    torch.save(checkpoint, run.best)
    done = run_script("predict", f"run={run.directory}", "trainer=cpu", "data.num_workers=0")
    assert done.returncode == 1
    assert done.stderr.startswith("error: id ") and "NaN" in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert not run.submission.exists() and list(run.predictions("test").parent.iterdir()) == []


def test_predictions_record_the_weights_that_made_them(run: Run) -> None:
    for split in ("val", "test"):
        predict(compose_command(run, f"split={split}"))
    val, test = (read_provenance(run.predictions(split)).weights for split in ("val", "test"))
    assert val == test and len(val) == 64
    checkpoint = torch.load(run.best, weights_only=True)
    checkpoint["hyper_parameters"]["licence"] = "mit"  # of what the training started from
    torch.save(dict(reversed(checkpoint.items())) | {"global_step": 7}, run.best)  # another file with the same weights
    predict(compose_command(run))
    again = read_provenance(run.predictions("test"))
    assert (again.weights, again.licence) == (val, "mit")
    checkpoint["state_dict"]["backbone.classifier.bias"][3] += 0.1  # weights of another epoch
    torch.save(checkpoint, run.best)
    predict(compose_command(run))
    assert read_provenance(run.predictions("test")).weights != val
    with pytest.raises(InputError, match=r"test\.parquet: .*\bweights\b"):
        find_members([str(run.directory)])


def test_a_run_with_an_average_predicts_with_it(tiny_settings: list[str], tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    done = run_script("train", *tiny_settings, "callbacks=ema", f"hydra.run.dir={run.directory}")
    assert done.returncode == 0, done.stderr
    done = run_script("predict", f"run={run.directory}", "split=val", "trainer=cpu")
    assert done.returncode == 0, done.stderr
    (part,) = read_rows(run.predictions("val"), read_provenance(run.predictions("val")).class_names)
    score = f1_score(part.labels, part.probabilities.argmax(1), average="macro")
    assert score == pytest.approx(json.loads(run.metrics_path.read_text())["val/macro_f1"], abs=1e-5)

    datamodule, model = load_run(run)
    batch = next(iter(datamodule.loader("val")))
    found = part.probabilities[:24]
    np.testing.assert_allclose(found, model(batch["image"]).softmax(1).numpy(), atol=1e-5)
    model.load_state_dict(torch.load(run.best, weights_only=True)["ema"]["weights"], strict=False)
    assert np.abs(found - model(batch["image"]).softmax(1).numpy()).max() > 1e-4  # the weights before averaging


def test_photographs_are_predicted_with_the_classes_by_name(run: Run, photographs: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    shutil.copytree(photographs, new)
    (new / "bad.jpg").write_bytes(b"text")
    refused = run_script("predict", f"run={run.directory}", "trainer=cpu", f"photographs={new}")
    assert refused.returncode == 1 and f"{new}/bad.jpg" in refused.stderr and "Traceback" not in refused.stderr
    done = run_script("predict", f"run={run.directory}", "trainer=cpu", f"photographs={new}", "data.on_bad_record=skip")
    assert done.returncode == 0, done.stderr
    assert f"{new}/bad.jpg" in done.stdout + done.stderr

    datamodule, model = load_run(run)
    reader = PhotographReader(str(photographs), datamodule.image_size)
    batches = datamodule.loader_of(reader, threaded=False)
    expected = torch.cat([model(batch["image"]).softmax(1)[batch["valid"]] for batch in batches]).numpy()
    path = run.predictions("photographs")
    parts = list(read_rows(path, datamodule.class_names))
    np.testing.assert_allclose(np.concatenate([part.probabilities for part in parts]), expected, atol=1e-5)
    rows = list(csv.DictReader(path.with_suffix(".csv").open()))
    assert [row["file"] for row in rows] == reader.paths
    order = np.argsort(-expected, axis=1)
    for row, probabilities, best in zip(rows, expected, order, strict=True):
        names = [datamodule.class_names[label] for label in best[:3]]
        assert [row[name] for name in ("class", "second", "third")] == names
        assert float(row["second_probability"]) == pytest.approx(probabilities[best[1]], abs=1e-4)
    assert not run.submission.exists()
