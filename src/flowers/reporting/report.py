"""Write a run's report: one HTML file that needs no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from lightning.pytorch.utilities.model_helpers import is_overridden
from plotly.io import to_html
from plotly.offline import get_plotlyjs

from flowers.ensembling.scores import Estimate, estimate_macro_f1, log_loss
from flowers.reporting import charts
from flowers.reporting.analysis import CONFIDENCE, PredictionSets, prediction_sets, suspected_label_errors
from flowers.reporting.curves import Curve, read_curves
from flowers.reporting.photographs import Image, Photographs, as_uri, photographs_of
from flowers.reporting.saliency import overlay, saliency_maps
from flowers.system.atomic import write_atomic
from flowers.training.monitor import metric_label
from flowers.training.outcomes import Outcomes, reliability
from flowers.training.runs import Run

PAIRS, MISTAKES, LABEL_ERRORS = 8, 12, 12
"""How many of each a report shows."""

RESAMPLES = 500
"""Bootstrap resamples for the interval of macro F1."""

CURVES = ("loss", "accuracy", "macro_f1", "images_per_second")
"""Metrics whose curves are shown if the run has them, besides the monitored metric."""


@dataclass(frozen=True, slots=True)
class Headline:
    """A metric at the top of a report: the texts of its name, value and note."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class CaptionedImage:
    """An image in a report: uint8 `[H, W, 3]`, its alternative text, and the caption below."""

    image: Image
    description: str
    caption: str


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart in a report: its HTML, its alternative text, and its title."""

    html: str
    description: str
    title: str = ""


@dataclass(frozen=True, slots=True)
class PairShown:
    """A pair of confused classes, with images of both."""

    title: str
    mistakes: int
    images: list[CaptionedImage]


@dataclass(frozen=True, slots=True)
class MistakeShown:
    """A wrong prediction.

    identity: the image's id.
    truth, true_probability: the true class and its predicted probability.
    images: the image, and its saliency if there is one.
    likeliest: the most probable classes with their probabilities.
    """

    identity: str
    truth: str
    true_probability: float
    images: list[CaptionedImage]
    likeliest: list[tuple[str, float]]


@dataclass(frozen=True, slots=True)
class TableShown:
    """A table: its title, the names of its columns, and the text of its rows. A row's first cell is its name."""

    title: str
    columns: list[str]
    rows: list[list[str]]


@dataclass(frozen=True, slots=True)
class Report:
    """The contents of a report. A section that is empty or None is left out."""

    title: str
    subtitle: str
    command: str
    configuration: str
    headlines: list[Headline]
    tables: list[TableShown] = field(default_factory=list)
    comparisons: list[Chart] = field(default_factory=list)
    curves: list[Chart] = field(default_factory=list)
    classes: list[Any] = field(default_factory=list)
    confusion: Chart | None = None
    pairs: list[PairShown] = field(default_factory=list)
    mistakes: list[MistakeShown] = field(default_factory=list)
    label_errors: list[CaptionedImage] = field(default_factory=list)
    reliability: Chart | None = None
    sets: Chart | None = None
    sets_note: str = ""


def make_report(
    run: Run,
    metrics: Mapping[str, float],
    monitored: str,
    outcomes: Outcomes | None,
    model: L.LightningModule,
    datamodule: L.LightningDataModule,
    command: str,
) -> Report:
    """Make the report of a training or an evaluation.

    Args:
        run: the run.
        metrics: the final metrics, by name.
        monitored: the name of the metric that decided on the best checkpoint.
        outcomes: the best checkpoint's predictions of the validation split; None: the report has no section on them.
        model: the best checkpoint's model, for saliency.
        datamodule: the data module, which provides the images if it is a `ShowsImages`.
        command: the command that reproduces the run.
    """
    sections = {}
    if outcomes is not None:
        sections = outcome_sections(outcomes, photographs_of(datamodule, "val", outcomes), model)
    return Report(
        title=run.directory.name,
        subtitle=describe(run, datamodule),
        command=command,
        configuration=run.config_path.read_text() if run.config_path.exists() else "",
        headlines=_headlines(metrics, monitored, outcomes),
        curves=_curves(run, monitored),
        **sections,
    )


