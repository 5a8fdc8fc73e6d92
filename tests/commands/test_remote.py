"""Data sets behind a URL give the same batches as on disk, and each record is fetched once."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import pickle
import shutil
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import albumentations as A
import fsspec
import numpy as np
import pytest
from gcp_storage_emulator.server import create_server
from moto.server import DomainDispatcherApplication, create_backend_app
from upath import UPath

from flowers.data.datamodule import FlowersDataModule
from flowers.data.dataset import OnBadRecord, open_splits
from flowers.data.storage import cache, remote, retrying
from flowers.data.storage.cache import RemoteReader
from flowers.data.tfrecord.index import open_indexes
from flowers.data.tfrecord.reader import ShardReader
from flowers.errors import BadRecord, InputError
from flowers.interfaces import Batch
from tests.helpers.commands import run_script
from tests.helpers.object_stores import Application, Server, directory

SIZED = "tfrecords-jpeg-192x192"


@dataclass
class Place:
    """A data set behind a URL, and the server that counts its requests, if there is one."""

    root: str
    server: Server | None = None
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def counted(self) -> Server:
        assert self.server is not None
        return self.server

    def open(self, cache: Path, split: str = "train", on_bad_record: OnBadRecord = "stop") -> RemoteReader:
        reader, _ = open_splits(remote.open_root(self.root, self.options), [split], 192, on_bad_record, cache)  # type: ignore[arg-type]
        assert isinstance(reader, RemoteReader)
        return reader


def module(place: Place, cache: Path, workers: int, on_bad_record: OnBadRecord = "stop") -> FlowersDataModule:
    return FlowersDataModule(
        place.root,
        image_size=192,
        train_size=64,
        eval_size=192,
        batch_size=16,
        train_transform=[A.RandomResizedCrop((64, 64)), A.HorizontalFlip()],
        eval_transform=[],
        cache_dir=str(cache),
        on_bad_record=on_bad_record,
        num_workers=workers,
        storage_options=place.options,
    )


def same(first: list[Batch], second: list[Batch]) -> bool:
    return len(first) == len(second) and all(
        one["id"] == other["id"] and one["image"].equal(other["image"])
        for one, other in zip(first, second, strict=True)
    )


def local_payloads(root: Path, split: str = "train") -> list[bytes]:
    reader = ShardReader(open_indexes(sorted((root / SIZED / split).glob("*.tfrec")), root))
    return list(reader)


@pytest.fixture(scope="session")
def flowerbed(garden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the tiny garden at 192 px, without indexes. Read only."""
    root = tmp_path_factory.mktemp("flowerbeds") / "garden"
    shutil.copytree(garden / SIZED, root / SIZED, ignore=shutil.ignore_patterns("*.tfindex"))
    return root


def put(root: Path, url: str, options: dict[str, Any]) -> None:
    fs, base = fsspec.url_to_fs(url, **options)
    for path in sorted(root.rglob("*.tfrec")):
        fs.pipe_file(f"{base}/{path.relative_to(root)}", path.read_bytes())


@pytest.fixture(scope="session")
def s3(flowerbed: Path) -> Iterator[Place]:
    server = Server(DomainDispatcherApplication(create_backend_app))
    options = {"endpoint_url": server.url, "key": "key", "secret": "secret"}
    fsspec.filesystem("s3", **options).mkdir("flowers")
    put(flowerbed, "s3://flowers/garden", options)
    yield Place("s3://flowers/garden", server, options)
    server.stop()


@pytest.fixture(scope="session")
def gs(flowerbed: Path) -> Iterator[Place]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = create_server("127.0.0.1", port, in_memory=True, default_bucket="flowers")
    server.start()
    options = {"endpoint_url": f"http://127.0.0.1:{port}", "token": "anon"}
    put(flowerbed, "gs://flowers/garden", options)
    yield Place("gs://flowers/garden", None, options)
    server.stop()


@pytest.fixture(scope="session")
def memory(flowerbed: Path) -> Place:
    put(flowerbed, "memory://flowers/garden", {})
    return Place("memory://flowers/garden")


