"""Make the report of an ensemble: a comparison of its members and methods, and its out-of-fold predictions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flowers.ensembling.ensemble import Ensemble
from flowers.ensembling.members import Member
from flowers.errors import InputError
from flowers.interfaces import ShowsImages
from flowers.reporting import charts
from flowers.reporting.photographs import Image, Photographs
from flowers.reporting.report import (
    Chart,
    Headline,
    Report,
    TableShown,
    interval_text,
    make_chart,
    outcome_headlines,
    outcome_sections,
)
from flowers.training.outcomes import Outcomes
from flowers.training.predictions import read_ids, read_outcomes, read_provenance
from flowers.training.runs import Run

SHOWN_CORRELATIONS = 24
"""The largest number of members for which the correlations are drawn."""


def make_ensemble_report(result: Ensemble, command: str) -> Report:
    """Make the report of an ensemble.

    Its metrics and images come from the validation split, predicted out of fold: the blend that predicts an image was
    not fitted to it.

    Args:
        result: the ensemble, after its predictions have been written.
        command: the command that reproduces it.
    """
    outcomes = read_outcomes(result.directory / "predictions" / "val.parquet", result.class_names)
    gain = result.assessment.ensemble.gain
    return Report(
        title=result.directory.name,
        subtitle=f"{len(result.members)} members, blended by {result.assessment.method}",
        command=command,
        configuration="",
        headlines=[
            *outcome_headlines(outcomes),
            Headline("gain over the best member", f"{gain.value:+.3f}", interval_text(gain)),
        ],
        tables=[_members(result), _methods(result)],
        comparisons=_comparisons(result),
        **outcome_sections(outcomes, photographs_of_members(result.members, outcomes)),
    )


def photographs_of_members(members: Sequence[Member], outcomes: Outcomes) -> Photographs:
    """Return the images of an ensemble's outcomes, from the data of the first member whose data are available.

    There are none if other programs wrote the predictions, or if the runs or their data are gone.
    """
    for member in members:
        sources = [source for path in member.val if (source := _source(path)) is not None]
        places = {identity: place for source in sources for identity, place in source.items()}
        if len(sources) == len(member.val) and all(identity in places for identity in outcomes.ids):
            return Photographs(lambda rows, own=places: _fetch([own[outcomes.ids[row]] for row in rows]))  # type: ignore[misc]
    return Photographs(None)


def _source(path: Path) -> dict[str, tuple[ShowsImages, int]] | None:
    """Return the run's data module and the position in the split of each image of a predictions file, by id."""
    provenance = read_provenance(path)
    if not provenance.split or provenance.skipped:  # skipped records have no row, so positions would not agree
        return None
    try:
        datamodule = Run(Path(provenance.run)).load_data()
    except (InputError, OSError):
        return None
    if not isinstance(datamodule, ShowsImages):
        return None
    return {identity: (datamodule, place) for place, identity in enumerate(read_ids(path).to_pylist())}


def _fetch(places: Sequence[tuple[ShowsImages, int]]) -> list[Image]:
    return [source.images("val", [place])[0] for source, place in places]


def _short_names(result: Ensemble) -> list[str]:
    """Return the members' numbers, with their resolutions if known: short enough for a phone."""
    sizes = [member.provenance.image_size for member in result.members]
    return [f"{number}: {size} px" if size else str(number) for number, size in enumerate(sizes, start=1)]


def _titles(result: Ensemble) -> list[str]:
    return [f"{number} {member.title}" for number, member in enumerate(result.members, start=1)]


def _comparisons(result: Ensemble) -> list[Chart]:
    assessment = result.assessment
    members = _short_names(result)
    names = [*members, *assessment.methods, f"ensemble: {assessment.method}"]
    estimates = [
        *(own.macro_f1 for own in assessment.members),
        *(own.validated for own in assessment.methods.values()),
        assessment.ensemble.validated,
    ]
    groups = ["member"] * len(members) + ["method"] * len(assessment.methods) + ["ensemble"]
    best, ensemble = assessment.members[assessment.best].macro_f1.value, assessment.ensemble.validated.value
    shown = [
        make_chart(
            charts.scores_with_intervals(names, groups, estimates),
            f"Macro F1. Best member: {best:.3f}. Ensemble: {ensemble:.3f}.",
            title="Macro F1 with 95 % intervals; methods and ensemble cross-validated",
        )
    ]
    sizes = [member.provenance.image_size for member in result.members]
    if len(set(sizes)) > 1 and None not in sizes:
        backbones = [member.provenance.backbone or "unknown" for member in result.members]
        values = [own.macro_f1.value for own in assessment.members]
        described = ", ".join(f"{value:.3f} at {size} px" for size, value in zip(sizes, values, strict=True))
        figure = charts.scores_by_resolution([size or 0 for size in sizes], backbones, values)
        shown.append(make_chart(figure, f"Macro F1 by resolution: {described}.", title="Members by resolution"))
    if 2 <= len(members) <= SHOWN_CORRELATIONS:
        lowest = float(assessment.correlations.min())
        figure = charts.correlation_matrix(members, assessment.correlations)
        described = f"Correlations of the members' probabilities of the true class; the lowest is {lowest:.2f}."
        shown.append(make_chart(figure, described, title="Correlations: lower ones leave more for a blend to gain"))
    return shown


def _members(result: Ensemble) -> TableShown:
    columns = ["member", "macro F1", "interval", "log loss", "weight", "leave-one-out gain", "parameters", "images/s"]
    rows = []
    for title, member, own in zip(_titles(result), result.members, result.assessment.members, strict=True):
        source = member.provenance
        rows.append(
            [
                title,
                f"{own.macro_f1.value:.4f}",
                interval_text(own.macro_f1),
                f"{own.log_loss:.3f}",
                f"{own.weight:.3f}",
                "" if own.adds is None else f"{own.adds:+.4f}",
                f"{source.parameters / 1e6:.1f} M" if source.parameters else "",
                f"{source.images_per_second:.0f}" if source.images_per_second else "",
            ]
        )
    return TableShown("Members", columns, rows)


def _methods(result: Ensemble) -> TableShown:
    columns = ["method", "cross-validated", "interval", "on the fitted rows", "gain", "interval of the gain"]
    assessment = result.assessment
    offsets = " with offsets" if assessment.offsets is not None else ""
    scored = [*assessment.methods.items(), (f"ensemble: {assessment.method}{offsets}", assessment.ensemble)]
    rows = [
        [
            name,
            f"{own.validated.value:.4f}",
            interval_text(own.validated),
            f"{own.fitted.value:.4f}",
            f"{own.gain.value:+.4f}",
            interval_text(own.gain),
        ]
        for name, own in scored
    ]
    return TableShown("Methods", columns, rows)
