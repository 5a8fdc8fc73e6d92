"""Find the members of an ensemble and their predictions files, and check that they can be used."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flowers.data.class_names import class_difference
from flowers.errors import InputError
from flowers.training.predictions import Provenance, read_provenance

_VAL = re.compile(r"(?<![a-z])val(idation)?(?![a-z])")
"""The word that marks a file of validation predictions in its name."""


@dataclass(frozen=True, slots=True)
class Member:
    """The predictions of one model, or of the models of all folds of one data set with one recipe.

    name: the runs' directories, or the validation files, as they were given.
    val: files with rows that the model was not trained on. Those of folds have different rows.
    test: files with all test rows. Those of folds are averaged. Empty if the test split was not predicted.
    provenance: the first model's provenance.
    train: files with the rows that each model was trained on. Empty if one of the models has not predicted them.
    """

    name: str
    val: list[Path]
    test: list[Path]
    provenance: Provenance
    train: list[Path] = field(default_factory=list)

    @property
    def title(self) -> str:
        """Describe the model briefly: backbone, resolution, test-time augmentation and folds."""
        source = self.provenance
        size = f"{source.image_size} px" if source.image_size else ""
        if source.eval_size not in (None, source.image_size):
            size += f" seen at {source.eval_size}"
        tta = f"TTA {source.tta}" if source.tta not in ("", "none") else ""
        folds = f"{len(self.val)} of {source.folds} folds" if source.folds else ""
        return ", ".join(part for part in (source.backbone, size, tta, folds) if part) or self.name


def find_members(runs: Sequence[str], own: Path | None = None) -> list[Member]:
    """Find the members that are given as run directories, parquet files or glob patterns, in their order.

    Args:
        runs: directories, files, or glob patterns of them.
        own: the ensemble's own directory, which is left out where a pattern matches it.

    Raises:
        InputError: nothing was found; a file has no predictions, or has rows that the model was trained on; a file, a
            fold or a model is given twice; or the files of a member differ in their classes or weights.
    """
    files = [path for entry in runs for path in _val_files(entry, own)]
    seen: set[Path] = set()
    for path in files:
        if path.resolve() in seen:
            raise InputError(f"{path}: expected each member once, found it twice in runs. Leave one out.")
        seen.add(path.resolve())
    if not files:
        raise InputError("runs=[]: expected run directories or predictions files, found none. Give runs=[DIR,DIR].")
    siblings: dict[object, list[tuple[Path, Provenance]]] = {}
    for path in files:
        provenance = read_provenance(path)
        _check_unseen(path, provenance)
        key = (provenance.recipe, provenance.image_size, provenance.tta) if provenance.folds else path
        siblings.setdefault(key, []).append((path, provenance))
    _check_each_model_once([own for group in siblings.values() for own in group])
    return [_member(group) for group in siblings.values()]


def _val_files(entry: str, own: Path | None) -> list[Path]:
    path = Path(entry)
    if path.exists():
        return [_val_file(path)]
    matches = [Path(match) for match in sorted(glob.glob(entry))]  # noqa: PTH207 - a pattern may be absolute
    others = [match for match in matches if own is None or match.resolve() != own.resolve()]
    found = [_val_file(match) for match in others if match.is_dir() or match.suffix == ".parquet"]
    if not found:
        raise InputError(
            f"runs: {entry}: no such file or directory. Expected a run's directory (python src/train.py prints it), a "
            "predictions file, or a pattern of them in quotes: 'runs=[\"logs/train/multiruns/NAME/*\"]'."
        )
    return found


def _val_file(path: Path) -> Path:
    if path.is_file():
        if path.suffix != ".parquet" or not _VAL.search(path.name):
            raise InputError(
                f"{path}: expected the validation predictions, in a parquet file with val in its name, found another. "
                "Give val.parquet; test.parquet beside it is found by its name."
            )
        return path
    for directory in (path / "predictions", path):
        if (directory / "val.parquet").is_file():
            return directory / "val.parquet"
    raise InputError(
        f"{path}: expected predictions/val.parquet in it, found none. Write it with `python src/predict.py run={path} "
        "split=val`."
    )


def _file_of(split: str, val: Path) -> Path:
    """Return the path of another split's predictions: its name replaces the last "val" in the file's name."""
    *_, last = _VAL.finditer(val.name)
    return val.with_name(f"{val.name[: last.start()]}{split}{val.name[last.end() :]}")


def _check_unseen(path: Path, provenance: Provenance) -> None:
    if provenance.split not in ("", "val"):
        raise InputError(
            f"{path}: expected validation predictions, found those of the {provenance.split} split"
            + (", which the model was trained on" if provenance.split == "train" else "")
            + f". Write them with `python src/predict.py run={provenance.run} split=val`."
        )
    if provenance.split and not provenance.trained_on:
        raise InputError(
            f"{path}: expected a record of what the model was trained on, found predictions of an earlier version. "
            f"Write them again with `python src/predict.py run={provenance.run} split=val`."
        )
    if provenance.trained_on not in ("", "train"):
        raise InputError(
            f"{path}: expected predictions of images that the model was not trained on, found a model trained on "
            f"{provenance.trained_on} (data.train_on of {provenance.run}). Its validation metrics mean nothing. Give a "
            "run with data.train_on=train, or runs in folds (data.folds, data.fold)."
        )


def _member(group: Sequence[tuple[Path, Provenance]]) -> Member:
    _check_folds(group)
    val = [path for path, _ in group]
    test = [_file_of("test", path) for path in val]
    there = [path for path in test if path.is_file()]
    if there and len(there) < len(test):
        missing, run = next((file, own.run) for file, (_, own) in zip(test, group, strict=True) if file not in there)
        raise InputError(
            f"{missing}: no such file, though other folds of the member have one. Write it with `python src/predict.py "
            f"run={run} split=test`."
        )
    first = group[0][1]
    for path, provenance in group:
        if differing := class_difference(first.class_names, provenance.class_names):
            raise InputError(f"{path}: expected the classes of {val[0]}, found {differing}. Predict both again.")
    for path, (own, provenance) in zip(there, group, strict=False):
        _check_weights_recorded(own, provenance)
        _check_same_model(path, "test", read_provenance(path), provenance)
    return Member(" + ".join(_name(path) for path in val), val, there, first, _train_files(group))


def _train_files(group: Sequence[tuple[Path, Provenance]]) -> list[Path]:
    """Return the training predictions of a member's models, or an empty list unless all of them have some."""
    files = [_file_of("train", path) for path, _ in group]
    if not all(path.is_file() for path in files):
        return []
    for path, (own, provenance) in zip(files, group, strict=True):
        _check_weights_recorded(own, provenance)
        _check_same_model(path, "train", read_provenance(path), provenance)
    return files