@pytest.fixture
def web(flowerbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """Yield a web server with its own copy. Requests are retried after short waits."""
    monkeypatch.setattr(retrying, "FIRST_WAIT", 0.01)
    shutil.copytree(flowerbed, tmp_path / "web")
    server = Server(directory(tmp_path / "web"))
    yield Place(server.url, server)
    server.stop()


@pytest.fixture
def place(request: pytest.FixtureRequest) -> Place:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Place)
    return found


@pytest.mark.parametrize(
    ("place", "workers"), [("s3", 0), ("s3", 2), ("gs", 0), ("gs", 2), ("web", 0), ("memory", 0)], indirect=["place"]
)
def test_a_url_gives_the_same_batches_as_the_disk(place: Place, workers: int, flowerbed: Path, tmp_path: Path) -> None:
    ours, theirs = module(place, tmp_path, workers), module(Place(str(flowerbed)), tmp_path, 0)
    assert same(list(ours.loader("train", training=True)), list(theirs.loader("train", training=True)))
    assert same(list(ours.loader("val")), list(theirs.loader("val")))


@pytest.fixture
def indexed(web: Place, tmp_path: Path) -> Place:
    """Return the web server's data set, with indexes beside its shards."""
    open_indexes(sorted((tmp_path / "web").rglob("*.tfrec")), tmp_path)
    return web


@pytest.mark.parametrize("workers", [0, 2])
def test_the_second_epoch_makes_no_request(indexed: Place, tmp_path: Path, workers: int) -> None:
    data = module(indexed, tmp_path / "cache", workers)
    loader = data.loader("train", training=True)
    opened = indexed.counted.requests
    for epoch, allowed in ((0, 208), (1, 0)):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        before = indexed.counted.requests
        list(loader)
        assert (indexed.counted.requests - before <= allowed) and indexed.counted.requests > opened
    indexed.counted.stop()
    list(loader)


def test_a_cached_shard_is_used_by_the_next_run(indexed: Place, tmp_path: Path) -> None:
    first = list(indexed.open(tmp_path / "cache"))
    before = indexed.counted.requests
    reader = indexed.open(tmp_path / "cache")
    requests_to_open = indexed.counted.requests - before
    assert requests_to_open == 3 + len(reader.indexes)  # three lists, and each shard's size and state
    assert list(reader) == first == local_payloads(tmp_path / "web")
    assert indexed.counted.requests == before + requests_to_open


