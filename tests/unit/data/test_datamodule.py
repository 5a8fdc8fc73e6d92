"""The loaders read each id once per epoch, augment it anew, keep batch shapes fixed, and report bad records."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import albumentations as A
import pytest
import torch
from torch.utils.data import DataLoader, SequentialSampler

from flowers.data.datamodule import FlowersDataModule
from flowers.data.dataset import CheckCRC, OnBadRecord
from flowers.data.sampler import Balance
from flowers.data.workers import default_workers
from flowers.errors import BadRecord, InputError
from flowers.interfaces import NO_LABEL, Batch
from tests.helpers.data_modules import hash_pixels, ids_of, module, plain_module, write_noise


def read_epoch(data: FlowersDataModule, epoch: int) -> list[Batch]:
    loader = data.loader("train", training=True)
    loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
    return list(loader)


def read_all(loader: DataLoader[Batch]) -> None:
    """Read a loader to its end or first error, and shut its workers down: the garbage collector takes 5 seconds."""
    try:
        for _ in loader:
            pass
    finally:
        if loader.num_workers:
            loader._iterator._shutdown_workers()  # type: ignore[union-attr]


def test_an_epoch_has_each_id_once_and_the_same_pixels_for_any_number_of_workers(garden: Path) -> None:
    seen = []
    for workers in (0, 1, 3):
        batches = read_epoch(module(garden, workers), epoch=2)
        ids = [identity for batch in batches for identity in batch["id"]]
        assert len(ids) == len(set(ids)) == 208
        seen.append((ids, hash_pixels(batches)))
    assert seen[0] == seen[1] == seen[2]


@pytest.mark.parametrize("workers", [0, 2])
def test_augmentations_and_order_differ_between_epochs(garden: Path, workers: int) -> None:
    data = module(garden, workers)
    loader = data.loader("train", training=True)  # one loader as in training, as persistent workers read every epoch
    epochs = []
    for epoch in range(3):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        epochs.append(list(loader))
    first, second, third = (hash_pixels(batches) for batches in epochs)
    assert first.keys() == second.keys() == third.keys()
    assert not any(len({first[identity], second[identity], third[identity]}) < 3 for identity in first)
    assert [batch["id"] for batch in epochs[0]] != [batch["id"] for batch in epochs[1]]


def test_training_batches_have_fixed_shapes_and_dtypes(garden: Path) -> None:
    batch = read_epoch(module(garden, 0), 0)[0]
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
    batches = read_epoch(module(garden, 0, batch_size=50), 0)
    assert [len(batch["id"]) for batch in batches] == [50] * 4


@pytest.fixture
def damaged(garden: Path, tmp_path: Path) -> Path:
    """Return a copy of the garden with a flipped byte in one payload."""
    root = tmp_path / "damaged"
    shutil.copytree(garden / "tfrecords-jpeg-192x192", root / "tfrecords-jpeg-192x192")
    shard = sorted(root.glob("tfrecords-jpeg-192x192/train/*.tfrec"))[3]
    data = bytearray(shard.read_bytes())
    data[1000] ^= 0xFF
    shard.write_bytes(data)
    return root


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_record_raises_the_same_error_in_a_worker(damaged: Path, workers: int) -> None:
    with pytest.raises(BadRecord) as raised:
        read_all(module(damaged, workers).loader("train", training=True))
    message = str(raised.value)
    assert message.startswith(str(damaged))
    assert "record 0: " in message
    assert "CRC" in message
    assert "Traceback" not in message


def test_skipping_marks_the_row_and_keeps_the_shape(damaged: Path) -> None:
    data = module(damaged, 1, on_bad_record="skip")
    batches = [data.on_before_batch_transfer(batch, 0) for batch in read_epoch(data, 0)]
    assert sum(int(batch["valid"].sum()) for batch in batches) == 207
    assert {batch["image"].shape[0] for batch in batches} == {16}
    assert len(data.skipped) == 1
    assert "CRC" in data.skipped.pop()


def test_a_transform_that_ends_in_floats_is_refused(garden: Path) -> None:
    data = FlowersDataModule(str(garden), 192, 192, 192, 16, [A.Normalize()], [], num_workers=0)
    with pytest.raises(InputError, match=r"uint8.*float32"):
        read_epoch(data, 0)


def test_a_training_loader_is_never_empty(garden: Path) -> None:
    batches = read_epoch(module(garden, 0, batch_size=300), 0)
    assert [int(batch["valid"].sum()) for batch in batches] == [208]


def test_a_transform_that_ends_in_another_size_is_refused(garden: Path) -> None:
    data = FlowersDataModule(str(garden), 192, 96, 192, 16, [A.Resize(64, 64)], [], num_workers=0)
    with pytest.raises(InputError, match=r"96x96.*64x64"):
        read_epoch(data, 0)


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_in_use_are_not_overwritten(garden: Path, workers: int) -> None:
    data = module(garden, workers, batch_size=8)  # 26 batches, many more than the pool has slots
    fresh = read_epoch(module(garden, 0, batch_size=8), 0)
    held = read_epoch(data, 0)
    assert all(batch["image"].equal(other["image"]) for batch, other in zip(held, fresh, strict=True))


def test_folds_divide_train_and_val_equally_at_all_resolutions(garden: Path) -> None:
    everything = {*ids_of(plain_module(garden).loader("train")), *ids_of(plain_module(garden).loader("val"))}
    held_out: list[str] = []
    for fold in range(4):
        data = plain_module(garden, folds=4, fold=fold)
        train, val = ids_of(data.loader("train")), ids_of(data.loader("val"))
        assert not set(train) & set(val)
        assert {*train, *val} == everything
        assert set(ids_of(plain_module(garden, 224, folds=4, fold=fold).loader("val"))) == set(val)
        assert set(ids_of(data.loader("train", training=True))) <= set(train)
        held_out += val
    assert sorted(held_out) == sorted(everything)
    assert len(ids_of(plain_module(garden, folds=4, fold=0).loader("test"))) == 72


@pytest.fixture
def unequal(tmp_path: Path) -> Path:
    """Return a data set with 90 images of one class and 10 of another."""
    write_noise(tmp_path / "unequal" / "tfrecords-jpeg-32x32" / "train", [1] * 10 + [0] * 90)
    return tmp_path / "unequal"


def test_unreadable_records_are_skipped_when_balancing_and_refused_for_folds(damaged: Path) -> None:
    def data(**settings: Any) -> FlowersDataModule:
        return FlowersDataModule(
            str(damaged), 192, 192, 192, 16, [], [], on_bad_record="skip", num_workers=0, **settings
        )

    balanced = data(balance="sqrt")
    batches = read_epoch(balanced, 0)
    assert sum(int(batch["valid"].sum()) for batch in batches) == 207 // 16 * 16
    assert len(balanced.skipped) == 1
    sized = damaged / "tfrecords-jpeg-192x192"
    shutil.copytree(sized / "train", sized / "val", dirs_exist_ok=True)
    with pytest.raises(InputError, match="2 problems"):
        data(folds=4, fold=0).loader("train")


def test_class_names_in_another_encoding_are_refused(garden: Path, tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_bytes("Frauenschühle\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"classes\.txt: .*UTF-8"):
        _ = plain_module(tmp_path).class_names


@pytest.mark.parametrize(("balance", "rare"), [(None, 10), ("sqrt", 25), ("full", 50)])
def test_balanced_epochs_read_rare_classes_more_often(unequal: Path, balance: Balance | None, rare: int) -> None:
    transform = [A.RandomBrightnessContrast(p=1)]
    data = FlowersDataModule(str(unequal), 32, 32, 32, 10, transform, [], balance=balance, num_workers=0)
    batches = read_epoch(data, 0)
    drawn = sum(int(batch["label"].sum()) for batch in batches)
    assert abs(drawn - rare) <= 1
    # A record that is read twice is augmented differently each time.
    images = [image.numpy().tobytes() for batch in batches for image in batch["image"]]
    assert len(images) == 100
    assert len(set(images)) > 95


@pytest.mark.parametrize("folds", [{}, {"folds": 4, "fold": 0}])
def test_count_classes_matches_the_labels_of_an_epoch(garden: Path, folds: dict[str, int]) -> None:
    data = FlowersDataModule(str(garden), 192, 192, 192, 1, [], [], num_workers=0, **folds)  # type: ignore[arg-type]
    labels = torch.cat([batch["label"] for batch in read_epoch(data, 0)])
    assert labels.bincount(minlength=len(data.class_names)).tolist() == data.count_classes()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"folds": 5}, "data.fold=None, data.folds=5: "),
        ({"fold": 1}, "data.fold=1, data.folds=None: "),
        ({"folds": 5, "fold": 5}, "data.fold=5, data.folds=5: "),
        ({"folds": 5, "fold": 0, "train_on": "train+val"}, "data.train_on=train.val: .*data.folds=5"),
    ],
)
def test_conflicting_settings_are_refused(garden: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        plain_module(garden, **settings)


@pytest.mark.parametrize(("check", "refused"), [("always", [0, 1]), ("first_epoch", [0]), ("never", [])])
def test_check_crc_decides_in_which_epochs_checksums_are_compared(
    damaged: Path, check: CheckCRC, refused: list[int]
) -> None:
    # Only CRC problems count: without the check, the damaged image may decode or fail as a JPEG.
    data = FlowersDataModule(
        str(damaged), 192, 192, 192, 16, [], [], on_bad_record="skip", check_crc=check, num_workers=0
    )
    for epoch in (0, 1):
        problems = [problem for batch in read_epoch(data, epoch) for problem in batch["skipped"]]
        assert any("CRC" in problem for problem in problems) == (epoch in refused)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_sampler_of_ints_selects_positions_in_the_split(garden: Path, workers: int) -> None:
    ours = plain_module(garden, folds=3, fold=1).loader("val")
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


def test_workers_send_the_same_batches_without_shared_memory(
    garden: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = read_epoch(module(garden, 1), 0)
    monkeypatch.setattr("flowers.system.memfd.available_memory", lambda: 0)
    found = read_epoch(module(garden, 1), 0)
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
def test_a_deleted_shard_is_reported_and_never_skipped(
    workers: int, on_bad_record: OnBadRecord, garden: Path, tmp_path: Path
) -> None:
    shutil.copytree(garden / "tfrecords-jpeg-192x192" / "train", tmp_path / "tfrecords-jpeg-192x192" / "train")
    loader = module(tmp_path, workers, on_bad_record=on_bad_record).loader("train")
    shard = sorted(tmp_path.rglob("*.tfrec"))[3]
    shard.unlink()
    with pytest.raises(InputError, match=rf"^{shard}: ") as raised:
        read_all(loader)
    assert not isinstance(raised.value, BadRecord)


def test_sample_takes_records_from_all_shards_by_seed(garden: Path) -> None:
    train = plain_module(garden)
    sampled = ids_of(train.sample("train", 100))
    everything = ids_of(train.loader("train"))
    assert len(set(sampled)) == 100
    assert sampled == [identity for identity in everything if identity in set(sampled)]
    places = [everything.index(identity) for identity in sampled]
    assert all(any(start <= place < start + 26 for place in places) for start in range(0, 208, 26))
    assert (
        sampled
        == ids_of(plain_module(garden).sample("train", 100))
        != ids_of(plain_module(garden, seed=1).sample("train", 100))
    )
    assert ids_of(train.sample("train", 1000)) == everything
