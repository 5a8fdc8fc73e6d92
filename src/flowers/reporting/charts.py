"""Draw the charts of a report with plotly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from flowers.ensembling.scores import Estimate
from flowers.reporting.curves import Curve
from flowers.training.outcomes import Outcomes, ReliabilityBin

COLOURS = ("#4c78a8", "#dc7633", "#3a9d6f", "#b2568e")
"""Colours of lines and bars. Each has a contrast of 3 to 1 with white and with the dark background."""

NEUTRAL = {"text": "#7a828e", "lines": "rgba(128, 128, 128, 0.25)"}
"""Colours that are legible on white and on dark backgrounds. A report's script replaces them."""

HEIGHT = 340
"""The default height of a chart, in pixels."""


def learning_curve(lines: Mapping[str, Curve]) -> go.Figure:
    """Draw a metric over epochs, with a line for each split."""
    figure = go.Figure()
    for colour, (split, curve) in zip(COLOURS, sorted(lines.items()), strict=False):
        figure.add_scatter(x=curve.epochs, y=curve.values, name=split, mode="lines+markers", line={"color": colour})
    last = max(curve.epochs[-1] for curve in lines.values())
    figure.update_xaxes(title_text="epoch", dtick=_epoch_step(last))
    figure.update_layout(showlegend=True)
    return _style(figure, height=280)


