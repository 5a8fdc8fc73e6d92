"""The learning rate is scaled with the global batch."""

from __future__ import annotations

import pytest

from flowers.training.learning_rate import LrScaling, scale_rate


@pytest.mark.parametrize(
    ("scaling", "images", "expected"),
    [("sqrt", 128, 2e-3), ("linear", 128, 4e-3), (None, 128, 1e-3), ("sqrt", 32, 1e-3), ("linear", None, 1e-3)],
)
def test_the_rate_is_scaled_with_the_images_per_step(
    scaling: LrScaling | None, images: int | None, expected: float
) -> None:
    node = {"_target_": "torch.optim.AdamW", "lr": 1e-3}
    assert scale_rate(node, scaling, images)["lr"] == pytest.approx(expected)
    assert node["lr"] == 1e-3


def test_an_optimizer_without_a_rate_is_unchanged() -> None:
    assert scale_rate({"_target_": "torch.optim.Adadelta"}, "sqrt", 64) == {"_target_": "torch.optim.Adadelta"}
