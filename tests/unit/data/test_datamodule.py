"""The loaders: each id once an epoch for any number of workers, fresh augmentations, fixed shapes, clear errors."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import albumentations as A
import lightning as L
import numpy as np
import pytest
import simplejpeg
import torch
from lightning.pytorch.callbacks import Checkpoint
from torch.utils.data import DataLoader, SequentialSampler

from flowers.data.datamodule import FlowersDataModule
from flowers.data.dataset import CheckCRC, OnBadRecord
from flowers.data.sampler import Balance
from flowers.data.tfrecord.example import Record, encode_example
from flowers.data.tfrecord.framing import write_shard
from flowers.data.workers import default_workers
from flowers.errors import BadRecord, InputError
from flowers.interfaces import NO_LABEL, Batch


def module(
    root: Path, workers: int, *, size: int = 192, batch_size: int = 16, on_bad_record: OnBadRecord = "stop"
) -> FlowersDataModule:
    crop = size // 3
    return FlowersDataModule(
        str(root),
        image_size=size,
        train_size=crop,
        eval_size=size,
        batch_size=batch_size,
        train_transform=[A.RandomResizedCrop((crop, crop)), A.HorizontalFlip(), A.RandomBrightnessContrast()],
        eval_transform=[],
        on_bad_record=on_bad_record,
        seed=7,
        num_workers=workers,
    )


def epoch_of(data: FlowersDataModule, epoch: int) -> list[Batch]:
    loader = data.loader("train", training=True)
    loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
    return list(loader)


def read_all(loader: DataLoader[Batch]) -> None:
    """Read a loader to its end or first error, and end its workers: for the garbage collector they take 5 seconds."""
    try:
        for _ in loader:
            pass
    finally:
        if loader.num_workers:
            loader._iterator._shutdown_workers()  # type: ignore[union-attr]


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


def test_training_drops_its_incomplete_last_batch(garden: Path) -> None:
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
        read_all(module(damaged, workers).loader("train", training=True))
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
    data = module(garden, workers, batch_size=8)  # 26 batches, many more than the pool has slots
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


class EarlyLook(Seen):
    """Asks for the number of steps with its optimiser: Lightning then makes the loader before it has resumed."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        assert self.trainer.estimated_stepping_batches > 0
        return super().configure_optimizers()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        pass


class SaveAll(Checkpoint):
    """Makes a checkpoint after each step within an epoch, each epoch and each validation."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def save(self, trainer: L.Trainer, kind: str) -> None:
        trainer.save_checkpoint(self.directory / f"{kind}-{trainer.global_step}.ckpt")

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx + 1 < trainer.num_training_batches:
            self.save(trainer, "step")

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.save(trainer, "epoch")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.save(trainer, "val")


def trained(
    model: Seen, data: FlowersDataModule, directory: Path, resumed: str | None = None, **settings: Any
) -> dict[int, list[dict[str, str]]]:
    """What a training sees, epoch by epoch."""
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=3,
        callbacks=[SaveAll(directory)],
        logger=False,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **settings,
    )
    trainer.fit(model, datamodule=data, ckpt_path=directory / f"{resumed}.ckpt" if resumed else None)
    return model.epochs


def after(epochs: dict[int, list[dict[str, str]]], steps: int) -> dict[int, list[dict[str, str]]]:
    """What is seen after so many steps of 13 an epoch."""
    left = {epoch: seen[max(0, steps - 13 * epoch) :] for epoch, seen in epochs.items()}
    return {epoch: seen for epoch, seen in left.items() if seen}


def write_noise(directory: Path, labels: Sequence[int]) -> None:
    """Write a shard of 32 px images of noise, one for each label."""
    directory.mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 256, (len(labels), 32, 32, 3), np.uint8)
    records = [
        Record(f"{number:09x}", simplejpeg.encode_jpeg(image), label)
        for number, (image, label) in enumerate(zip(noise, labels, strict=True))
    ]
    write_shard(directory / f"00-32x32-{len(labels)}.tfrec", map(encode_example, records))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """208 images to train on, as many as the garden's, and 32 to validate. Not to be changed."""
    root = tmp_path_factory.mktemp("small")
    for split, count in (("train", 208), ("val", 32)):
        write_noise(root / "tfrecords-jpeg-32x32" / split, [0] * count)
    return root


