"""Train with timm's own train.py: its default augmentation, a cosine schedule by step, one epoch of warm-up."""

from __future__ import annotations

import re
import runpy
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from timm.models import load_checkpoint
from torch import Tensor, nn

from benchmarks.recipes.folders import class_folders, export_folders
from benchmarks.recipes.images import Images, count_classes, read_images
from benchmarks.recipes.result import Predictions, Recorder
from benchmarks.recipes.task import BACKBONE, BATCH_SIZE, Task
from benchmarks.recipes.weights import find_device, wheel_state
from flowers.errors import InputError
from flowers.system.processor import available_cores


def run(task: Task, recorder: Recorder) -> float:
    """Run timm's script in this process, predict with its checkpoints afterwards, and return when the script ended."""
    with tempfile.TemporaryDirectory() as directory:
        work, class_count = Path(directory), count_classes(task)
        export_folders(task, work / "images")
        (work / "classes.txt").write_text("\n".join(class_folders(class_count)))
        torch.save(wheel_state(), work / "weights.pth")
        sys.argv = [str(task.timm_script), *make_arguments(task, work, class_count)]
        print("python", *sys.argv, flush=True)
        runpy.run_path(str(task.timm_script), run_name="__main__")
        ended = time.time()
        train, val = (read_images(task, split) for split in ("train", "val"))
        recorder.images_trained = task.epochs * (len(train.ids) // BATCH_SIZE) * BATCH_SIZE
        for epoch, checkpoint in enumerate(find_checkpoints(work / "run", task.epochs), start=1):
            predictions = predict(checkpoint, val, class_count, task.image_size)
            recorder.record(epoch, predictions, at=checkpoint.stat().st_mtime)
    return ended


def make_arguments(task: Task, work: Path, class_count: int) -> list[str]:
    """Return the arguments of timm's script. All others keep their defaults."""
    options = {
        "class-map": work / "classes.txt",
        "model": BACKBONE,
        "num-classes": class_count,
        "pretrained-path": work / "weights.pth",
        "img-size": task.image_size,
        "batch-size": BATCH_SIZE,
        "epochs": task.epochs,
        "opt": "adamw",
        "lr": 1e-3,
        "sched": "cosine",
        "warmup-epochs": min(1, task.epochs - 1),
        "seed": task.seed,
        "device": find_device().type,
        "workers": max(1, available_cores() - 1),
        "checkpoint-hist": task.epochs,
        "output": work,
        "experiment": "run",
    }
    pairs = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    return [str(work / "images"), "--pretrained", "--sched-on-updates", "--channels-last", *pairs]


def find_checkpoints(directory: Path, epochs: int) -> list[Path]:
    """Return the checkpoints of all epochs, in order.

    Raises:
        InputError: some are missing.
    """
    numbered = {
        int(match[1]): path
        for path in directory.glob("checkpoint-*.pth.tar")
        if (match := re.fullmatch(r"checkpoint-(\d+)\.pth\.tar", path.name))
    }
    if sorted(numbered) != list(range(epochs)):
        raise InputError(
            f"timm_script: expected a checkpoint of each of {epochs} epochs, found {sorted(numbered)}. Use the "
            f"train.py of timm {timm.__version__}, the version that is installed."
        )
    return [numbered[epoch] for epoch in range(epochs)]


def predict(checkpoint: Path, split: Images, class_count: int, image_size: int) -> Predictions:
    """Predict a split with a checkpoint, with timm's preprocessing for validation."""
    model: nn.Module = timm.create_model(BACKBONE, num_classes=class_count)
    load_checkpoint(model, str(checkpoint))
    config = resolve_data_config({"img_size": image_size}, model=model)
    transform: Callable[[Image.Image], Tensor] = create_transform(**config)
    return predict_transformed(model.to(find_device()), split, transform)


@torch.no_grad()
def predict_transformed(model: nn.Module, split: Images, transform: Callable[[Image.Image], Tensor]) -> Predictions:
    """Predict a split with a model, after transforming each image."""
    model.eval()
    device = next(model.parameters()).device
    parts = []
    for start in range(0, len(split.ids), BATCH_SIZE):
        images = [transform(Image.fromarray(image)) for image in split.images[start : start + BATCH_SIZE]]
        parts.append(model(torch.stack(images).to(device)).softmax(1).cpu().numpy())
    return Predictions(split.ids, split.labels, np.concatenate(parts))
