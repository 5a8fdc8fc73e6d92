"""Exact metrics of a split, from a confusion matrix that stays on the device until the epoch ends."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


def accuracy(confusion: Tensor) -> Tensor:
    """Return the fraction of records on the diagonal of a confusion matrix, int64 `[K, K]`, truth by prediction."""
    return confusion.diagonal().sum() / confusion.sum().clamp(min=1)


def macro_f1(confusion: Tensor) -> Tensor:
    """Return the mean F1 of the classes in a confusion matrix, int64 `[K, K]`, truth by prediction.

    Classes that occur neither as truth nor as prediction do not count, as in scikit-learn's
    `f1_score(average="macro")`. No shape depends on the data, because there are only sums and `where`.
    """
    hits = confusion.diagonal()
    occurrences = confusion.sum(0) + confusion.sum(1)
    f1 = torch.where(occurrences > 0, 2 * hits / occurrences.clamp(min=1), 0.0)
    return f1.sum() / (occurrences > 0).sum().clamp(min=1)


class SplitMetrics(Metric):
    """Computes loss, accuracy and macro F1 over the valid rows of a split. On several devices, each row counts once."""

    full_state_update = False

    def __init__(self, class_count: int) -> None:
        super().__init__()
        self.class_count = class_count
        self.confusion: Tensor
        self.loss_sum: Tensor
        self.add_state("confusion", torch.zeros(class_count, class_count, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("loss_sum", torch.zeros((), dtype=torch.float32), dist_reduce_fx="sum")

    def reset(self) -> None:
        super().reset()  # copies zeros to the device
        # A compiling device treats computed zeros like a step's results, so the same program takes both.
        self.confusion, self.loss_sum = torch.zeros_like(self.confusion), torch.zeros_like(self.loss_sum)

    def update(self, losses: Tensor, predicted: Tensor, labels: Tensor, valid: Tensor) -> None:
        """Add a batch: losses float `[B]`, predicted and labels int64 `[B]`, valid bool `[B]`."""
        cells = torch.where(valid, labels * self.class_count + predicted, 0)
        counts = torch.zeros_like(self.confusion).view(-1).index_add(0, cells, valid.to(torch.int64))
        self.confusion += counts.view_as(self.confusion)
        self.loss_sum += (losses.float() * valid).sum()

    def compute(self) -> dict[str, Tensor]:
        """Return the metrics, scalars on the host. The sums leave the device only here."""
        confusion, loss_sum = self.confusion.cpu(), self.loss_sum.cpu()
        return {
            "loss": loss_sum / confusion.sum().clamp(min=1),
            "accuracy": accuracy(confusion),
            "macro_f1": macro_f1(confusion),
        }