def learning_curves(metrics: Mapping[str, Mapping[str, Curve]]) -> go.Figure:
    """Draw several metrics over epochs, each in its own panel."""
    titles = [name.replace("_", " ") for name in metrics]
    rows = max(1, -(-len(metrics) // 2))
    figure = make_subplots(rows, 2, subplot_titles=titles, horizontal_spacing=0.08, vertical_spacing=0.3 / rows)
    shown: set[str] = set()
    for place, lines in enumerate(metrics.values()):
        for trace in learning_curve(lines).data:
            trace.update(legendgroup=trace.name, showlegend=trace.name not in shown)
            shown.add(trace.name)
            figure.add_trace(trace, row=place // 2 + 1, col=place % 2 + 1)
    last = max((curve.epochs[-1] for lines in metrics.values() for curve in lines.values()), default=0)
    figure.update_xaxes(title_text="epoch", title_standoff=0, dtick=_epoch_step(last))
    return _style(figure, height=60 + 250 * rows)


def _epoch_step(last: int) -> int:
    """Return the number of epochs between two ticks, for at most ten ticks."""
    return -(-max(last, 1) // 10)


def class_counts(class_names: Sequence[str], counts: Mapping[str, NDArray[np.int64]]) -> go.Figure:
    """Draw how many images each class has, int64 `[K]` by split, in the order of the first split's counts."""
    order = np.argsort(-next(iter(counts.values())), kind="stable")
    figure = go.Figure()
    for colour, (split, own) in zip(COLOURS, counts.items(), strict=False):
        figure.add_bar(
            x=[class_names[label] for label in order], y=own[order].tolist(), name=split, marker={"color": colour}
        )
    figure.update_xaxes(tickangle=-90, tickfont={"size": 9}, dtick=1, automargin=True, showgrid=False)
    figure.update_yaxes(title_text="images")
    figure.update_layout(barmode="stack", showlegend=True, bargap=0.1)
    return _style(figure, height=480)


def confusion_matrix(outcomes: Outcomes) -> go.Figure:
    """Draw the confusion matrix, with one colour for correct predictions and one for mistakes.

    The page's script narrows it to the classes of a search.
    """
    names, confusion = list(outcomes.class_names), outcomes.confusion
    correct = np.diag(confusion.diagonal())
    figure = go.Figure()
    for counts, colours in ((correct, (COLOURS[0], "#16355c")), (confusion - correct, (COLOURS[1], "#9c1c1c"))):
        figure.add_heatmap(
            z=[[count or None for count in row] for row in counts.tolist()],  # plotly leaves the cell empty for None
            x=names,
            y=names,
            colorscale=[[0, colours[0]], [1, colours[1]]],
            showscale=False,
            hovertemplate="%{y}<br>predicted as %{x}: %{z}<extra></extra>",
        )
    figure.update_xaxes(title_text="predicted", tickangle=-60, automargin=True)
    figure.update_yaxes(title_text="true class", autorange="reversed", automargin=True)
    return _style(figure, height=720)


def reliability_diagram(bins: Sequence[ReliabilityBin]) -> go.Figure:
    """Draw the accuracy in each interval of confidence, and the line of a calibrated model."""
    figure = go.Figure(
        go.Bar(
            x=[part.confidence for part in bins],
            y=[part.accuracy for part in bins],
            width=[(part.high - part.low) * 0.9 for part in bins],
            customdata=[part.count for part in bins],
            hovertemplate="confidence %{x:.2f}, accuracy %{y:.2f}, %{customdata} images<extra></extra>",
            marker={"color": COLOURS[0]},
            name="model",
        )
    )
    figure.add_scatter(x=[0, 1], y=[0, 1], mode="lines", name="calibrated", line={"dash": "dash", "color": COLOURS[1]})
    figure.update_xaxes(title_text="confidence", range=[0, 1])
    figure.update_yaxes(title_text="accuracy", range=[0, 1])
    return _style(figure)


def set_sizes(sizes: NDArray[np.int64]) -> go.Figure:
    """Draw how many images have a prediction set of each size; `sizes` are int64 `[N]`."""
    found, counts = np.unique(sizes, return_counts=True)
    figure = go.Figure(go.Bar(x=found.tolist(), y=counts.tolist(), marker={"color": COLOURS[0]}))
    figure.update_xaxes(title_text="classes in the set", dtick=1 if len(found) < 20 else None)
    figure.update_yaxes(title_text="images")
    return _style(figure)


def scores_with_intervals(names: Sequence[str], groups: Sequence[str], estimates: Sequence[Estimate]) -> go.Figure:
    """Draw scores with their intervals, one below the other, with a colour for each group."""
    figure = go.Figure()
    for colour, group in zip(COLOURS, dict.fromkeys(groups), strict=False):
        own = [place for place, name in enumerate(groups) if name == group]
        shown = [estimates[place] for place in own]
        figure.add_scatter(
            x=[estimate.value for estimate in shown],
            y=[names[place] for place in own],
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [estimate.high - estimate.value for estimate in shown],
                "arrayminus": [estimate.value - estimate.low for estimate in shown],
            },
            mode="markers",
            marker={"color": colour, "size": 9},
            name=group,
        )
    figure.update_xaxes(title_text="macro F1", tickformat=".3~f")
    figure.update_yaxes(autorange="reversed", automargin=True, type="category")
    figure.update_layout(showlegend=False)
    return _style(figure, height=140 + 32 * len(names))


def scores_by_resolution(resolutions: Sequence[int], backbones: Sequence[str], values: Sequence[float]) -> go.Figure:
    """Draw scores over the resolution in pixels, with a line for each backbone."""
    figure = go.Figure()
    for colour, backbone in zip(COLOURS, dict.fromkeys(backbones), strict=False):
        own = sorted(zip(resolutions, values, backbones, strict=True))
        points = [(size, value) for size, value, name in own if name == backbone]
        x, y = zip(*points, strict=True)
        figure.add_scatter(x=x, y=y, name=backbone, mode="lines+markers", line={"color": colour})
    figure.update_xaxes(title_text="resolution in pixels", tickvals=sorted(set(resolutions)))
    figure.update_yaxes(title_text="macro F1")
    figure.update_layout(showlegend=True)
    return _style(figure, height=300)


def correlation_matrix(names: Sequence[str], correlations: NDArray[np.float64]) -> go.Figure:
    """Draw the correlations of members, float64 `[M, M]`, with each number in its cell."""
    figure = go.Figure(
        go.Heatmap(
            z=correlations.tolist(),
            x=list(names),
            y=list(names),
            zmin=0,
            zmax=1,
            colorscale=[[0, "#e8eef6"], [1, "#16355c"]],
            texttemplate="%{z:.2f}",
            hovertemplate="%{y}<br>%{x}: %{z:.3f}<extra></extra>",
            showscale=False,
        )
    )
    figure.update_xaxes(automargin=True, type="category")
    figure.update_yaxes(autorange="reversed", automargin=True, type="category")
    return _style(figure, height=140 + 36 * len(names))


def _style(figure: go.Figure, height: int = HEIGHT) -> go.Figure:
    """Set a chart's layout, with a transparent background: the page may be dark."""
    for update in (figure.update_xaxes, figure.update_yaxes):
        update(gridcolor=NEUTRAL["lines"], zerolinecolor=NEUTRAL["lines"])
    return figure.update_layout(
        height=height,
        margin={"l": 50, "r": 20, "t": 40, "b": 50},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        legend={"orientation": "h", "y": 1.15},
        font={"family": "system-ui, sans-serif", "color": NEUTRAL["text"]},
    )
