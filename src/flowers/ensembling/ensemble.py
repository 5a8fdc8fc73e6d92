"""Blend members into one submission, with cross-validated scores, for `python src/ensemble.py`."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from flowers.data.folds import assign_folds
from flowers.ensembling.alignment import (
    AlignedPredictions,
    align_test,
    align_train,
    align_validation,
    check_same_classes,
)
from flowers.ensembling.assessment import Assessment, assess
from flowers.ensembling.members import Member, find_members
from flowers.ensembling.methods import Method
from flowers.ensembling.scores import Probabilities, log_probabilities
from flowers.ensembling.validation import Blend, Rows
from flowers.errors import InputError
from flowers.inference.submission import write_submission
from flowers.interfaces import NO_LABEL
from flowers.progress import progress
from flowers.settings import Nodes, Paths, Seed
from flowers.system.atomic import write_atomic
from flowers.training.predictions import PredictionsWriter, Provenance, metadata_of, read_ids, read_provenance

_BLENDED_AT_ONCE = 4096
"""Rows of all members that are in memory at once."""


_SETTINGS = ("runs", "method", "methods", "offsets", "allow_missing", "folds", "resamples", "seed")
"""The settings that are recorded in ensemble.json."""


@dataclass(frozen=True, slots=True)
class EnsembleSettings:
    """The settings of `python src/ensemble.py`; configs/ensemble.yaml explains each of them."""

    runs: list[str]
    method: Literal["auto"] | Method
    methods: Annotated[list[Method], Field(min_length=1)]
    offsets: bool
    allow_missing: bool
    folds: Annotated[int, Field(ge=3)]  # the nested cross-validation leaves out two at a time
    resamples: Annotated[int, Field(ge=100)]
    seed: Seed
    logger: Nodes
    paths: Paths
    task_name: str
    tags: list[str]


@dataclass(frozen=True, slots=True)
class Ensemble:
    """A finished ensemble.

    directory: the directory with all its files.
    members: the members, in the order of `assessment.members`.
    rows: the numbers of validation rows and of test rows; 0 without test predictions.
    missing: for each member the number of validation rows that were left out, and of test rows that it lacks.
    files: the files that were written.
    without_train: the names of the members without training predictions, if others have some.
    """

    directory: Path
    class_names: list[str]
    members: list[Member]
    assessment: Assessment
    rows: tuple[int, int]
    missing: tuple[list[int], list[int]]
    files: list[Path]
    without_train: list[str]


def ensemble(settings: EnsembleSettings) -> Ensemble:
    """Blend the members that `settings.runs` names, and write all results into `settings.paths.output_dir`.

    Raises:
        InputError: a member is missing or cannot be used.
    """
    if settings.method not in ("auto", *settings.methods):
        raise InputError(
            f"method={settings.method}: expected auto or one of methods=[{','.join(settings.methods)}], found another. "
            f"Choose one of these, or add {settings.method} to methods."
        )
    directory = Path(settings.paths.output_dir)
    members = find_members(settings.runs, directory)
    class_names = check_same_classes(members)
    tested = _have_test(members)
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".joined-", dir=directory) as scratch:
        # All members are read and checked before any slow work, and before anything is written.
        val = align_validation(members, Path(scratch), allow_missing=settings.allow_missing)
        test = align_test(members, Path(scratch), allow_missing=settings.allow_missing) if tested else None
        taught = all(member.train for member in members)
        train = align_train(members, Path(scratch), allow_missing=settings.allow_missing) if taught else None
        folds = assign_folds(val.ids.to_pylist(), val.labels, folds=settings.folds, seed=settings.seed)
        rows = Rows(log_probabilities(val.probabilities), val.labels, folds)
        assessment = assess(
            rows,
            settings.methods,
            settings.method,
            offsets=settings.offsets,
            resamples=settings.resamples,
            seed=settings.seed,
        )
        _remove_earlier(directory, {"test": tested, "train": taught})
        files = [_write(directory, val, [assessment.probabilities], _provenance(directory, members, "val"))]
        if test is not None:
            blended = _blend_in_parts(test, assessment.blend)
            files.append(_write(directory, test, blended, _provenance(directory, members, "test")))
            files.append(directory / "submission.csv")
            write_submission(files[1], files[2], assessment.offsets)
        if train is not None:
            blended = _blend_in_parts(train, assessment.blend)
            files.append(_write(directory, train, blended, _provenance(directory, members, "train")))
    lacking = [0] * len(members) if test is None else np.logical_not(test.present).sum(1).tolist()
    left_out = [sum(len(read_ids(path)) for path in member.val) - len(val.ids) for member in members]
    counts = len(val.ids), 0 if test is None else len(test.ids)
    files.append(directory / "ensemble.json")
    without = [member.name for member in members if not member.train]
    result = Ensemble(
        directory=directory,
        class_names=class_names,
        members=members,
        assessment=assessment,
        rows=counts,
        missing=(left_out, lacking),
        files=files,
        without_train=without if len(without) < len(members) else [],
    )
    write_atomic(files[-1], json.dumps(_summary(result, settings), indent=2) + "\n")
    return result


def _remove_earlier(directory: Path, written: Mapping[str, bool]) -> None:
    """Remove an earlier blend's files of the splits that this one does not write. A run's own files are kept."""
    if (directory / "config.yaml").exists():
        return
    for split, is_written in written.items():
        if not is_written:
            (directory / "predictions" / f"{split}.parquet").unlink(missing_ok=True)
    if not written["test"]:
        (directory / "submission.csv").unlink(missing_ok=True)


def _have_test(members: Sequence[Member]) -> bool:
    """Return whether the members have test predictions. Raise `InputError` if only some of them have."""
    without = [member for member in members if not member.test]
    if without and len(without) < len(members):
        val, source = without[0].val[0], without[0].provenance
        ours = f"Write them with `python src/predict.py run={source.run} split=test`" if source.split else "Add them"
        raise InputError(
            f"{without[0].name}: expected test predictions, as other members have them, found none beside "
            f"{val}. {ours}, or leave the member out."
        )
    return not without


def _blend_in_parts(aligned: AlignedPredictions, blend: Blend) -> Iterator[Probabilities]:
    starts = range(0, len(aligned.ids), _BLENDED_AT_ONCE)
    for start in progress(starts, "Blending", len(starts)):
        rows = np.s_[:, start : start + _BLENDED_AT_ONCE]
        yield blend(log_probabilities(aligned.probabilities[rows]), aligned.present[rows])


def _write(
    directory: Path, aligned: AlignedPredictions, parts: Iterable[Probabilities], provenance: Provenance
) -> Path:
    path = directory / "predictions" / f"{provenance.split}.parquet"
    with PredictionsWriter(path, provenance.class_names) as writer:
        for probabilities in parts:
            rows = slice(writer.count, writer.count + len(probabilities))
            labels = [None if label == NO_LABEL else label for label in aligned.labels[rows].tolist()]
            writer.write(aligned.ids[rows].to_pylist(), labels, probabilities)
        writer.finish(provenance)
    return path


def _provenance(directory: Path, members: Sequence[Member], split: str) -> Provenance:
    """Return the blend's provenance. Its parameters and speed are those of all its members' models together."""
    sources = [member.provenance for member in members for _ in member.val]
    parameters = [source.parameters for source in sources]
    speeds = [source.images_per_second for source in sources]
    own = [read_provenance(path) for member in members for path in member.val]
    licences = {licence for source in own for licence in source.licence.split(", ") if licence}
    files = [path for member in members for path in (member.train if split == "train" else member.test)]
    return Provenance(
        run=str(directory),
        split=split,
        image_size=None,
        tta="none",
        class_names=sources[0].class_names,
        backbone=f"ensemble of {len(members)}",
        parameters=None if None in parameters else sum(each or 0 for each in parameters),
        images_per_second=1 / sum(1 / each for each in speeds if each) if all(speeds) else None,
        # Together the models of folds have seen every training and validation image, though none has seen all.
        trained_on="train+val" if split == "train" and any(source.folds for source in sources) else "train",
        skipped=max((read_provenance(path).skipped for path in files), default=0),
        licence=", ".join(sorted(licences)),
    )


def _summary(result: Ensemble, settings: EnsembleSettings) -> dict[str, Any]:
    """Return the contents of ensemble.json."""
    assessment = result.assessment
    offsets = assessment.offsets
    return {
        "method": assessment.method,
        "chosen_by": "cross-validation" if settings.method == "auto" else "the user",
        "macro_f1": asdict(assessment.ensemble),
        "methods": {method: asdict(scores) for method, scores in assessment.methods.items()},
        "best_member": result.members[assessment.best].name,
        "members": [
            {
                "name": member.name,
                **metadata_of(member.provenance),
                **asdict(scores),
                "validation_rows_left_out": left_out,
                "test_rows_missing": lacking,
                "sha256": {str(path): _digest(path) for path in [*member.val, *member.test, *member.train]},
            }
            for member, scores, left_out, lacking in zip(
                result.members, assessment.members, *result.missing, strict=True
            )
        ],
        "blend": {
            "temperatures": assessment.blend.temperatures.tolist(),
            "pool": type(assessment.blend.pool).__name__,
            **{
                field.name: getattr(assessment.blend.pool, field.name).tolist()
                for field in fields(assessment.blend.pool)
            },
        },
        "correlations": assessment.correlations.tolist(),
        "class_offsets": None if offsets is None else dict(zip(result.class_names, offsets.tolist(), strict=True)),
        "validation_rows": result.rows[0],
        "test_rows": result.rows[1],
        "sha256": {path.name: _digest(path) for path in result.files if path.is_file()},
        "settings": {name: getattr(settings, name) for name in _SETTINGS},
    }


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