def _check_each_model_once(files: Sequence[tuple[Path, Provenance]]) -> None:
    """Raise `InputError` if two files have predictions of the same weights with the same views.

    A copied run would count twice in the blend, and its correlation with itself would look like agreement.
    """
    known: dict[tuple[object, ...], Path] = {}
    for path, source in files:
        key = (source.weights, source.image_size, source.eval_size, source.tta)
        if source.weights and key in known:
            raise InputError(
                f"{path}: expected each model once, found the weights and views of {known[key]} again. Leave one out."
            )
        known[key] = path


def _name(val: Path) -> str:
    """Return the run's directory if the file is inside one, or else the file."""
    return str(val.parent.parent if val.parent.name == "predictions" else val)


def _check_same_model(path: Path, split: str, other: Provenance, val: Provenance) -> None:
    """Raise `InputError` unless a split was predicted by the same model and with the same views as validation."""
    if other.split not in ("", split):
        raise InputError(
            f"{path}: expected predictions of the {split} split, found those of {other.split}. Predict again."
        )
    if differing := class_difference(val.class_names, other.class_names):
        raise InputError(
            f"{path}: expected the classes of the validation predictions, found {differing}. Predict again."
        )
    if not (other.split and val.split):
        return
    for what in ("recipe", "fold", "image_size", "eval_size", "tta", "weights"):
        expected, found = getattr(val, what), getattr(other, what)
        if found != expected:
            raise InputError(
                f"{path}: expected the {what} of the validation predictions, {expected}, found {found}: weights fitted "
                "to one would be applied to the other. Predict both splits again, with the same settings."
            )


def _check_weights_recorded(path: Path, val: Provenance) -> None:
    """Raise `InputError` if a run's validation predictions do not record the model's weights.

    Only `predict.py` records a recipe. Ensembles and files of other programs have neither.
    """
    if val.recipe and not val.weights:
        raise InputError(
            f"{path}: expected a digest of the model's weights, by which the test predictions are compared, found "
            "predictions of an earlier version. Write both splits again with "
            f"`python src/predict.py --multirun run={val.run} split=val,test`."
        )


def _check_folds(group: Sequence[tuple[Path, Provenance]]) -> None:
    runs: dict[int, str] = {}
    for _, provenance in group:
        if provenance.fold is None:
            continue
        if provenance.fold in runs:
            raise InputError(
                f"{provenance.run}: expected each fold of a recipe once, found fold {provenance.fold} in "
                f"{runs[provenance.fold]} as well. Leave one out."
            )
        runs[provenance.fold] = provenance.run