def write_report(report: Report, path: Path) -> None:
    """Write a report as one HTML file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, render(report))


def render(report: Report) -> str:
    """Return a report as an HTML page that includes the charting library."""
    environment = Environment(
        loader=PackageLoader("flowers.reporting"),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["uri"] = as_uri
    has_charts = any((report.comparisons, report.curves, report.confusion, report.reliability, report.sets))
    return environment.get_template("report.html").render(
        report=report, plotly=get_plotlyjs() if has_charts else "", confidence=CONFIDENCE
    )


def describe(run: Run, datamodule: L.LightningDataModule) -> str:
    """Return a run's model and the size of its images as a short text."""
    config = run.config()
    name = config.model.get("backbone") or str(config.model.get("_target_", "")).rpartition(".")[2]
    size = getattr(datamodule, "eval_size", None)
    return f"{name} at {size} px" if size else str(name)


def _headlines(metrics: Mapping[str, float], monitored: str, outcomes: Outcomes | None) -> list[Headline]:
    if outcomes is None:
        return [Headline(name, f"{value:.4f}") for name, value in metrics.items()]
    shown = outcome_headlines(outcomes)
    if "train/images_per_second" in metrics:
        shown.append(Headline("training speed", f"{metrics['train/images_per_second']:.0f}", "images/s"))
    if monitored not in ("val/macro_f1", "val/accuracy") and monitored in metrics:
        shown.insert(0, Headline(monitored, f"{metrics[monitored]:.4f}"))
    return shown


def outcome_headlines(outcomes: Outcomes) -> list[Headline]:
    """Return the metrics of predictions, macro F1 and accuracy with 95 % intervals."""
    count, classes = len(outcomes.labels), len(outcomes.class_names)
    macro_f1 = estimate_macro_f1(outcomes.labels, outcomes.predicted, classes, resamples=RESAMPLES, seed=0)
    correct = outcomes.predicted == outcomes.labels
    return [
        Headline("macro F1", f"{macro_f1.value:.3f}", interval_text(macro_f1)),
        Headline("accuracy", f"{correct.mean():.3f}", interval_text(_wilson(int(correct.sum()), count))),
        Headline("log loss", f"{log_loss(outcomes.labels, outcomes.probabilities):.3f}"),
        Headline("calibration error", f"{reliability(outcomes)[1]:.3f}"),
        Headline("images", f"{count:,}", f"{classes} classes"),
    ]


def interval_text(estimate: Estimate) -> str:
    """Return the bounds of an interval as text."""
    return f"{estimate.low:.3f} to {estimate.high:.3f}"


