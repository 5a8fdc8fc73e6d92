"""The classifier prepares images without a copy, ignores invalid rows, and distils from a teacher."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR

from flowers.errors import InputError
from flowers.interfaces import Batch
from flowers.models.backbone import HeadInit, create_backbone
from flowers.models.classifier import FlowerClassifier
from flowers.models.distillation import LiveTeacher, SoftTargets, soft_loss, soften
from flowers.models.optimizers import parameter_groups
from flowers.training.schedules import warmup_decay

NAMES = ["a", "b", "c"]


def make_batch(size: int, valid: list[bool] | None = None) -> Batch:
    generator = torch.Generator().manual_seed(0)
    return Batch(
        image=torch.randint(0, 256, (size, 64, 64, 3), dtype=torch.uint8, generator=generator),
        label=torch.arange(size) % 3,
        id=[str(row) for row in range(size)],
        valid=torch.tensor(valid or [True] * size),
        skipped=[],
    )


def make_classifier(**settings: float) -> FlowerClassifier:
    torch.manual_seed(0)
    return FlowerClassifier(NAMES, "test_efficientnet", **settings)  # type: ignore[arg-type]


def test_a_single_class_is_refused() -> None:
    with pytest.raises(InputError, match=r"two classes, found rose\."):
        FlowerClassifier(class_names=["rose"], backbone="test_efficientnet")


def test_images_become_channels_last_input_in_the_backbones_range() -> None:
    model = make_classifier()
    image = make_batch(2)["image"]
    assert image.permute(0, 3, 1, 2).data_ptr() == image.data_ptr()
    ready = model.normalise(image)
    assert ready.is_contiguous(memory_format=torch.channels_last)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])  # ImageNet's
    expected = ((image / 255 - mean) / std).permute(0, 3, 1, 2)
    torch.testing.assert_close(ready, expected)


def test_invalid_rows_do_not_affect_loss_or_metrics() -> None:
    model = make_classifier(label_smoothing=0.1).eval()  # batch norm would mix rows
    full, padded = make_batch(3), make_batch(4, [True, True, True, False])
    padded["image"][:3], padded["image"][3] = full["image"], 255
    results = []
    for batch in (full, padded):
        model.validation_step(batch, 0)
        results.append({name: float(value) for name, value in model._metrics("val").compute().items()})
        model._metrics("val").reset()
    assert results[0] == pytest.approx(results[1], abs=1e-6)


@pytest.mark.parametrize(
    ("key", "optimizer", "scheduler"),
    [
        ("optimizer", {"betas": 3}, {"step_size": 1}),
        ("optimizer", {"momentum": 0.9}, {"step_size": 1}),
        ("optimizer", {"eps": -1.0}, {"step_size": 1}),
        ("scheduler", {}, {"step_size": 1, "warmup_epochs": 2}),
        ("scheduler", {}, {}),
    ],
)
def test_settings_that_an_optimizer_or_a_schedule_does_not_take_are_refused(
    key: str, optimizer: dict[str, float], scheduler: dict[str, float]
) -> None:
    model = make_classifier()
    model._optimizer = functools.partial(torch.optim.AdamW, **optimizer)  # type: ignore[arg-type]
    model._scheduler = functools.partial(StepLR, **scheduler)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=f"{key}: .*{'AdamW' if key == 'optimizer' else 'StepLR'}"):
        model.configure_optimizers()


def test_a_schedule_that_follows_a_metric_is_refused() -> None:
    model = make_classifier()
    model._optimizer, model._scheduler = torch.optim.AdamW, ReduceLROnPlateau  # type: ignore[assignment]
    with pytest.raises(InputError, match=r"scheduler._target_: .*ReduceLROnPlateau"):
        model.configure_optimizers()


def test_weight_decay_excludes_biases_and_normalisation() -> None:
    model = make_classifier()
    model._optimizer = functools.partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.1)
    model._scheduler = functools.partial(
        warmup_decay, steps_per_epoch=1, epochs=3, warmup_epochs=1, start=0.1, decay=0.8
    )
    optimizer = model.configure_optimizers()["optimizer"]  # type: ignore[index, call-overload]
    decayed, excluded = optimizer.param_groups
    assert (decayed["weight_decay"], excluded["weight_decay"]) == (0.1, 0.0)
    assert {parameter.ndim for parameter in excluded["params"]} == {1}
    names = {id(parameter): name for name, parameter in model.backbone.named_parameters()}
    order = [name for name, parameter in model.backbone.named_parameters() if parameter.ndim > 1]
    assert [names[id(parameter)] for parameter in decayed["params"]] == order
    assert len(decayed["params"]) + len(excluded["params"]) == len(list(model.parameters()))


def test_weight_decay_excludes_the_parameters_that_a_model_lists() -> None:
    backbone = create_backbone("test_vit", 3, False)
    decayed, excluded = parameter_groups(backbone)
    names = {id(parameter): name for name, parameter in backbone.named_parameters()}
    assert {"pos_embed", "cls_token"} <= {names[id(parameter)] for parameter in excluded["params"]}
    assert all(names[id(parameter)].endswith(".weight") for parameter in decayed["params"])


def test_class_settings_need_the_counts_of_the_classes() -> None:
    model = make_classifier(logit_adjustment=1.0)
    model._optimizer = functools.partial(torch.optim.AdamW, lr=0.1)
    with pytest.raises(InputError, match=r"model\.logit_adjustment: .*count_classes"):
        model.configure_optimizers()
    model._count_classes = lambda: [1, 2, 3]
    model.configure_optimizers()
    torch.testing.assert_close(model.loss.log_prior.exp(), torch.tensor([1 / 6, 2 / 6, 3 / 6]))


@pytest.mark.parametrize(("start", "spread"), [("zero", 0.0), ("normal", 0.01), ("timm", None)])
def test_head_init_sets_the_initial_weights_of_the_head(start: HeadInit, spread: float | None, tmp_path: Path) -> None:
    pretrained = create_backbone("test_efficientnet", 5, False)
    torch.save(pretrained.state_dict(), path := tmp_path / "weights.pt")
    head = create_backbone("test_efficientnet", 200, str(path), head_init=start).get_submodule("classifier")
    assert isinstance(head, nn.Linear)
    found = float(head.weight.detach().std())
    assert found > 0.02 if spread is None else found == pytest.approx(spread, rel=0.1)
    assert spread is None or not head.bias.any()


class PixelTeacher(nn.Module):
    """Returns the mean of each channel as logits, and stores its input."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.seen = image
        return image.float().mean((1, 2)) / 64


