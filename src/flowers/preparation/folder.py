"""Convert photographs to a data set in Kaggle's layout: scan, plan, write. A killed run continues where it stopped.

    OUTPUT/scan/*.csv       the scans of the photographs, in parts; removed when all shards are written
    OUTPUT/plan.csv         every decision; renamed to manifest.csv as the last step
    OUTPUT/prepare.json     the settings; written when the plan is complete
    OUTPUT/classes.txt      the class names; written before the first shard
    OUTPUT/unreadable.csv, OUTPUT/tfrecords-jpeg-SxS/{train,val,test}/*.tfrec

A directory with a plan and no manifest is unfinished, and cannot be opened as a data set (`flowers.data.layout`).

The steps exchange files or small tasks, not objects, so that they can run in other processes and on other machines.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from upath import UPath

from flowers.data.layout import SPLITS, check_plan
from flowers.data.storage.remote import open_path
from flowers.errors import UNWRITABLE, InputError, first_few
from flowers.preparation.manifest import PlannedImage, UnreadableImage, read_settings
from flowers.preparation.plan import (
    Settings,
    classes_without,
    equal_files_of_several_classes,
    groups_of_several_classes,
    make_plan,
    settings_differences,
    settings_json,
    source_differences,
)
from flowers.preparation.runner import TaskRunner
from flowers.preparation.scan import changed_photographs, scan_source
from flowers.preparation.source import Source, class_names, describe_ignored, list_source
from flowers.preparation.tables import entries, read_table, write_table
from flowers.preparation.writing import ShardTask, missing_shards, write_shards
from flowers.system.atomic import final_name, remove_parts, write_atomic

log = logging.getLogger(__name__)

_BEFORE_PLAN = {".lock", "scan", "unreadable.csv", "plan.csv", "prepare.json"}


def prepare_folder(source: str, output: str, settings: Settings, run_tasks: TaskRunner) -> None:
    """Write a data set in Kaggle's layout from photographs, continuing where an earlier call stopped.

    Args:
        source: a directory of class folders or a CSV file of `path,label`, local or an fsspec URL.
        output: the data set's directory, local or an fsspec URL.
        settings: the settings that determine the output.
        run_tasks: the function that runs the tasks: `run_on_processes`, or `run_on_beam` on a runner. The output does
            not depend on it.

    Raises:
        InputError: the source or the settings do not give a data set, images cannot be read, or `output` cannot be
            written or holds the result of another source, of other settings, or something else.
    """
    target = UPath(open_path(output, "output"))
    _check_output(target, UPath(open_path(source, "source")))
    found = list_source(source)
    with _lock_output(target):
        _remove_unfinished(target)
        planned = (target / "prepare.json").exists()
        plan = _read_plan(found, target, settings) if planned else _create_plan(found, target, settings, run_tasks)
        tasks = missing_shards(target, plan, settings.sizes)
        if planned:
            _check_unchanged(found, target, plan, tasks)
        if (target / "manifest.csv").exists() and not tasks:
            log.info("%s is already finished: nothing to do. For another one, set output to a new directory.", target)
            return
        _write_class_names(target, plan)
        write_shards(found, target, tasks, settings.sizes, run_tasks)
        _finish(target)
    counts = Counter(image.split for image in plan)
    log.info("Wrote %s: %s images.", target, ", ".join(f"{counts[split]} {split}" for split in SPLITS))
    if isinstance(target, Path):
        command = "python src/train.py experiment=small_set data.root=%s data.image_size=%d"
        log.info(f"Train on it: {command}", target, settings.sizes[0])


def _check_output(output: UPath, source: UPath) -> None:
    """Raise if the output is within the source, or holds anything but the files of an earlier call."""
    if f"{_resolve(output)}/".startswith(f"{_resolve(source)}/"):
        raise InputError(
            f"output={output}: expected a directory outside the source, found one in it, where folders are classes. "
            "Set output to another directory."
        )
    try:
        names = [entry.name for entry in entries(output)]
    except OSError as error:
        raise _write_error(output, error) from None
    others = [name for name in names if final_name(name) not in _BEFORE_PLAN]
    if others and "prepare.json" not in names:
        raise InputError(
            f"{output}: expected an empty directory or an unfinished output, found {first_few(others, ', ')}. "
            "Set output to a new directory."
        )
    check_plan(output, names)


def _resolve(path: UPath) -> UPath:
    """Resolve the links of a local path. A URL is returned unchanged."""
    return path.resolve() if isinstance(path, Path) else path.absolute()


@contextmanager
def _lock_output(output: UPath) -> Iterator[None]:
    """Create the directory, lock a local one against a second run, and raise `InputError` if it is not writable."""
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _write_error(output, error) from None
    try:
        if isinstance(output, Path):
            with FileLock(output / ".lock", timeout=0):
                yield
        else:
            yield
    except Timeout:
        raise InputError(f"{output}: another run is writing into it. Wait until it ends, or stop it.") from None
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        raise _write_error(output, error) from None


def _remove_unfinished(output: UPath) -> None:
    """Remove the unfinished files of a killed run, from a local directory: there, no other run is writing now."""
    if isinstance(output, Path):
        for pattern in ("*.part", "scan/*.part", "tfrecords-jpeg-*/*/*.part"):
            for part in output.glob(pattern):
                remove_parts(part.with_name(final_name(part.name)))


def _write_error(output: UPath, error: OSError) -> InputError:
    return InputError(f"{output}: cannot be written: {error.strerror or error}. Fix that, or change output.")


def _write_class_names(output: UPath, plan: Sequence[PlannedImage]) -> None:
    write_atomic(output / "classes.txt", "\n".join(class_names(image.label for image in plan)) + "\n")


def _finish(output: UPath) -> None:
    """Finish the data set. The manifest comes last."""
    if entries(output / "scan"):
        output.fs.rm((output / "scan").path, recursive=True)
    if not (output / "manifest.csv").exists():
        (output / "plan.csv").rename(output / "manifest.csv")


def _read_plan(source: Source, output: UPath, settings: Settings) -> list[PlannedImage]:
    """Return the plan of an earlier call. Raise if its settings or source differ from those of this call."""
    finished = output / "manifest.csv"
    plan = read_table(finished if finished.exists() else output / "plan.csv", PlannedImage)
    differences = [
        *settings_differences(read_settings(output / "prepare.json"), settings),
        *source_differences([*plan, *_read_unreadable(output)], source.photographs),
    ]
    _check_no_differences(output, differences)
    return plan


def _read_unreadable(output: UPath) -> list[UnreadableImage]:
    return read_table(output / "unreadable.csv", UnreadableImage) if (output / "unreadable.csv").exists() else []


def _check_unchanged(source: Source, output: UPath, plan: Sequence[PlannedImage], tasks: Sequence[ShardTask]) -> None:
    """Raise if written photographs changed at equal size. The others are checked when they are written."""
    due = {(task.split, task.shard) for task in tasks}
    written = [image for image in plan if (image.split, image.shard) not in due]
    _check_no_differences(output, changed_photographs(source.directory, written, _read_unreadable(output)))


def _check_no_differences(output: UPath, differences: Sequence[str]) -> None:
    if differences:
        raise InputError(
            f"{output}: expected the settings and source of the earlier run, found\n  {first_few(differences)}\n"
            "Restore them, set output to a new directory, or remove this one to write it again."
        )


def _create_plan(source: Source, output: UPath, settings: Settings, run_tasks: TaskRunner) -> list[PlannedImage]:
    """Scan the photographs, and make and write the plan."""
    if source.ignored:
        log.info("Ignored in %s: %s.", source.directory, describe_ignored(source.ignored))
    scans = scan_source(source, output, run_tasks)
    faults = {path: scan.fault for path, scan in scans.items() if scan.fault}
    bad = [UnreadableImage(p.path, p.label, p.bytes, faults[p.path]) for p in source.photographs if p.path in faults]
    (output / "unreadable.csv").unlink(missing_ok=True)  # left by an earlier call
    if bad:
        write_table(output / "unreadable.csv", UnreadableImage, bad)
    _check_readable(source, bad, output, settings)
    plan = make_plan([p for p in source.photographs if p.path not in faults], scans, settings)
    _report(plan)
    write_table(output / "plan.csv", PlannedImage, plan)
    write_atomic(output / "prepare.json", settings_json(settings))  # last: it marks the plan as complete
    return plan


def _check_readable(source: Source, bad: Sequence[UnreadableImage], output: UPath, settings: Settings) -> None:
    found = f"{len(bad)} of {len(source.photographs)} files are not images, or are damaged"
    if bad and settings.on_bad_image == "stop":
        raise InputError(
            f"{source.directory}: {found}:\n  {first_few([f'{image.path}: {image.fault}' for image in bad])}\n"
            f"All of them are listed in {output / 'unreadable.csv'}. Fix or remove them, or skip them with "
            "on_bad_image=skip; the others are not scanned again."
        )
    if bad:
        log.warning("Skipped: %s. They are listed in %s.", found, output / "unreadable.csv")
    names = {photograph.label for photograph in source.photographs}
    paths = {image.path for image in bad}
    left = {photograph.label for photograph in source.photographs if photograph.path not in paths}
    if names - left:
        raise InputError(
            f"{source.directory}: expected a readable image of every class, found none of "
            f"{first_few(sorted(names - left), ', ')}. Add images, or remove the class."
        )


def _report(plan: Sequence[PlannedImage]) -> None:
    """Log what the user should check: near-duplicates, contradictory labels, and classes without images."""
    sizes = [count for count in Counter(image.group for image in plan).values() if count > 1]
    if sizes:
        log.info(
            "Near-duplicates, kept in one split as a group of the manifest: %d images, %d groups.",
            sum(sizes),
            len(sizes),
        )
    if several := groups_of_several_classes(plan):
        log.warning("Groups of near-duplicates with several classes, put into train: %d.", several)
    if equal := equal_files_of_several_classes(plan):
        log.warning("Equal files with different labels:\n  %s", first_few(equal))
    for split in SPLITS[1:]:
        missing = classes_without(plan, split)
        if missing and any(image.split == split for image in plan):
            log.warning("%s has no image of %d classes: %s", split, len(missing), first_few(missing, ", "))
