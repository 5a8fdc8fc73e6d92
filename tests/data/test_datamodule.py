"""The loaders: each id once an epoch for any number of workers, fresh augmentations, fixed shapes, clear errors."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import albumentations as A
import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from flowers.data.batch import NO_LABEL, Batch
from flowers.data.datamodule import FlowersDataModule
from flowers.data.dataset import OnBadRecord
from flowers.errors import BadRecord, InputError


def module(
    root: Path, workers: int, *, batch_size: int = 16, on_bad_record: OnBadRecord = "stop", flips: float = 0.5
) -> FlowersDataModule:
    return FlowersDataModule(
        str(root),
        image_size=192,
        train_size=64,
        eval_size=192,
        batch_size=batch_size,
        train_transform=[A.RandomResizedCrop((64, 64)), A.HorizontalFlip(p=flips), A.RandomBrightnessContrast()],
        eval_transform=[],
        on_bad_record=on_bad_record,
        seed=7,
        num_workers=workers,
    )


def epoch_of(data: FlowersDataModule, epoch: int) -> list[Batch]:
    loader = data.loader("train", training=True)
    loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
    return list(loader)


def pixels(batches: list[Batch]) -> dict[str, str]:
    """Each id's augmented pixels, hashed."""
    return {
        identity: hashlib.sha256(image.numpy().tobytes()).hexdigest()
        for batch in batches
        for identity, image in zip(batch["id"], batch["image"], strict=True)
    }


def test_each_id_once_an_epoch_and_the_same_pixels_for_any_number_of_workers(garden: Path) -> None:
    seen = []
    for workers in (0, 1, 3):
        batches = epoch_of(module(garden, workers), epoch=2)
        ids = [identity for batch in batches for identity in batch["id"]]
        assert len(ids) == len(set(ids)) == 208
        seen.append((ids, pixels(batches)))
    assert seen[0] == seen[1] == seen[2]


@pytest.mark.parametrize("workers", [0, 2])
def test_augmentations_and_order_differ_between_epochs(garden: Path, workers: int) -> None:
    data = module(garden, workers)
    loader = data.loader("train", training=True)  # one loader, as in training: persistent workers see every epoch
    epochs = []
    for epoch in range(3):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        epochs.append(list(loader))
    first, second, third = (pixels(batches) for batches in epochs)
    assert first.keys() == second.keys() == third.keys()
    assert not any(len({first[identity], second[identity], third[identity]}) < 3 for identity in first)
    assert [batch["id"] for batch in epochs[0]] != [batch["id"] for batch in epochs[1]]


def test_batches_have_the_shapes_of_the_plan(garden: Path) -> None:
    batch = epoch_of(module(garden, 0), 0)[0]
    assert (batch["image"].shape, batch["image"].dtype) == ((16, 64, 64, 3), torch.uint8)
    assert (batch["label"].shape, batch["label"].dtype) == ((16,), torch.int64)
    assert (batch["valid"].all(), batch["valid"].dtype) == (True, torch.bool)


def test_evaluation_pads_its_last_batch_and_reads_each_record_once(garden: Path) -> None:
    batches = list(module(garden, 1, batch_size=24).loader("test"))
    assert {tuple(batch["image"].shape) for batch in batches} == {(24, 192, 192, 3)}
    batches = list(module(garden, 1, batch_size=25).loader("test"))
    ids = [identity for batch in batches for identity in batch["id"] if identity]
    assert len(ids) == len(set(ids)) == sum(int(batch["valid"].sum()) for batch in batches) == 72
    assert batches[-1]["valid"].tolist() == [row < 72 % 25 for row in range(25)]
    assert (batches[0]["label"] == NO_LABEL).all()


def test_training_drops_its_ragged_end(garden: Path) -> None:
    batches = epoch_of(module(garden, 0, batch_size=50), 0)
    assert [len(batch["id"]) for batch in batches] == [50] * 4


@pytest.fixture
def damaged(garden: Path, tmp_path: Path) -> Path:
    """The garden, with a flipped byte in one payload."""
    root = tmp_path / "damaged"
    shutil.copytree(garden / "tfrecords-jpeg-192x192", root / "tfrecords-jpeg-192x192")
    shard = sorted(root.glob("tfrecords-jpeg-192x192/train/*.tfrec"))[3]
    data = bytearray(shard.read_bytes())
    data[1000] ^= 0xFF
    shard.write_bytes(data)
    return root


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_record_says_the_same_from_a_worker(damaged: Path, workers: int) -> None:
    with pytest.raises(BadRecord) as raised:
        epoch_of(module(damaged, workers), 0)
    message = str(raised.value)
    assert message.startswith(str(damaged))
    assert "record 0: the payload's CRC is wrong" in message
    assert "Traceback" not in message


def test_skipping_marks_the_row_and_keeps_the_shape(damaged: Path) -> None:
    data = module(damaged, 1, on_bad_record="skip")
    batches = [data.on_before_batch_transfer(batch, 0) for batch in epoch_of(data, 0)]
    assert sum(int(batch["valid"].sum()) for batch in batches) == 207
    assert {batch["image"].shape[0] for batch in batches} == {16}
    assert len(data.skipped) == 1
    assert "the payload's CRC is wrong" in data.skipped.pop()


def test_a_transform_that_ends_in_floats_is_refused(garden: Path) -> None:
    data = FlowersDataModule(str(garden), 192, 192, 192, 16, [A.Normalize()], [], num_workers=0)
    with pytest.raises(InputError, match="expected the transform to give uint8 pixels, found float32"):
        epoch_of(data, 0)


def test_a_training_loader_is_never_empty(garden: Path) -> None:
    batches = epoch_of(module(garden, 0, batch_size=300), 0)
    assert [int(batch["valid"].sum()) for batch in batches] == [208]


def test_a_transform_that_ends_in_another_size_is_refused(garden: Path) -> None:
    data = FlowersDataModule(str(garden), 192, 96, 192, 16, [A.Resize(64, 64)], [], num_workers=0)
    with pytest.raises(InputError, match="expected the transform to give 96x96 pixels, found 64x64"):
        epoch_of(data, 0)


@pytest.mark.parametrize("workers", [1, 2])
def test_kept_batches_are_not_written_over(garden: Path, workers: int) -> None:
    data = module(garden, workers, batch_size=8)  # 26 batches, many more than the ring has slots
    fresh = epoch_of(module(garden, 0, batch_size=8), 0)
    kept = epoch_of(data, 0)
    assert all(batch["image"].equal(other["image"]) for batch, other in zip(kept, fresh, strict=True))


class Seen(L.LightningModule):
    """Trains nothing; keeps which pixels came as which image, epoch by epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.epochs: dict[int, list[dict[str, str]]] = {}

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        self.epochs.setdefault(self.current_epoch, []).append(pixels([batch]))
        return self.weight.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_resumed_after_an_epoch_sees_what_it_would_have_seen(garden: Path, tmp_path: Path, workers: int) -> None:
    seen = []
    for resumed in (False, True):
        model = Seen()
        trainer = L.Trainer(
            accelerator="cpu",
            max_epochs=3,
            limit_val_batches=0,
            callbacks=[ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1, monitor=None)],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        trainer.fit(model, datamodule=module(garden, workers), ckpt_path=tmp_path / "epoch=0.ckpt" if resumed else None)
        seen.append(model.epochs)
    assert list(seen[0]) == [0, 1, 2]
    assert seen[1] == {epoch: seen[0][epoch] for epoch in (1, 2)}
