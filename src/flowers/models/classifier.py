"""The LightningModule: a backbone, with input and targets prepared on the device, and the metrics of each split."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Self, cast

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer

from flowers.errors import InputError
from flowers.interfaces import Batch, ChecksImageSizes, valid_rows
from flowers.models.backbone import (
    BackboneName,
    HeadInit,
    create_backbone,
    describe_weights,
    explain_pretraining,
    find_licence,
    head_names,
    weights_config,
)
from flowers.models.distillation import Distillation, LiveTeacher, Teacher
from flowers.models.features import compute_features, find_linear_head
from flowers.models.freezing import Trained, freeze, set_batch_norm_eval
from flowers.models.image_sizes import check_image_sizes
from flowers.models.losses import LabelLoss, cross_entropy, loss_on_host, masked_mean, smooth_targets
from flowers.models.metrics import SplitMetrics
from flowers.models.mixing import Mixer, Mixing, mix
from flowers.models.optimizers import OptimizerFactory, SchedulerFactory, configure, parameter_groups
from flowers.models.pixels import Normalise, resize, size_of_epoch
from flowers.settings import Count, Fraction, Mode, NonNegative, Positive, PositiveFloat, Seed

log = logging.getLogger(__name__)


class FlowerClassifier(L.LightningModule):
    """Classifies uint8 images `[B, H, W, 3]` into `len(class_names)` classes.

    Args:
        class_names: the class names in label order; saved in the checkpoint.
        backbone: the name of a timm model.
        pretrained: False, True (timm's hub), "wheel" or a path; see `create_backbone`.
        backbone_arguments: further arguments for `timm.create_model`.
        head_init: the initialisation of the head; see `create_backbone`.
        trained: the weights to train: all, the head, or the head and the normalisation; see `freeze`.
        freeze_batch_norm: whether to keep the batch-norm statistics of the pretrained weights.
        layer_decay: the factor from the learning rate of one layer to that of the layer before; see `parameter_groups`.
        head_lr_scale: the factor on the head's learning rate.
        label_smoothing: the probability that is spread over all classes; see `LabelLoss`.
        class_weight_power: the power of the inverse class frequency that weights the loss; see `LabelLoss`.
        logit_adjustment: the factor on the log prior that is added to the logits in the loss; see `LabelLoss`.
        mixup_alpha: the parameter of mixup's beta distribution; 0: no mixup. See `Mixer`.
        cutmix_alpha: the parameter of CutMix's beta distribution; 0: no CutMix. See `Mixer`.
        mixing_epochs: the number of epochs with mixing, after which images are not mixed; None: all.
        train_sizes: the sides in pixels that training images are resized to on the device, one after the other over the
            epochs; None: no resizing.
        teacher: the source of additional targets: the directory of a run or of an ensemble, or a predictions file.
            `train.py` loads it and calls `learn_from`; nothing else needs it.
        teacher_weight: the weight of the teacher's loss; the labels' loss has the rest. See `Distillation`.
        teacher_temperature: the temperature of teacher and student; see `Distillation`.
        seed: the seed of the mixing.
        optimizer: a function from parameter groups to an optimizer; None if nothing is trained.
        scheduler: a function from an optimizer to a schedule per step.
        image_size: the side of the training images, in pixels; see `create_backbone`.
        count_classes: a function that returns the number of training images of each class, in label order.
    """

    metric_modes: ClassVar[Mapping[str, Mode]] = {"val/macro_f1": "max", "val/accuracy": "max", "val/loss": "min"}

    def __init__(
        self,
        class_names: Sequence[str],
        backbone: BackboneName,
        pretrained: bool | str = False,
        backbone_arguments: Mapping[str, Any] | None = None,
        head_init: HeadInit = "zero",
        trained: Trained = "all",
        freeze_batch_norm: bool = False,
        layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0,
        head_lr_scale: PositiveFloat = 1.0,
        label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        class_weight_power: NonNegative = 0.0,
        logit_adjustment: NonNegative = 0.0,
        mixup_alpha: NonNegative = 0.0,
        cutmix_alpha: NonNegative = 0.0,
        mixing_epochs: Count | None = None,
        train_sizes: Annotated[Sequence[Positive], Field(min_length=1)] | None = None,
        teacher: str | None = None,
        teacher_weight: Fraction = 0.5,
        teacher_temperature: PositiveFloat = 2.0,
        seed: Seed = 0,
        optimizer: OptimizerFactory | None = None,
        scheduler: SchedulerFactory | None = None,
        image_size: int | None = None,
        count_classes: Callable[[], Sequence[int]] | None = None,
    ) -> None:
        super().__init__()
        self.class_names = list(class_names)
        if len(self.class_names) < 2:
            found = ", ".join(self.class_names) or "none"
            raise InputError(f"data: expected at least two classes, found {found}. Add images of another class.")
        self.loss = LabelLoss(len(self.class_names), label_smoothing, class_weight_power, logit_adjustment)
        self.train_sizes = None if train_sizes is None else list(train_sizes)
        self.mixer = Mixer(mixup_alpha, cutmix_alpha, mixing_epochs, seed)
        self.teacher = teacher
        self.distillation = Distillation(teacher_weight, teacher_temperature)
        self._logged_step = 0
        self._rate = 0.0
        self._optimizer = optimizer
        self._scheduler = scheduler
        self._count_classes = count_classes
        self.pretrained = pretrained is not False
        self.freeze_batch_norm = freeze_batch_norm
        self.layer_decay = layer_decay
        self.head_lr_scale = head_lr_scale
        self.backbone = create_backbone(
            backbone, len(self.class_names), pretrained, backbone_arguments, image_size, head_init
        )
        named = [self.backbone.get_submodule(name) for name in head_names(self.backbone)]
        # A file of weights may contain a trained head for the same classes.
        self._head_is_new = pretrained in (True, "wheel") or not any(p.any() for m in named for p in m.parameters())
        freeze(self.backbone, trained)
        self.weights = describe_weights(self.backbone, pretrained)
        self.licence = find_licence(self.backbone, pretrained)
        _warn(explain_pretraining(self.backbone, pretrained))
        self.backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.normalise = Normalise(weights_config(self.backbone))
        self.metrics = nn.ModuleDict({f"{split}_metrics": SplitMetrics(len(class_names)) for split in ("train", "val")})
        self.save_hyperparameters({"class_names": self.class_names, "backbone": backbone, "licence": self.licence})
        self.train()  # freezes batch norm: Lightning keeps the modes of modules, and calls this only after validation

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits, float `[B, K]`, of images uint8 `[B, H, W, 3]`."""
        return cast(Tensor, self.backbone(self.normalise(image)))

    def get_network(self) -> nn.Module:
        """Return the backbone, which `trainer.compile` compiles."""
        return self.backbone

    def features(self, image: Tensor) -> Tensor:
        """Return the input of the head, float `[B, F]`, for images uint8 `[B, H, W, 3]`."""
        return compute_features(self.backbone, self.normalise(image))

    def linear_head(self) -> nn.Linear | None:
        """Return the head if it is one new linear layer on pretrained weights, else None."""
        return find_linear_head(self.backbone) if self.pretrained and self._head_is_new else None

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.freeze_batch_norm and self.pretrained:  # random weights have no statistics to keep
            set_batch_norm_eval(self.backbone)
        return self

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, valid = self._training_input(batch), valid_rows(batch)
        joined = self.distillation.join(self.loss.targets(batch["label"]), batch)
        mixing = self._draw_mixing(images, batch_idx)
        if mixing is not None:
            images, joined, valid = mix(images, joined, valid, mixing.to(self.device))
        logits, targets = self.backbone(images), joined[:, : len(self.class_names)]
        losses = self.distillation.combine(
            self.loss(logits, targets), logits, joined, lambda: self.normalise.restore(images)
        )
        # For the metrics, a mixed image has the label of its largest part.
        self._metrics("train").update(losses.detach(), logits.argmax(1), targets.argmax(1), valid)
        return masked_mean(losses, valid)

    def training_images(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return a batch's images as they are trained on, resized and mixed: uint8 `[B, H, W, 3]`, on the host."""
        images = self._resize(batch["image"].cpu().permute(0, 3, 1, 2).float())
        mixing = self._draw_mixing(images, batch_idx)
        if mixing is not None:
            targets, valid = torch.zeros(len(images), 1), torch.ones(len(images), dtype=torch.bool)
            images, _, _ = mix(images, targets, valid, mixing)
        return images.round().to(torch.uint8).permute(0, 2, 3, 1)

    def learn_from(self, teacher: Teacher) -> None:
        """Set the teacher, from which the model learns in addition to the labels.

        Raises:
            InputError: the teacher is live, and does not take images of `train_sizes`.
        """
        if isinstance(teacher, LiveTeacher) and isinstance(teacher.model, ChecksImageSizes):
            teacher.model.check_image_sizes({"model.train_sizes": self.train_sizes or []})
        self.distillation.teacher = teacher

    def complete_batch(self, batch: Batch) -> Batch:
        """Add the teacher's probabilities to a training batch, if they are looked up by id."""
        return self.distillation.complete(batch)

    def on_fit_start(self) -> None:
        teacher = self.distillation.teacher
        if self.teacher is not None and teacher is None:
            raise InputError(
                f"model.teacher={self.teacher}: expected a loaded teacher, found none. Train with train.py, or "
                "call model.learn_from(teacher) first: see flowers.training.teachers."
            )
        if isinstance(teacher, LiveTeacher):
            teacher.to(self.device)

    def _training_input(self, batch: Batch) -> Tensor:
        return self._resize(self.normalise(batch["image"]))

    def _resize(self, images: Tensor) -> Tensor:
        """Resize images float `[B, C, H, W]` to the size of this epoch."""
        if self.train_sizes is None:
            return images
        return resize(images, size_of_epoch(self.train_sizes, self.current_epoch, self._epochs))

    @property
    def _epochs(self) -> int:
        epochs = self.trainer.max_epochs
        if not epochs or epochs < 0:
            raise InputError(
                f"model.train_sizes={self.train_sizes}: expected a limit on the epochs, to divide them among the "
                f"sizes, found trainer.max_epochs={epochs}. Set trainer.max_epochs, or model.train_sizes=null."
            )
        return epochs

    def _draw_mixing(self, images: Tensor, batch_idx: int) -> Mixing | None:
        size, _, height, width = images.shape
        return self.mixer.draw(size, height, width, epoch=self.current_epoch, batch_idx=batch_idx)

    def on_train_start(self) -> None:
        self._logged_step = self.trainer.global_step

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        group = optimizer.param_groups[0]
        self._rate = group["lr"] / group.get("lr_scale", 1.0)  # before the schedule changes it

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        step, interval = self.trainer.global_step, self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if step % interval or step == self._logged_step:  # a batch that only accumulates gradients makes no step
            return
        self._logged_step = step
        # The host waits for the device here: only for logged metrics, and after the step.
        loss = loss_on_host(outputs) * self.trainer.accumulate_grad_batches
        metrics = {"train/loss_step": loss, "train/learning_rate": torch.tensor(self._rate)}
        self.log_dict(metrics, on_step=True, on_epoch=False, batch_size=1)

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Update the metrics with a batch, and return its `logits`, float `[B, K]`."""
        logits = self(batch["image"])
        losses = cross_entropy(logits, smooth_targets(batch["label"], len(self.class_names), 0.0))
        self._metrics("val").update(losses, logits.argmax(1), batch["label"], valid_rows(batch))
        return {"logits": logits}

    def on_train_epoch_start(self) -> None:
        self._metrics("train").reset()

    def on_train_epoch_end(self) -> None:
        self._log_metrics("train")

    def on_validation_epoch_start(self) -> None:
        self._metrics("val").reset()

    def on_validation_epoch_end(self) -> None:
        self._log_metrics("val")

    def configure_optimizers(self) -> OptimizerLRScheduler:
        if self._optimizer is None:
            raise ValueError("FlowerClassifier was created without an optimizer, so it cannot be trained")
        self._set_class_sizes()
        groups = parameter_groups(self.backbone, head_names(self.backbone), self.layer_decay, self.head_lr_scale)
        return configure(self._optimizer, self._scheduler, groups)

    def _set_class_sizes(self) -> None:
        if not self.loss.needs_class_sizes:
            return
        if self._count_classes is None:
            raise InputError(
                "model.class_weight_power, model.logit_adjustment: expected a data module that counts the images of "
                "each class, found one without count_classes(). Add the method: see "
                "flowers.interfaces.CountsClasses. Or set both to 0."
            )
        self.loss.set_class_sizes(self._count_classes())

    def check_image_sizes(self, sizes: Mapping[str, Iterable[int]]) -> None:
        """Raise `InputError` unless the backbone takes images of all these sides in pixels, given by setting."""
        own = {} if self.train_sizes is None else {"model.train_sizes": self.train_sizes}
        check_image_sizes(self.backbone, {**sizes, **own})

    def _metrics(self, split: str) -> SplitMetrics:
        return cast(SplitMetrics, self.metrics[f"{split}_metrics"])

    def _log_metrics(self, split: str) -> None:
        metrics = self._metrics(split).compute()
        self.log_dict({f"{split}/{name}": value for name, value in metrics.items()})


@rank_zero_only
def _warn(warning: str | None) -> None:
    if warning is not None:
        log.warning(warning)
