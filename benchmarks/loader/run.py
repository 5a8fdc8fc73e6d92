"""Run the loader benchmark: each loader does the same work in turn, round after round."""

from __future__ import annotations

import itertools
import platform
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Annotated

from omegaconf import OmegaConf
from pydantic import Field

from benchmarks.loader.process import LoaderProcess, Measured
from benchmarks.loader.result import Comparison, LoaderBenchmark
from benchmarks.loader.work import IN_MEMORY, Name, Task, Work
from flowers.cli import CONFIGS
from flowers.data.dataset import open_splits
from flowers.data.layout import image_sizes, shard_name, size_directory
from flowers.data.tfrecord.framing import ShardIndex
from flowers.data.tfrecord.reader import ShardReader
from flowers.errors import InputError
from flowers.instantiate import instantiate
from flowers.settings import Paths, Positive, PositiveFloat, Seed
from flowers.system.processor import available_cores, cpu_model

RECORDS = 12_000
"""The least number of records in an epoch, about that of the competition. Short epochs would measure their start."""

OPTIONAL_PACKAGES: dict[Name, str] = {"tf.data": "tensorflow-cpu", "tfrecord": "tfrecord"}
"""The loaders that may be absent, and the packages to install for them."""

PACKAGES = (
    "torch",
    "torchvision",
    "albumentations",
    "simplejpeg",
    "opencv-python-headless",
    "numpy",
    "tensorflow",
    "tensorflow-cpu",
    "tfrecord",
)


@dataclass(frozen=True, slots=True)
class LoaderData:
    """The data set to read: a directory `root` in Kaggle's layout, or None for the garden."""

    root: str | None


@dataclass(frozen=True, slots=True)
class LoaderSettings:
    """The settings of `python -m benchmarks.loader`; configs/benchmark_loader.yaml explains each of them."""

    data: LoaderData
    paths: Paths
    sizes: Annotated[list[Positive], Field(min_length=1)]
    tasks: Annotated[list[Task], Field(min_length=1)]
    loaders: Annotated[list[Name], Field(min_length=1)]
    batch_size: Positive
    workers: Positive | None
    rounds: Positive
    seconds: PositiveFloat
    seed: Seed
    results: str


def benchmark_loader(settings: LoaderSettings) -> Iterator[LoaderBenchmark]:
    """Run the comparisons of configs/benchmark_loader.yaml, and yield all results so far after each of them.

    Raises:
        InputError: the data set or one of the resolutions does not exist, or the file of results does already.
        BadRecord: a shard or a record is damaged.
        RuntimeError: a loader did not do the work that it was given.
    """
    root = _data_set(settings)
    _check_input(root, settings)
    result = _start_results(settings, root)
    with tempfile.TemporaryDirectory() as directory:
        for size in settings.sizes:
            reader, _ = open_splits(root, ["train"], size, "stop", Path(settings.paths.cache_dir).expanduser())
            _read_once(reader)
            link_shards(root, reader.indexes, Path(directory), size)
            for task in settings.tasks:
                work = Work(Path(directory), task, size, settings.batch_size, result.settings["workers"], settings.seed)
                names = [name for name in settings.loaders if name not in result.absent and takes_part(name, task)]
                comparison, absent = compare(work, names, settings.rounds, settings.seconds, len(reader))
                result = replace(
                    result, absent={**result.absent, **absent}, comparisons=[*result.comparisons, comparison]
                )
                yield result


def _data_set(settings: LoaderSettings) -> Path:
    if settings.data.root is not None:
        return Path(settings.data.root)
    root = Path(settings.paths.data_dir) / "garden"
    instantiate("data.prepare", OmegaConf.load(CONFIGS / "data" / "garden.yaml").prepare)(root)
    return root


def _check_input(root: Path, settings: LoaderSettings) -> None:
    if not root.is_dir():
        raise InputError(
            f"data.root={root}: no such directory. Expected a data set in Kaggle's layout (tfrecords-jpeg-SxS/train); "
            "leave data.root out to read the garden, the built-in data set."
        )
    there = image_sizes(root)
    if there and (missing := [size for size in settings.sizes if size not in there]):
        raise InputError(
            f"sizes: expected resolutions of {root}, which has {there}, found {missing}. "
            f"Set sizes=[{','.join(map(str, there))}]."
        )
    if Path(settings.results).exists():
        raise InputError(f"results={settings.results}: the file exists already. Name another one, or remove it.")