def make_student(teacher: SoftTargets | LiveTeacher | None, **settings: float) -> FlowerClassifier:
    model = make_classifier(teacher_weight=1.0, teacher_temperature=2.0, **settings)
    if teacher is not None:
        model.learn_from(teacher)
    return model


def dirichlet(rows: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).dirichlet(np.ones(3), rows).astype(np.float32)


def test_the_predictions_of_a_teacher_are_mixed_like_the_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    table, batch = dirichlet(4), make_batch(4)
    model = make_student(SoftTargets(batch["id"], table, ""), mixup_alpha=1.0)
    mixing = model._draw_mixing(model._training_input(batch), 3)
    assert mixing is not None
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(model.backbone, "forward", lambda images: seen.append(images) or torch.zeros(4, 3))
    loss = model.training_step(batch, 3)
    soft = soften(torch.from_numpy(table), 2.0)
    mixed = soft * mixing.fraction + soft[mixing.partner] * (1 - mixing.fraction)
    torch.testing.assert_close(loss, soft_loss(torch.zeros(4, 3), mixed, 2.0).mean())


@pytest.mark.parametrize("settings", [{}, {"mixup_alpha": 1.0}, {"cutmix_alpha": 1.0}])
def test_a_live_teacher_gets_the_training_images(settings: dict[str, float]) -> None:
    teacher, batch = PixelTeacher(), make_batch(4)
    model = make_student(LiveTeacher(teacher, ""), **settings)
    loss = model.training_step(batch, 3)
    assert (teacher.seen.int() - model.training_images(batch, 3).int()).abs().max() <= 1  # rounded twice
    logits, wanted = model(teacher.seen), (teacher(teacher.seen) / 2).softmax(1)
    torch.testing.assert_close(loss, soft_loss(logits, wanted, 2.0).mean(), atol=0.02, rtol=0.02)


def test_a_teacher_is_not_a_submodule_of_the_student() -> None:
    plain = make_student(None)
    with_live = make_student(LiveTeacher(make_classifier(), ""))
    assert with_live.state_dict().keys() == plain.state_dict().keys()
    assert len(list(with_live.modules())) == len(list(plain.modules()))


def test_a_batch_is_completed_once_and_only_with_a_table() -> None:
    table, batch = dirichlet(4), make_batch(4, [True, True, True, False])
    batch["id"][3] = ""
    complete = make_student(SoftTargets(batch["id"][:3], table[:3], "")).complete_batch(batch)
    np.testing.assert_array_equal(complete["teacher"].numpy(), np.concatenate([table[:3], np.zeros((1, 3))]))
    assert make_student(SoftTargets([], table[:0], "")).complete_batch(complete) is complete
    assert make_student(None).complete_batch(batch) is batch
    assert make_student(LiveTeacher(PixelTeacher(), "")).complete_batch(batch) is batch
    del batch["id"]
    with pytest.raises(InputError, match="batches with ids"):
        make_student(SoftTargets([], table[:0], "")).complete_batch(batch)


def test_a_live_teacher_must_accept_every_training_size() -> None:
    teacher = LiveTeacher(FlowerClassifier(NAMES, "test_vit", image_size=64), "")
    FlowerClassifier(NAMES, "test_efficientnet", train_sizes=[64, 96]).learn_from(teacher)
    with pytest.raises(InputError, match=r"model\.train_sizes: .*test_vit.* 71"):
        FlowerClassifier(NAMES, "test_efficientnet", train_sizes=[64, 71]).learn_from(teacher)