def test_neighbours_are_fetched_together(indexed: Place, tmp_path: Path) -> None:
    reader = indexed.open(tmp_path / "cache")
    count = len(reader.indexes[0])
    before = indexed.counted.requests
    reader.prefetch(range(count))
    assert indexed.counted.requests - before == -(-count // cache._RECORDS_PER_REQUEST)
    [reader[number] for number in range(count)]
    assert indexed.counted.requests - before == -(-count // cache._RECORDS_PER_REQUEST)


def test_with_an_index_beside_the_shard_only_the_read_records_are_fetched(indexed: Place, tmp_path: Path) -> None:
    reader = indexed.open(tmp_path / "cache")
    reader.prefetch([1])
    present = [shard.present(len(index)) for shard, index in zip(reader.cached, reader.indexes, strict=True)]
    assert [int(part.sum()) for part in present] == [1] + [0] * (len(present) - 1)
    assert present[0][1]


@pytest.mark.parametrize("text", ["0 17\n", "nonsense", "16 384\n"])
def test_an_index_that_does_not_fit_its_shard_is_not_used(web: Place, tmp_path: Path, text: str) -> None:
    for shard in (tmp_path / "web").rglob("*.tfrec"):
        shard.with_suffix(".tfindex").write_text(text)
    assert list(web.open(tmp_path / "cache")) == local_payloads(tmp_path / "web")


def test_a_changed_shard_is_fetched_again(s3: Place, tmp_path: Path) -> None:
    fs = fsspec.filesystem("s3", **s3.options)
    [shard, *_] = sorted(fs.glob(f"flowers/garden/{SIZED}/test/*.tfrec"))
    before = s3.open(tmp_path, "test")
    original, payloads = fs.cat_file(shard), list(before)
    count = len(before.indexes[0])
    first = cache.frame_range(before.indexes[0], 0, 1)[1]
    fs.pipe_file(shard, original[first:] + original[:first])  # moves the first record to the end, at the same size
    after = s3.open(tmp_path, "test")
    fs.pipe_file(shard, original)
    assert list(after) == payloads[1:count] + payloads[:1] + payloads[count:]


def drop_headers(names: set[str], served: Application) -> Application:
    """Return an application that leaves these headers out."""

    def application(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        return served(environ, lambda status, headers: start(status, [h for h in headers if h[0] not in names]))

    return application


def test_a_changed_shard_is_fetched_again_without_an_etag(web: Place, tmp_path: Path) -> None:
    web.counted.application = drop_headers({"ETag"}, web.counted.application)
    for index in (tmp_path / "web").rglob("*.tfindex"):  # which another test may have left beside the shards
        index.unlink()
    before = web.open(tmp_path / "cache")
    payloads, count = list(before), len(before.indexes[0])
    shard = min((tmp_path / "web").rglob("train/*.tfrec"))
    data, first = shard.read_bytes(), cache.frame_range(before.indexes[0], 0, 1)[1]
    shard.write_bytes(data[first:] + data[:first])  # moves the first record to the end, at the same size
    after = web.open(tmp_path / "cache")
    assert list(after) == payloads[1:count] + payloads[:1] + payloads[count:]
    assert [m.path for m in web.open(tmp_path / "cache").cached] == [m.path for m in after.cached]  # and is cached


# Failures


@pytest.mark.parametrize("error", [json.JSONDecodeError("no JSON", "<html>", 0), b"\xff"])
def test_a_garbled_answer_is_retried(
    error: Exception | bytes, indexed: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([error, b"fine"])

    def request() -> str:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer.decode()

    assert retrying.retry(UPath(indexed.root), request) == "fine"


def test_refused_settings_are_not_retried(indexed: Place) -> None:
    tries: list[int] = []

    def request() -> None:
        tries.append(1)
        raise ValueError("no such argument")

    with pytest.raises(InputError, match="no such argument"):
        retrying.retry(UPath(indexed.root), request)
    assert len(tries) == 1


@pytest.mark.parametrize("method", ["read_text", "read_bytes", "exists"])
def test_an_unreadable_cached_shard_is_reported(
    method: str, indexed: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    indexed.open(tmp_path / "cache").read(0)

    original = getattr(Path, method)

    def deny_access(path: Path, *arguments: object) -> object:
        if path.is_relative_to(tmp_path / "cache"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return original(path, *arguments)  # the server's files

    monkeypatch.setattr(Path, method, deny_access)
    with pytest.raises(InputError, match=r"Permission denied.*\bpaths\.cache_dir"):
        indexed.open(tmp_path / "cache").prefetch([0])


@pytest.mark.parametrize("refusals", [1, 4])
def test_transient_errors_are_retried(web: Place, tmp_path: Path, refusals: int) -> None:
    web.counted.refusals = refusals
    reader = web.open(tmp_path / "cache")
    shutil.rmtree(tmp_path / "cache")
    open_indexes(sorted((tmp_path / "web").rglob("*.tfrec")), tmp_path)
    reader = web.open(tmp_path / "cache")
    web.counted.refusals = refusals
    reader.prefetch(range(len(reader)))
    web.counted.stop()
    assert list(reader) == local_payloads(tmp_path / "web")


def test_lasting_errors_are_reported_with_the_url_and_the_answer(indexed: Place, tmp_path: Path) -> None:
    reader = indexed.open(tmp_path / "cache")
    indexed.counted.refusals = 1_000
    with pytest.raises(InputError, match=r"http://127.*\.tfrec: .*\b5 tries .*503") as error:
        reader[0]
    assert not isinstance(error.value, BadRecord)  # an outage is no bad record: it is not skipped
    indexed.counted.stop()
    with pytest.raises(InputError, match=r"\b5 tries\b"):
        reader[0]


def test_s3_is_retried_when_it_is_busy(s3: Place, tmp_path: Path) -> None:
    reader = s3.open(tmp_path / "cache", "val")
    for marks in (tmp_path / "cache").rglob("*.present"):
        marks.unlink()
    s3.counted.refusals = 2
    assert len(reader[0]) > 0
    assert s3.counted.refusals == 0


def test_a_damaged_transfer_is_never_cached(indexed: Place, tmp_path: Path) -> None:
    reader = indexed.open(tmp_path / "cache")
    numbers = range(0, len(reader), 2)  # no neighbours, so each needs a request
    indexed.counted.damage = 5
    reader.prefetch(numbers)
    assert sum(not reader._is_present(number) for number in numbers) == 5
    expected = local_payloads(tmp_path / "web")
    assert [reader[number] for number in numbers] == [expected[number] for number in numbers]


def test_a_record_that_is_damaged_in_the_bucket_is_refused_or_skipped(indexed: Place, tmp_path: Path) -> None:
    shard = min((tmp_path / "web").rglob("train/*.tfrec"))
    data = bytearray(shard.read_bytes())
    data[1000] ^= 1
    shard.write_bytes(data)
    with pytest.raises(BadRecord, match=r"http://.*\.tfrec: record 0: .*CRC.*0x"):
        indexed.open(tmp_path / "cache")[0]
    batches = list(module(indexed, tmp_path / "cache", 0, "skip").loader("train"))
    assert sum(int(batch["valid"].sum()) for batch in batches) == 207
    assert sum(len(batch["skipped"]) for batch in batches) == 1


def test_a_truncated_shard_in_the_bucket_is_reported(web: Place, tmp_path: Path) -> None:
    shard = min((tmp_path / "web").rglob("train/*.tfrec"))
    shard.write_bytes(shard.read_bytes()[:-5])
    with pytest.raises(BadRecord, match=rf"^{web.root}/.*{shard.name}: record \d+ at byte \d+: .*cut off"):
        web.open(tmp_path / "cache")


def test_a_damaged_cache_is_fetched_again(s3: Place, flowerbed: Path, tmp_path: Path) -> None:
    expected = list(s3.open(tmp_path))
    for shard in tmp_path.rglob("*.tfrec"):
        data = np.fromfile(shard, np.uint8)
        data[1000:3000] = 0
        data.tofile(shard)
    assert list(s3.open(tmp_path)) == expected == local_payloads(flowerbed)
    assert list(s3.open(tmp_path)) == expected


def test_a_cached_shard_deleted_in_part_is_filled_again(indexed: Place, tmp_path: Path) -> None:
    expected = list(indexed.open(tmp_path / "cache"))
    for shard in (tmp_path / "cache").rglob("*.tfrec"):
        shard.unlink()
    reader = indexed.open(tmp_path / "cache")
    assert [reader.read(number, check=False) for number in range(len(reader))] == expected


def read_in_order(root: str, cache: Path, started: Event) -> None:
    reader, _ = open_splits(remote.open_root(root, {}), ["train"], 192, "stop", cache)
    started.set()
    for start in range(0, len(reader), 4):
        reader.prefetch(range(start, min(start + 4, len(reader))))


@pytest.mark.slow
def test_killed_processes_leave_a_valid_cache(indexed: Place, tmp_path: Path) -> None:
    indexed.counted.latency = 0.02
    context = multiprocessing.get_context("forkserver")
    events = [context.Event() for _ in range(2)]
    arguments = [(indexed.root, tmp_path / "cache", event) for event in events]
    processes = [context.Process(target=read_in_order, args=each) for each in arguments]
    for process in processes:
        process.start()
    for number, (process, event) in enumerate(zip(processes, events, strict=True)):
        assert event.wait(180)
        time.sleep(0.3 * (number + 1))
        process.kill()
        process.join()
    indexed.counted.latency = 0.0
    reader = indexed.open(tmp_path / "cache")
    present = [reader._is_present(number) for number in range(len(reader))]
    assert any(present)
    assert not all(present)
    expected = local_payloads(tmp_path / "web")
    assert [reader.read(number, check=False) for number in range(len(reader))] == expected


def test_readers_share_cached_shards(indexed: Place, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        readers = list(pool.map(lambda _: indexed.open(tmp_path / "cache"), range(4)))
        readers += [pickle.loads(pickle.dumps(reader)) for reader in readers]
        orders = [np.random.default_rng(seed).permutation(len(readers[0])).tolist() for seed in range(8)]
        found = list(pool.map(lambda reader, order: {number: reader[number] for number in order}, readers, orders))
    expected = dict(enumerate(local_payloads(tmp_path / "web")))
    assert all(payloads == expected for payloads in found)


def test_a_server_without_ranges_is_refused(indexed: Place, tmp_path: Path) -> None:
    reader = indexed.open(tmp_path / "cache")
    served = indexed.counted.application
    indexed.counted.application = lambda environ, start: served({**environ, "HTTP_RANGE": ""}, start)
    with pytest.raises(InputError, match=r"\bbytes \d+ to \d+, found \d+ bytes"):
        reader[0]


# Errors that a user can fix


def remove_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE", "CLOUDSDK_CONFIG"):
        monkeypatch.setenv(name, str(tmp_path / "none"))


def drop_key(place: Place) -> Place:
    return Place(place.root, place.server, {"endpoint_url": place.counted.url})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s3: Place("s3://nowhere/garden", None, s3.options), "s3://nowhere/garden: no such "),
        (lambda s3: Place("s3://flowers/weeds", None, s3.options), "s3://flowers/weeds: no such "),
        (drop_key, "s3://flowers/garden: .*credentials .*NoCredentialsError.*AWS_ACCESS_KEY_ID.*anon: true"),
        (lambda s3: Place("gs://flowers/garden"), "gs://flowers/garden: .*credentials.*gcloud auth .*token: anon"),
        (lambda s3: Place("s4://flowers/garden"), "data.root=s4://flowers/garden: .*fsspec"),
        (lambda s3: Place("abfs://flowers/garden"), "data.root=abfs.*adlfs.*pip install"),
        (lambda s3: Place(s3.root, None, {"endpoints": 1}), "s3://flowers/garden: .*data.storage_options"),
    ],
)
def test_a_data_set_that_cannot_be_opened_is_refused_with_the_fix(
    s3: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Place], Place], message: str
) -> None:
    remove_credentials(monkeypatch, tmp_path)
    start = time.monotonic()
    with pytest.raises(InputError, match=message):
        module(change(s3), tmp_path, 0).dataset("train")
    assert time.monotonic() - start < 15


@pytest.mark.parametrize("status", ["401 Unauthorized", "403 Forbidden"])
@pytest.mark.parametrize("place", ["s3", "web", "gs"], indirect=True)
def test_refused_credentials_are_not_retried(place: Place, tmp_path: Path, status: str) -> None:
    server = place.server or Server(directory(tmp_path))
    options = {**place.options, "endpoint_url": server.url} if place.options else {}
    server.status, server.refusals = status, 1
    if place.server is None:
        server.refusals = 1_000  # gcsfs requests a directory in two ways
    with pytest.raises(InputError, match=f"^{place.root}.*: .*credentials"):
        module(Place(place.root, server, options), tmp_path / "cache", 0).dataset("train")
    server.status, server.refusals = "503 Service Unavailable", 0


def test_a_worker_that_is_refused_raises_the_same_error(indexed: Place, tmp_path: Path) -> None:
    loader = module(indexed, tmp_path / "cache", 1).loader("train")
    indexed.counted.status, indexed.counted.refusals = "403 Forbidden", 1_000
    with pytest.raises(InputError) as error:
        list(loader)
    assert str(error.value).startswith(f"{indexed.root}/{SIZED}/train/")
    assert "Traceback" not in str(error.value)


def test_a_cache_that_cannot_be_written_is_reported(indexed: Place, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file, where a directory should be")
    with pytest.raises(InputError, match=r"http://.*\bpaths\.cache_dir"):
        indexed.open(tmp_path / "cache")


def test_no_data_set_is_generated_in_a_bucket(s3: Place, tmp_path: Path) -> None:
    data = module(s3, tmp_path, 0)
    data.prepare = print
    with pytest.raises(InputError, match=r"data=tfrecords data\.root=s3://flowers/garden"):
        data.prepare_data()


def test_train_reads_a_bucket(s3: Place, tiny_settings: list[str], tmp_path: Path) -> None:
    settings = [setting for setting in tiny_settings if not setting.startswith("data.root")]
    done = run_script(
        "train",
        *settings,
        f"data.root={s3.root}",
        f"data.storage_options={{key: key, secret: secret, client_kwargs: {{endpoint_url: '{s3.counted.url}'}}}}",
        "trainer.fast_dev_run=true",
        f"hydra.run.dir={tmp_path / 'run'}",
        FLOWERS_CACHE=str(tmp_path / "cache"),
    )
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "cache").rglob("*.present"))