def _start_results(settings: LoaderSettings, root: Path) -> LoaderBenchmark:
    """Return results that describe the machine and the settings, without comparisons yet."""
    workers = available_cores() if settings.workers is None else settings.workers
    values = asdict(settings)
    keys = ("sizes", "tasks", "loaders", "batch_size", "rounds", "seconds", "seed")
    return LoaderBenchmark(
        time=datetime.now().isoformat(timespec="seconds"),
        cpu=cpu_model(),
        cores=available_cores(),
        python=platform.python_version(),
        packages=installed_versions(PACKAGES),
        settings={**{key: values[key] for key in keys}, "root": str(root), "workers": workers},
        absent={},
        comparisons=[],
    )


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of the packages that are installed."""
    versions = {}
    for package in packages:
        with suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions


def _read_once(reader: ShardReader) -> None:
    """Read all records into the page cache, as the disk is not measured. Damaged records raise `BadRecord` here."""
    for number in range(len(reader)):
        reader[number]


def link_shards(root: Path, indexes: Sequence[ShardIndex], directory: Path, image_size: int) -> None:
    """Make a data set of links to the shards of a training split, repeated until it has at least `RECORDS` records.

    Args:
        root: the data set whose class names are linked.
        indexes: the shards of its training split.
        directory: the directory for the new data set.
        image_size: the shards' resolution, in pixels.
    """
    train = size_directory(directory, image_size) / "train"
    train.mkdir(parents=True)
    repeats = -(-RECORDS // sum(map(len, indexes)))
    for number, index in enumerate(itertools.chain.from_iterable(itertools.repeat(indexes, repeats))):
        assert isinstance(index.path, Path)
        (train / shard_name(number, image_size, len(index))).symlink_to(index.path.resolve())
    classes = root / "classes.txt"
    if classes.exists() and not (directory / classes.name).exists():
        (directory / classes.name).symlink_to(classes.resolve())


def takes_part(name: Name, task: Task) -> bool:
    """Return whether a loader takes part in a task. The upper bound does not in `full`, which is other work."""
    return name != "decode_only" or task != "full"


def compare(
    work: Work, names: Sequence[Name], rounds: int, seconds: float, records: int
) -> tuple[Comparison, dict[Name, str]]:
    """Measure each loader once in each round, one at a time. The first round does not count: pipelines tune themselves.

    Args:
        work: the work.
        names: the loaders.
        rounds: the number of rounds that count.
        seconds: the duration of each measurement.
        records: the number of records in the data set.

    Returns:
        The comparison, and the absent loaders with the reason.

    Raises:
        InputError: a record cannot be read.
        RuntimeError: a loader did not do the work that it was given.
    """
    rates: dict[Name, list[float]] = {}
    absent: dict[Name, str] = {}
    with ExitStack() as stack:
        loaders = [stack.enter_context(closing(LoaderProcess(name, work))) for name in names]
        for loader in loaders:
            try:
                loader.wait()
                rates[loader.name] = []
            except ImportError as error:
                if loader.name not in OPTIONAL_PACKAGES:
                    raise
                absent[loader.name] = f"{error}: pip install {OPTIONAL_PACKAGES[loader.name]}"
        present = [loader for loader in loaders if loader.name in rates]
        for number, loader in itertools.product(range(rounds + 1), present):
            measured = loader.measure(seconds)
            check_work(loader.name, measured, work, records)
            if number > 0:
                rates[loader.name].append(sum(one.images / one.seconds for one in measured))
    return Comparison(work.task, work.image_size, rates), absent


def check_work(name: Name, measured: Sequence[Measured], work: Work, records: int) -> None:
    """Check the batches' type and shape, and that they are not the same few of the data set's `records`.

    Raises:
        RuntimeError: a check failed.
    """
    expected = ("uint8", (work.batch_size, work.image_size, work.image_size, 3))
    for one in measured:
        if one.layouts != {expected}:
            raise RuntimeError(f"{name}: expected batches of {expected} only, found {sorted(one.layouts)}")
        enough = min(one.pulled, records, IN_MEMORY) // 2  # half, as random order repeats some of them
        if one.different < enough:
            raise RuntimeError(f"{name}: expected at least {enough} different ids, found {one.different}")
