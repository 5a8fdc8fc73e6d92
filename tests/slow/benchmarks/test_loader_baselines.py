"""All loaders do the same work: the same pixels without augmentation, and the same transform with it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import simplejpeg
from hydra import compose, initialize_config_dir

from benchmarks.loader.baselines.augmentations import augmentations
from benchmarks.loader.process import MODULES
from benchmarks.loader.run import link_shards
from benchmarks.loader.work import NAMES, Name
from flowers.cli import CONFIGS
from flowers.data.dataset import open_splits
from flowers.data.tfrecord.example import decode_example
from flowers.instantiate import instantiate
from tests.helpers.commands import ROOT

READ = """
import hashlib, json, sys
from importlib import import_module
from pathlib import Path
from benchmarks.loader.work import Work

if __name__ == "__main__":
    module, root = sys.argv[1:]
    batches = import_module(f"benchmarks.loader.baselines.{module}").batches(
        Work(Path(root), "decode", 192, batch_size=16, workers=1, seed=0)
    )
    found = {}
    for _ in range(10):
        ids, images = next(batches)
        assert images.shape == (16, 192, 192, 3) and images.dtype == "uint8"
        for identity, image in zip(ids, images, strict=True):
            identity = identity.decode() if isinstance(identity, bytes) else identity
            found[identity] = hashlib.sha256(image.tobytes()).hexdigest()
    print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def links(garden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data set that repeats the tiny garden."""
    directory = tmp_path_factory.mktemp("links")
    link_shards(garden, open_splits(garden, ["train"], 192, "stop", garden.parent / "cache")[0].indexes, directory, 192)
    return directory


def test_links_are_a_data_set_of_enough_records(links: Path) -> None:
    reader, problems = open_splits(links, ["train"], 192, "stop", links.parent / "cache")
    assert not problems
    assert 12_000 <= len(reader) < 12_000 + 208


@pytest.mark.parametrize("name", NAMES)
def test_all_loaders_decode_the_same_pixels(name: Name, garden: Path, links: Path, tmp_path: Path) -> None:
    reader, _ = open_splits(garden, ["train"], 192, "stop", garden.parent / "cache")
    records = [decode_example(reader[number], labelled=True, where="") for number in range(len(reader))]
    expected = {
        record.id: hashlib.sha256(simplejpeg.decode_jpeg(record.image).tobytes()).hexdigest() for record in records
    }
    script = tmp_path / "read.py"
    script.write_text(READ)
    command = [sys.executable, str(script), MODULES[name], str(links)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) > 50
    assert found.items() <= expected.items()


def test_the_full_task_is_the_medium_transform() -> None:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        settings = ["data=tfrecords", "data/augment=medium", "data.root=nowhere", "data.image_size=224"]
        config = compose("train", settings)
    configured = [str(instantiate("train_transform", node)) for node in config.data.train_transform]
    assert [str(transform) for transform in augmentations("full", 224)] == configured
