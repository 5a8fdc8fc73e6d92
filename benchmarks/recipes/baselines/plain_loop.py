"""Train with a plain loop of forty lines of PyTorch: flips, AdamW, one cycle and label smoothing."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import OneCycleLR

from benchmarks.recipes.images import Images, count_classes, read_images
from benchmarks.recipes.result import Predictions, Recorder
from benchmarks.recipes.task import BATCH_SIZE, Task
from benchmarks.recipes.weights import create_pretrained, find_device, to_input


def run(task: Task, recorder: Recorder) -> None:
    """Train the plain loop."""
    torch.manual_seed(task.seed)
    train, val, device = read_images(task, "train"), read_images(task, "val"), find_device()
    images, labels = torch.from_numpy(train.images), torch.from_numpy(train.labels)
    model = create_pretrained(count_classes(task)).to(device, memory_format=torch.channels_last)
    steps = max(len(images) // BATCH_SIZE, 1)  # the incomplete last batch is left out
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    schedule = OneCycleLR(optimizer, max_lr=1e-3, total_steps=task.epochs * steps)
    for epoch in range(1, task.epochs + 1):
        model.train()
        for rows in torch.randperm(len(images)).split(BATCH_SIZE)[:steps]:
            batch = to_input(images[rows], device)
            flip = torch.rand(len(rows), 1, 1, 1, device=device) < 0.5
            batch = torch.where(flip, batch.flip(3), batch)
            loss = cross_entropy(model(batch), labels[rows].to(device), label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            recorder.images_trained += len(rows)
        recorder.record(epoch, predict(model, val))


@torch.no_grad()
def predict(model: nn.Module, split: Images) -> Predictions:
    """Predict a split with a model that returns logits for normalised images."""
    model.eval()
    device = next(model.parameters()).device
    batches = torch.from_numpy(split.images).split(BATCH_SIZE)
    parts = [model(to_input(batch, device)).softmax(1).cpu().numpy() for batch in batches]
    return Predictions(split.ids, split.labels, np.concatenate(parts))
