"""Several data sets are trained on together, and messages name the data set that a record came from."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fsspec
import pytest

from flowers.data.datamodule import FlowersDataModule
from flowers.errors import BadRecord, InputError
from tests.helpers.data_modules import hash_pixels, ids_of, plain_module, write_noise

CLASSES = ["rose", "lily", "iris"]


def write_set(root: Path, prefix: str, counts: Sequence[int], classes: Sequence[str] | None = CLASSES) -> Path:
    """Write a data set of 32 px with these numbers of train, val and test images."""
    for split, count in zip(("train", "val", "test"), counts, strict=False):
        labels = [number % len(CLASSES) for number in range(count)]
        write_noise(root / "tfrecords-jpeg-32x32" / split, labels, f"{prefix}-{split}-")
    if classes is not None:
        (root / "classes.txt").write_text("\n".join(classes) + "\n")
    return root


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("sets") / "first", "a", (40, 12, 6))


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("sets") / "second", "b", (24, 9))


def mixed(*roots: Path, **settings: Any) -> FlowersDataModule:
    return plain_module(None, 32, roots=[str(root) for root in roots], **settings)


def epoch_ids(data: FlowersDataModule, epoch: int) -> list[str]:
    loader = data.loader("train", training=True)
    loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
    return ids_of(loader)


def test_each_data_set_is_read_as_often_as_its_weight(first: Path, second: Path) -> None:
    data = mixed(first, second, weights=[1, 0.5])  # 40 + 12 images, of which three batches of 16 have 48
    seen = Counter(identity for epoch in range(13) for identity in epoch_ids(data, epoch))
    of_first = [times for identity, times in seen.items() if identity.startswith("a-train-")]
    of_second = [times for identity, times in seen.items() if identity.startswith("b-train-")]
    assert len(of_first) == 40
    assert len(of_second) == 24
    assert (sum(of_first), sum(of_second)) == (13 * 37, 13 * 11)  # in the proportion of 40 to 12
    for times in (of_first, of_second):
        assert max(times) - min(times) <= 1
    assert data.count_batches(1) == 3
    assert data.count_images() == {"train": 64, "val": 12}


def test_two_passes_read_each_record_twice_with_different_augmentations(first: Path, second: Path) -> None:
    data = mixed(first, second, weights=[1, 2])  # 40 + 48 images: five batches
    indices = [index for index in data.loader("train", training=True).sampler if index.number >= 40]  # type: ignore[attr-defined]
    assert {index.repeat for index in indices} == {0, 1}
    assert len(set(indices)) == len(indices)


def test_workers_and_processes_do_not_change_the_order(first: Path, second: Path) -> None:
    alone = mixed(first, second, num_workers=0).loader("train", training=True)
    several = mixed(first, second, num_workers=2).loader("train", training=True)
    assert [batch["id"] for batch in alone] == [batch["id"] for batch in several]


def test_validation_and_test_are_those_of_the_first_data_set(first: Path, second: Path) -> None:
    data = mixed(first, second)
    for split in ("val", "test"):
        assert ids_of(data.loader(split)) == ids_of(plain_module(first, 32).loader(split))
    assert len(data.training_ids()) == 64


def test_the_images_are_those_of_each_data_set(first: Path, second: Path) -> None:
    together = hash_pixels([*mixed(first, second).loader("train")])
    for root in (first, second):
        alone = hash_pixels([*plain_module(root, 32).loader("train")])
        assert all(together[identity] == pixels for identity, pixels in alone.items() if identity)


def test_local_and_remote_data_sets_are_mixed(first: Path, second: Path, tmp_path: Path) -> None:
    fs, url = fsspec.filesystem("memory"), "memory://mixed/second"
    for path in (path for path in second.rglob("*") if path.suffix in (".tfrec", ".txt")):
        fs.pipe_file(f"{url}/{path.relative_to(second)}", path.read_bytes())
    found = plain_module(None, 32, roots=[str(first), url], cache_dir=str(tmp_path)).loader("train", training=True)
    expected = mixed(first, second).loader("train", training=True)
    assert [hash_pixels([batch]) for batch in found] == [hash_pixels([batch]) for batch in expected]


def test_folds_divide_the_first_data_set(first: Path, second: Path) -> None:
    held_out: list[str] = []
    for fold in range(4):
        data = mixed(first, second, folds=4, fold=fold)
        train, val = ids_of(data.loader("train")), ids_of(data.loader("val"))
        assert sorted(identity for identity in train if identity.startswith("b")) == sorted(
            ids_of(plain_module(second, 32).loader("train"))
        )
        assert val == ids_of(plain_module(first, 32, folds=4, fold=fold).loader("val"))
        assert set(train).isdisjoint(val)
        assert len(train) == 52 - len(val) + 24
        held_out += val
    assert len(set(held_out)) == 52


def test_a_final_fit_trains_on_both_splits_of_every_data_set(first: Path, second: Path) -> None:
    assert len(mixed(first, second, train_on="train+val").records("train")) == 40 + 12 + 24 + 9


def test_classes_count_as_often_as_they_are_read(first: Path, second: Path) -> None:
    assert mixed(first, second, weights=[1, 0.5]).count_classes() == [14 + 4, 13 + 4, 13 + 4]


def test_a_reader_of_several_data_sets_can_be_sent_to_a_worker(first: Path, second: Path) -> None:
    reader = mixed(first, second).dataset("train").reader
    sent = pickle.loads(pickle.dumps(reader))
    assert (
        list(sent)
        == list(reader)
        == [*plain_module(first, 32).dataset("train").reader, *plain_module(second, 32).dataset("train").reader]
    )
    with pytest.raises(IndexError):
        reader.read(64)


def test_the_package_reader_gives_the_same_records(first: Path, second: Path) -> None:
    package = mixed(first, second, reader="tfrecord").dataset("train").reader
    assert list(package) == list(mixed(first, second).dataset("train").reader)


def damage(root: Path) -> Path:
    [shard] = (root / "tfrecords-jpeg-32x32" / "train").glob("*.tfrec")
    data = bytearray(shard.read_bytes())
    data[500] ^= 1
    shard.write_bytes(data)
    return shard


def test_a_bad_record_is_reported_with_its_data_set(first: Path, tmp_path: Path) -> None:
    shard = damage(write_set(tmp_path / "damaged", "c", (20, 3)))
    with pytest.raises(BadRecord, match=rf"^{shard}: record 0: .*CRC"):
        mixed(first, tmp_path / "damaged").setup("fit")
    data = mixed(first, tmp_path / "damaged", on_bad_record="skip")
    batches = [data.on_before_batch_transfer(batch, 0) for batch in data.loader("train")]
    assert sum(int(batch["valid"].sum()) for batch in batches) == 59
    [problem] = data.skipped
    assert problem.startswith(f"{shard}: record 0: ")


@pytest.mark.parametrize(
    ("classes", "found"),
    [
        (["rose", "lily", "tulip"], r"label 2 is 'tulip', not 'iris'"),
        (["lily", "rose", "iris"], r"label 0 is 'lily', not 'rose'"),
        (["rose", "lily"], r"2 classes"),
        (None, r"there is none.*104 classes"),
    ],
)
def test_other_classes_are_refused(first: Path, tmp_path: Path, classes: list[str] | None, found: str) -> None:
    other = write_set(tmp_path / "other", "c", (3, 3), classes)
    with pytest.raises(InputError, match=found) as raised:
        mixed(first, other).setup("fit")
    assert str(raised.value).startswith(f"{other}/classes.txt")
    assert f"{first}/classes.txt" in str(raised.value)


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_id_of_two_data_sets_is_refused(first: Path, tmp_path: Path, split: str) -> None:
    other = tmp_path / "other"
    write_noise(other / "tfrecords-jpeg-32x32" / "train", [0], f"a-{split}-")
    (other / "classes.txt").write_text("\n".join(CLASSES))
    with pytest.raises(
        InputError, match=rf"^{other}/.*: record 0: .*a-{split}-0+, which {first}/.*/{split}/.*: record 0"
    ):
        mixed(first, other).setup("fit")


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"weights": [1]}, r"^data\.weights=\[1\]"),
        ({"balance": "sqrt"}, r"^data\.balance=sqrt"),
        ({"prepare": print}, r"^data\.prepare="),
    ],
)
def test_settings_that_contradict_several_data_sets_are_refused(
    first: Path, second: Path, settings: dict[str, Any], key: str
) -> None:
    with pytest.raises(InputError, match=key):
        mixed(first, second, **settings)


def test_root_and_roots_exclude_each_other(first: Path) -> None:
    with pytest.raises(InputError, match=r"^data\.roots: .*data\.root=null"):
        plain_module(first, 32, roots=[str(first)])
    with pytest.raises(InputError, match=r"^data\.root: .*data\.roots"):
        plain_module(None, 32)
    with pytest.raises(InputError, match=r"^data\.weights=\[2\]: "):
        plain_module(first, 32, weights=[2])


def test_a_weight_too_small_for_one_record_is_refused_before_training(first: Path, second: Path) -> None:
    with pytest.raises(InputError, match=r"^data\.weights: .*\bdata\.roots\.1\b"):
        mixed(first, second, weights=[1, 0.01]).count_batches(1)
