"""The distillation loss matches torch's, and a teacher's probabilities are looked up by id."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from flowers.errors import InputError
from flowers.models.distillation import Distillation, LiveTeacher, SoftTargets, soft_loss, soften


def logits_of(rows: int, seed: int) -> torch.Tensor:
    return 4 * torch.randn(rows, 5, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("temperature", [1.0, 2.5, 4.0])
def test_softened_probabilities_match_softened_logits(temperature: float) -> None:
    logits = logits_of(8, 0)
    torch.testing.assert_close(soften(logits.softmax(1), temperature), (logits / temperature).softmax(1))


@pytest.mark.parametrize("temperature", [1.0, 2.5, 4.0])
def test_the_loss_is_torchs_divergence_times_the_squared_temperature(temperature: float) -> None:
    student, teacher = logits_of(8, 0), (logits_of(8, 1) / temperature).softmax(1)
    expected = F.kl_div((student / temperature).log_softmax(1), teacher, reduction="none").sum(1) * temperature**2
    torch.testing.assert_close(soft_loss(student, teacher, temperature), expected)
    same = (student / temperature).softmax(1)
    torch.testing.assert_close(soft_loss(student, same, temperature), torch.zeros(8), atol=1e-5, rtol=0)


def test_a_certain_teacher_is_equal_to_a_label() -> None:
    student, labels = logits_of(8, 0), torch.arange(8) % 5
    certain = F.one_hot(labels, 5).float()
    torch.testing.assert_close(soft_loss(student, certain, 1.0), F.cross_entropy(student, labels, reduction="none"))


def test_the_gradient_is_the_difference_of_the_probabilities() -> None:
    student, teacher, temperature = logits_of(8, 0).requires_grad_(), logits_of(8, 1), 3.0
    targets = (teacher / temperature).softmax(1)
    soft_loss(student, targets, temperature).sum().backward()
    expected = temperature * ((student / temperature).softmax(1) - targets)
    torch.testing.assert_close(student.grad, expected.detach())


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_weight_is_the_teachers_part_of_the_loss(weight: float) -> None:
    student, teacher, labels = logits_of(4, 0), logits_of(4, 1).softmax(1), torch.arange(4.0)
    distillation = Distillation(weight, 1.0)
    distillation.teacher = SoftTargets([], np.zeros((0, 5), np.float32), "")
    found = distillation.combine(labels, student, torch.cat([teacher, teacher], 1), lambda: student)
    torch.testing.assert_close(found, (1 - weight) * labels + weight * soft_loss(student, teacher, 1.0))


def test_rows_without_a_teacher_have_finite_gradients() -> None:
    student = logits_of(2, 0).requires_grad_()
    soft_loss(student, soften(torch.zeros(2, 5), 2.0), 2.0).sum().backward()
    assert torch.isfinite(student.grad).all()  # type: ignore[arg-type]


def test_probabilities_are_looked_up_by_id() -> None:
    table = np.random.default_rng(0).dirichlet(np.ones(3), 4).astype(np.float32)
    teacher = SoftTargets(["a", "b", "c", "d"], table, "train.parquet")
    found = teacher.look_up(["d", "b", ""])
    np.testing.assert_array_equal(found.numpy(), np.stack([table[3], table[1], np.zeros(3)]))
    assert found.dtype == torch.float32
    with pytest.raises(InputError, match=r"train\.parquet: .*\bx\b"):
        teacher.look_up(["a", "x"])


def test_a_live_teacher_is_frozen_and_in_evaluation_mode() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.9), nn.Linear(12, 3)).train()

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = model

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.layers(image.float() / 255)  # type: ignore[no-any-return]

    images = torch.randint(0, 256, (2, 2, 2, 3), dtype=torch.uint8)
    teacher = LiveTeacher(Net(), "best.ckpt")
    found = teacher.predict(images, 2.0)
    torch.testing.assert_close(found, (teacher.model(images) / 2).softmax(1))
    torch.testing.assert_close(found.sum(1), torch.ones(2))
    assert not found.requires_grad and not any(weight.requires_grad for weight in model.parameters())