def small_module(root: Path, workers: int, batch_size: int = 16) -> FlowersDataModule:
    return module(root, workers, size=32, batch_size=batch_size)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_resumed_anywhere_sees_what_it_would_have_seen(small: Path, tmp_path: Path, workers: int) -> None:
    settings = {"val_check_interval": 5}
    whole = trained(EarlyLook(), small_module(small, workers), tmp_path, **settings)
    assert [len(seen) for seen in whole.values()] == [13, 13, 13]
    for name in ("step-1", "step-12", "val-5", "val-18", "epoch-13", "epoch-26"):
        found = trained(EarlyLook(), small_module(small, 2 - workers), tmp_path, name, **settings)
        assert found == after(whole, int(name.rpartition("-")[2])), name
    # Resumed, stopped and resumed once more: the checkpoints are now those of resumed runs.
    for name in ("step-20", "val-23", "epoch-26", "step-30"):
        found = trained(EarlyLook(), small_module(small, workers), tmp_path, name, **settings)
        assert found == after(whole, int(name.rpartition("-")[2])), name


def test_so_does_one_that_is_resumed_from_a_validation_at_an_epochs_end(small: Path, tmp_path: Path) -> None:
    whole = trained(EarlyLook(), small_module(small, 0), tmp_path)
    for name in ("val-13", "step-20", "val-26", "step-30"):  # each of them made by the run before
        assert trained(EarlyLook(), small_module(small, 2), tmp_path, name) == after(
            whole, int(name.rpartition("-")[2])
        ), name


def test_within_an_epoch_a_run_is_not_resumed_in_another_order(small: Path, tmp_path: Path) -> None:
    trained(Seen(), small_module(small, 0), tmp_path, limit_val_batches=0)
    with pytest.raises(InputError, match="expected 16 as when the checkpoint was made, 4 batches into epoch 0"):
        trained(Seen(), small_module(small, 0, batch_size=8), tmp_path, "step-4", limit_val_batches=0)
    seen = trained(Seen(), small_module(small, 0, batch_size=8), tmp_path, "epoch-13", limit_val_batches=0)
    assert [len(batches) for batches in seen.values()] == [26, 26]


def ids_of(batches: Iterable[Batch]) -> list[str]:
    return [identity for batch in batches for identity in batch["id"] if identity]


def part(root: Path, size: int = 192, **settings: Any) -> FlowersDataModule:
    return FlowersDataModule(str(root), size, size, size, 16, [], [], num_workers=0, **settings)


def test_folds_cut_train_and_val_alike_at_all_resolutions(garden: Path) -> None:
    everything = {*ids_of(part(garden).loader("train")), *ids_of(part(garden).loader("val"))}
    held_out: list[str] = []
    for fold in range(4):
        data = part(garden, folds=4, fold=fold)
        train, val = ids_of(data.loader("train")), ids_of(data.loader("val"))
        assert not set(train) & set(val)
        assert {*train, *val} == everything
        assert set(ids_of(part(garden, 224, folds=4, fold=fold).loader("val"))) == set(val)
        assert set(ids_of(data.loader("train", training=True))) <= set(train)
        held_out += val
    assert sorted(held_out) == sorted(everything)
    assert len(ids_of(part(garden, folds=4, fold=0).loader("test"))) == 72


def test_a_final_fit_trains_on_val_and_does_not_validate(garden: Path, tmp_path: Path) -> None:
    data = part(garden, train_on="train+val")
    assert len(ids_of(data.loader("train"))) == 208 + 104
    seen = trained(EarlyLook(), data, tmp_path)
    assert len({identity for batches in seen.values() for batch in batches for identity in batch}) == 312


@pytest.fixture
def unequal(tmp_path: Path) -> Path:
    """90 images of one class and 10 of another."""
    write_noise(tmp_path / "unequal" / "tfrecords-jpeg-32x32" / "train", [1] * 10 + [0] * 90)
    return tmp_path / "unequal"


def test_what_cannot_be_read_is_left_out_of_balance_and_refused_for_folds(damaged: Path) -> None:
    def data(**settings: Any) -> FlowersDataModule:
        return FlowersDataModule(
            str(damaged), 192, 192, 192, 16, [], [], on_bad_record="skip", num_workers=0, **settings
        )

    balanced = data(balance="sqrt")
    batches = epoch_of(balanced, 0)
    assert sum(int(batch["valid"].sum()) for batch in batches) == 207 // 16 * 16
    assert len(balanced.skipped) == 1
    sized = damaged / "tfrecords-jpeg-192x192"
    shutil.copytree(sized / "train", sized / "val", dirs_exist_ok=True)
    with pytest.raises(InputError, match="expected every record to be readable, found 2 problems"):
        data(folds=4, fold=0).loader("train")


