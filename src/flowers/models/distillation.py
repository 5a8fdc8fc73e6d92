"""Knowledge distillation: a student learns from a teacher's probabilities in addition to the labels.

Hinton et al. 2015, arXiv:1503.02531. A teacher is a table of probabilities by image id, or a model that sees the
student's images. It is not part of the student, so no checkpoint contains it. All shapes are fixed, and nothing is read
from the device, so it becomes part of the step's program on a compiling device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from flowers.errors import InputError
from flowers.interfaces import Batch


def soften(probabilities: Tensor, temperature: float) -> Tensor:
    """Return `softmax(logits / temperature)`, float32 `[B, K]`, for probabilities `[B, K]` of these logits.

    A row of zeros, as invalid rows have, becomes uniform instead of NaN.
    """
    floats = probabilities.float()
    smallest = torch.finfo(floats.dtype).tiny
    return torch.softmax(floats.clamp(min=smallest).log() / temperature, dim=1)


def soft_loss(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Return `temperature ** 2` times the KL divergence of the softened student from the targets, float32 `[B]`.

    The factor keeps the size of the gradients at any temperature, so that the weight of the loss keeps its meaning.

    Args:
        logits: the student's logits, `[B, K]` of any float type.
        targets: the teacher's probabilities at this temperature, float32 `[B, K]`.
        temperature: the divisor of the student's logits.
    """
    student = F.log_softmax(logits.float() / temperature, dim=1)
    teacher = targets.clamp(min=torch.finfo(targets.dtype).tiny).log()  # 0 log 0 is 0
    return temperature**2 * (targets * (teacher - student)).sum(dim=1)


class SoftTargets:
    """A teacher's probabilities by image id, on the host.

    Args:
        ids: the images' ids, each once.
        probabilities: float32 `[N, K]`, in the order of the ids.
        source: the file or run that they come from, for messages.
        licence: the licence of the teacher's pretrained weights; empty if it is not known.
    """

    def __init__(self, ids: Sequence[str], probabilities: NDArray[np.float32], source: str, licence: str = "") -> None:
        self.source = source
        self.licence = licence
        self._rows = {identity: row for row, identity in enumerate(ids)}
        self._probabilities = probabilities

    def __str__(self) -> str:
        return f"{len(self._rows):,} predictions of {self.source}"

    def look_up(self, ids: Sequence[str]) -> Tensor:
        """Return the probabilities of a batch, float32 `[B, K]`. Empty ids, as invalid rows have, give zeros.

        Raises:
            InputError: the teacher has not predicted an image.
        """
        missing = next((identity for identity in ids if identity and identity not in self._rows), None)
        if missing is not None:
            raise InputError(
                f"{self.source}: expected the teacher's predictions of every training image, found none of {missing}. "
                "Predict the data set that the student is trained on."
            )
        found = np.zeros((len(ids), self._probabilities.shape[1]), np.float32)
        for row, identity in enumerate(ids):
            if identity:
                found[row] = self._probabilities[self._rows[identity]]
        return torch.from_numpy(found)


class LiveTeacher:
    """A model that predicts the student's training images. It is not a submodule of the student.

    Args:
        model: the model, from images uint8 `[B, H, W, 3]` to logits `[B, K]`. It is frozen here.
        source: the file that it comes from, for messages.
        licence: the licence of its pretrained weights; empty if it is not known.
    """

    def __init__(self, model: nn.Module, source: str, licence: str = "") -> None:
        self.source = source
        self.licence = licence
        self.model = model.eval().requires_grad_(False)

    def __str__(self) -> str:
        return f"the model of {self.source}, on every batch"

    def to(self, device: torch.device) -> None:
        """Move the model to a device."""
        self.model.to(device)

    @torch.no_grad()
    def predict(self, images: Tensor, temperature: float) -> Tensor:
        """Return probabilities at a temperature, float32 `[B, K]`, of images uint8 `[B, H, W, 3]`."""
        logits: Tensor = self.model(images)
        return torch.softmax(logits.float() / temperature, dim=1)


Teacher = SoftTargets | LiveTeacher


class Distillation:
    """Adds the loss of a teacher to that of the labels. Without a teacher it changes nothing.

    Args:
        weight: the weight of the teacher's loss. The loss of the labels has the weight `1 - weight`.
        temperature: the temperature of the teacher's probabilities and of the student's in the teacher's loss.
    """

    def __init__(self, weight: float, temperature: float) -> None:
        self.weight = weight
        self.temperature = temperature
        self.teacher: Teacher | None = None

    def complete(self, batch: Batch) -> Batch:
        """Add the key `teacher` with the probabilities to a batch, if they are looked up and not yet there.

        Raises:
            InputError: the batch has no ids, or the teacher has not predicted one of its images.
        """
        if not isinstance(self.teacher, SoftTargets) or "teacher" in batch:
            return batch
        if "id" not in batch:
            raise InputError(
                "data: expected batches with ids, to look up a teacher's predictions, found none. Add the key id: a "
                "list of str. Or use a run without predictions as a live teacher."
            )
        return {**batch, "teacher": self.teacher.look_up(batch["id"])}

    def join(self, targets: Tensor, batch: Batch) -> Tensor:
        """Concatenate targets `[B, K]` with looked-up ones, if there are any, to `[B, 2 K]`, so that both are mixed."""
        if not isinstance(self.teacher, SoftTargets):
            return targets
        looked_up = self.complete(batch)["teacher"].to(targets.device)
        return torch.cat([targets, soften(looked_up, self.temperature)], dim=1)

    def combine(self, label_losses: Tensor, logits: Tensor, joined: Tensor, images: Callable[[], Tensor]) -> Tensor:
        """Return the loss of each row, float32 `[B]`.

        Args:
            label_losses: the loss of the labels, float32 `[B]`.
            logits: the student's logits, `[B, K]`.
            joined: the targets from `join`, after mixing.
            images: a function that returns the images as the model trains on them, uint8 `[B, H, W, 3]`.
        """
        if self.teacher is None:
            return label_losses
        if isinstance(self.teacher, LiveTeacher):
            targets = self.teacher.predict(images(), self.temperature)
        else:
            targets = joined[:, logits.shape[1] :]
        teacher_losses = soft_loss(logits, targets, self.temperature)
        return (1 - self.weight) * label_losses + self.weight * teacher_losses
