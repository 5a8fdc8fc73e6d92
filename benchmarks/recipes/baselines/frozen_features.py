"""Fit a logistic regression to the frozen backbone's pooled features, in one pass and without augmentation."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from benchmarks.recipes.images import Images, count_classes, read_images
from benchmarks.recipes.result import Predictions, Recorder
from benchmarks.recipes.task import BATCH_SIZE, Task
from benchmarks.recipes.weights import create_pretrained, find_device, to_input

PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)
"""The inverse regularisation strengths that cross-validation chooses from."""


def run(task: Task, recorder: Recorder) -> None:
    """Fit the regression. It has no epochs; its scores count as those of the last epoch."""
    train, val = read_images(task, "train"), read_images(task, "val")
    model = create_pretrained(0).to(find_device(), memory_format=torch.channels_last)
    recorder.images_trained = len(train.ids)
    fitted = fit(extract_features(model, train), train.labels, task.seed)
    found = fitted.predict_proba(extract_features(model, val))
    probabilities = np.zeros((len(val.ids), count_classes(task)), np.float32)
    probabilities[:, fitted.classes_] = found  # a class without training images has no column
    recorder.record(task.epochs, Predictions(val.ids, val.labels, probabilities))


@torch.no_grad()
def extract_features(model: nn.Module, split: Images) -> NDArray[np.float32]:
    """Return the pooled features of a split, float32 `[N, D]`."""
    model.eval()
    device = next(model.parameters()).device
    batches = torch.from_numpy(split.images).split(BATCH_SIZE)
    return np.concatenate([model(to_input(batch, device)).cpu().numpy() for batch in batches])


def fit(features: NDArray[np.float32], labels: NDArray[np.int64], seed: int) -> GridSearchCV:
    """Fit a multinomial logistic regression, whose regularisation is chosen by cross-validation in three folds.

    Args:
        features: float32 `[N, D]`.
        labels: int64 `[N]`.
        seed: the seed of the folds.
    """
    warnings.filterwarnings("ignore", message="The least populated class")  # a rare class is in fewer folds
    regression = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    folds = StratifiedKFold(3, shuffle=True, random_state=seed)
    search = GridSearchCV(regression, {"logisticregression__C": PENALTIES}, cv=folds)
    return search.fit(features, labels)