def test_class_names_that_are_not_utf_8(garden: Path, tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_bytes("Frauenschühle\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"classes\.txt: expected a text in UTF-8"):
        _ = part(tmp_path).class_names


@pytest.mark.parametrize(("balance", "rare"), [(None, 10), ("sqrt", 25), ("full", 50)])
def test_balanced_epochs_draw_rare_classes_more_often(unequal: Path, balance: Balance | None, rare: int) -> None:
    transform = [A.RandomBrightnessContrast(p=1)]
    data = FlowersDataModule(str(unequal), 32, 32, 32, 10, transform, [], balance=balance, num_workers=0)
    batches = epoch_of(data, 0)
    drawn = sum(int(batch["label"].sum()) for batch in batches)
    assert abs(drawn - rare) <= 1
    # What is drawn twice is augmented twice.
    images = [image.numpy().tobytes() for batch in batches for image in batch["image"]]
    assert len(images) == 100
    assert len(set(images)) > 95


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"folds": 5}, "data.fold=None, data.folds=5: expected both or neither"),
        ({"fold": 1}, "data.fold=1, data.folds=None: expected both or neither"),
        (
            {"folds": 5, "fold": 5},
            "data.fold=5, data.folds=5: expected both or neither, and a fold from 0",
        ),
        ({"folds": 5, "fold": 0, "train_on": "train+val"}, "data.train_on=train.val: expected train with data.folds=5"),
    ],
)
def test_settings_that_do_not_go_together(garden: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        part(garden, **settings)


@pytest.mark.parametrize(("check", "refused"), [("always", [0, 1]), ("first_epoch", [0]), ("never", [])])
def test_when_checksums_are_compared(damaged: Path, check: CheckCRC, refused: list[int]) -> None:
    # What the flipped byte does to the image is another matter: without its CRC it may pass, or be no JPEG.
    data = FlowersDataModule(
        str(damaged), 192, 192, 192, 16, [], [], on_bad_record="skip", check_crc=check, num_workers=0
    )
    for epoch in (0, 1):
        problems = [problem for batch in epoch_of(data, epoch) for problem in batch["skipped"]]
        assert any("CRC" in problem for problem in problems) == (epoch in refused)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_sampler_of_ints_draws_positions_in_the_split(garden: Path, workers: int) -> None:
    ours = part(garden, folds=3, fold=1).loader("val")
    theirs = DataLoader(
        ours.dataset,
        batch_size=16,
        sampler=SequentialSampler(ours.dataset),
        num_workers=workers,
        collate_fn=lambda b: b,
    )
    assert len(theirs) == len(ours)
    for one, other in zip(ours, theirs, strict=True):
        assert one["id"] == other["id"]
        assert one["image"].equal(other["image"])
        assert one["valid"].equal(other["valid"])


def test_without_memory_for_their_batches_workers_send_the_same_ones(
    garden: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = epoch_of(module(garden, 1), 0)
    monkeypatch.setattr("flowers.system.memfd.available_memory", lambda: 0)
    found = epoch_of(module(garden, 1), 0)
    assert [batch["id"] for batch in found] == [batch["id"] for batch in expected]
    assert all(one["image"].equal(other["image"]) for one, other in zip(found, expected, strict=True))
    assert "data.batch_size" in caplog.text


@pytest.mark.parametrize(("hosts", "processes"), [(64, 64), (1, 8), (2, 8)])
def test_workers_share_the_cores_of_their_own_machine(
    hosts: int, processes: int, garden: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowers.data.workers.available_cores", lambda: 112)
    data = module(garden, 0)
    data.trainer = SimpleNamespace(world_size=processes, num_nodes=hosts)  # type: ignore[assignment]
    assert data._processes == processes // hosts
    assert default_workers(data._processes) == 8


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("on_bad_record", ["stop", "skip"])
def test_a_shard_that_is_gone_is_named_and_never_skipped(
    workers: int, on_bad_record: OnBadRecord, garden: Path, tmp_path: Path
) -> None:
    shutil.copytree(garden / "tfrecords-jpeg-192x192" / "train", tmp_path / "tfrecords-jpeg-192x192" / "train")
    loader = module(tmp_path, workers, on_bad_record=on_bad_record).loader("train")
    shard = sorted(tmp_path.rglob("*.tfrec"))[3]
    shard.unlink()
    with pytest.raises(InputError, match=rf"^{shard}: ") as raised:
        read_all(loader)
    assert not isinstance(raised.value, BadRecord)