def _wilson(hits: int, count: int) -> Estimate:
    """Return a fraction with its 95 % confidence interval: Wilson 1927, doi:10.1080/01621459.1927.10502953."""
    z, fraction = 1.96, hits / max(count, 1)
    centre = (fraction + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * float(np.sqrt(fraction * (1 - fraction) / count + z * z / (4 * count * count)))
    return Estimate(fraction, max(0.0, centre - half), min(1.0, centre + half))


def _curves(run: Run, monitored: str) -> list[Chart]:
    read = read_curves(run)
    names = [name for name in dict.fromkeys((*CURVES, monitored.rpartition("/")[2])) if name in read]
    return [_curve(metric_label(name), read[name]) for name in names]


def _curve(title: str, lines: Mapping[str, Curve]) -> Chart:
    last = ", ".join(f"{split} {curve.values[-1]:.3f}" for split, curve in sorted(lines.items()))
    epochs = max(curve.epochs[-1] for curve in lines.values())
    return make_chart(charts.learning_curve(lines), f"{title} by epoch. In epoch {epochs}: {last}.", title=title)


def outcome_sections(
    outcomes: Outcomes, photographs: Photographs, model: L.LightningModule | None = None
) -> dict[str, Any]:
    """Return the sections on predictions, by the names of `Report`'s fields.

    Args:
        outcomes: the predictions of a labelled split.
        photographs: the split's images.
        model: the model, for saliency; None: without saliency.
    """
    bins, error = reliability(outcomes)
    correct = int((outcomes.predicted == outcomes.labels).sum())
    return {
        "classes": sorted(outcomes.class_scores(), key=lambda score: (score.f1, score.name)),
        "confusion": make_chart(
            charts.confusion_matrix(outcomes),
            f"Confusion matrix: {correct} of {len(outcomes.labels)} images are on its diagonal.",
            name="confusion",
        ),
        "pairs": _pairs(outcomes, photographs),
        "mistakes": _mistakes(outcomes, model, photographs),
        "label_errors": _label_errors(outcomes, photographs),
        "reliability": make_chart(
            charts.reliability_diagram(bins), f"Reliability diagram. The expected calibration error is {error:.3f}."
        ),
        **_sets(prediction_sets(outcomes)),
    }


def _sets(found: PredictionSets | None) -> dict[str, Any]:
    if found is None:
        return {}
    single = float((found.sizes == 1).mean())
    return {
        "sets": make_chart(
            charts.set_sizes(found.sizes), f"Sizes of the prediction sets: {single:.0%} have a single class."
        ),
        "sets_note": f"{found.coverage:.1%} of the sets contain the true class; on average a set has "
        f"{found.sizes.mean():.1f} classes.",
    }


def make_chart(figure: go.Figure, description: str, *, title: str = "", name: str | None = None) -> Chart:
    """Convert a plotly figure to a chart.

    Args:
        figure: the figure, with a transparent background.
        description: the chart's alternative text.
        title: the chart's title.
        name: the id of its element in the page.
    """
    config = {"displayModeBar": False, "responsive": True}
    return Chart(to_html(figure, config, include_plotlyjs=False, full_html=False, div_id=name), description, title)


def _pairs(outcomes: Outcomes, photographs: Photographs) -> list[PairShown]:
    names = outcomes.class_names
    shown = []
    for pair in outcomes.confused_pairs(PAIRS):
        images = []
        for own, other in ((pair.one, pair.other), (pair.other, pair.one)):
            for predicted, note in ((other, f"predicted as {names[other]}"), (own, "predicted correctly")):
                rows = np.flatnonzero((outcomes.labels == own) & (outcomes.predicted == predicted))[:1]
                images += _caption_images(photographs, rows.tolist(), [f"{names[own]}, {note}"])
        shown.append(PairShown(f"{names[pair.one]} and {names[pair.other]}", pair.mistakes, images))
    return shown


def _caption_images(photographs: Photographs, rows: Sequence[int], captions: Sequence[str]) -> list[CaptionedImage]:
    images = photographs.images(rows) if photographs else []
    return [
        CaptionedImage(image, f"Image of {caption}", caption) for image, caption in zip(images, captions, strict=False)
    ]


def _mistakes(outcomes: Outcomes, model: L.LightningModule | None, photographs: Photographs) -> list[MistakeShown]:
    rows = outcomes.worst_mistakes(MISTAKES).tolist()
    explained: list[CaptionedImage | None] = [None] * len(rows)
    if photographs and model is not None and is_overridden("forward", model, L.LightningModule):
        images = photographs.images(rows)
        maps = saliency_maps(model, images, [int(outcomes.predicted[row]) for row in rows])
        explained = [
            CaptionedImage(overlay(image, found), f"Saliency of {outcomes.ids[row]}", "saliency")
            for row, image, found in zip(rows, images, maps, strict=True)
        ]
    return [_mistake(outcomes, row, photographs, saliency) for row, saliency in zip(rows, explained, strict=True)]


def _mistake(outcomes: Outcomes, row: int, photographs: Photographs, saliency: CaptionedImage | None) -> MistakeShown:
    probabilities = outcomes.probabilities[row]
    likeliest = np.argsort(-probabilities, kind="stable")[:3]
    own = _caption_images(
        photographs, [row], [f"{outcomes.class_names[int(outcomes.labels[row])]}, {outcomes.ids[row]}"]
    )
    return MistakeShown(
        identity=outcomes.ids[row],
        truth=outcomes.class_names[int(outcomes.labels[row])],
        true_probability=float(outcomes.true_probability[row]),
        images=[*own, *([saliency] if saliency else [])],
        likeliest=[(outcomes.class_names[int(label)], float(probabilities[label])) for label in likeliest],
    )


def _label_errors(outcomes: Outcomes, photographs: Photographs) -> list[CaptionedImage]:
    rows = suspected_label_errors(outcomes, LABEL_ERRORS).tolist()
    names = outcomes.class_names
    captions = [
        f"labelled {names[int(outcomes.labels[row])]}, predicted as {names[int(outcomes.predicted[row])]} "
        f"({outcomes.confidence[row]:.0%}); id {outcomes.ids[row]}"
        for row in rows
    ]
    return _caption_images(photographs, rows, captions)
