"""Draw the charts of a report with plotly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from flowers.ensembling.scores import Estimate
from flowers.reporting.curves import Curve
from flowers.training.outcomes import Outcomes, ReliabilityBin

COLOURS = ("#4c78a8", "#e07b39", "#3a9d6f", "#b2568e")
"""For lines and bars; each has a contrast of 3 to 1 with white and with the dark background."""

HEIGHT = 340


def learning_curve(lines: Mapping[str, Curve]) -> go.Figure:
    """Draw a metric over epochs, a line for each split."""
    figure = go.Figure()
    for colour, (split, curve) in zip(COLOURS, sorted(lines.items()), strict=False):
        figure.add_scatter(x=curve.epochs, y=curve.values, name=split, mode="lines+markers", line={"color": colour})
    last = max(curve.epochs[-1] for curve in lines.values())
    figure.update_xaxes(title_text="epoch", dtick=-(-max(last, 1) // 10))  # whole epochs, ten of them at most
    figure.update_layout(showlegend=True)
    return _styled(figure, height=280)


def confusion_matrix(outcomes: Outcomes) -> go.Figure:
    """Draw the numbers of images by true class and predicted class, correct ones and mistakes in colours of their own.

    The page's script narrows both to the classes that are searched for.
    """
    names, confusion = list(outcomes.class_names), outcomes.confusion
    correct = np.diag(confusion.diagonal())
    figure = go.Figure()
    for counts, colours in ((correct, (COLOURS[0], "#16355c")), (confusion - correct, (COLOURS[1], "#9c1c1c"))):
        figure.add_heatmap(
            z=[[count or None for count in row] for row in counts.tolist()],  # nothing is drawn for none
            x=names,
            y=names,
            colorscale=[[0, colours[0]], [1, colours[1]]],
            showscale=False,
            hovertemplate="%{y}<br>predicted as %{x}: %{z}<extra></extra>",
        )
    figure.update_xaxes(title_text="predicted", tickangle=-60, automargin=True)
    figure.update_yaxes(title_text="true class", autorange="reversed", automargin=True)
    return _styled(figure, height=720)


def reliability_diagram(bins: Sequence[ReliabilityBin]) -> go.Figure:
    """Draw the accuracy of the images in each interval of confidence, beside what it would be if calibrated."""
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
    return _styled(figure)


def set_sizes(sizes: NDArray[np.int64]) -> go.Figure:
    """Draw how many images have a prediction set of each size."""
    found, counts = np.unique(sizes, return_counts=True)
    figure = go.Figure(go.Bar(x=found.tolist(), y=counts.tolist(), marker={"color": COLOURS[0]}))
    figure.update_xaxes(title_text="classes in the set", dtick=1 if len(found) < 20 else None)
    figure.update_yaxes(title_text="images")
    return _styled(figure)


def scores_with_intervals(names: Sequence[str], groups: Sequence[str], estimates: Sequence[Estimate]) -> go.Figure:
    """Draw scores with their intervals, one below the other, each group in a colour of its own."""
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
    return _styled(figure, height=140 + 32 * len(names))


def scores_by_resolution(resolutions: Sequence[int], backbones: Sequence[str], values: Sequence[float]) -> go.Figure:
    """Draw scores over the resolution, a line for each backbone."""
    figure = go.Figure()
    for colour, backbone in zip(COLOURS, dict.fromkeys(backbones), strict=False):
        own = sorted(zip(resolutions, values, backbones, strict=True))
        points = [(size, value) for size, value, name in own if name == backbone]
        x, y = zip(*points, strict=True)
        figure.add_scatter(x=x, y=y, name=backbone, mode="lines+markers", line={"color": colour})
    figure.update_xaxes(title_text="resolution in pixels", tickvals=sorted(set(resolutions)))
    figure.update_yaxes(title_text="macro F1")
    figure.update_layout(showlegend=True)
    return _styled(figure, height=300)


def correlation_matrix(names: Sequence[str], correlations: NDArray[np.float64]) -> go.Figure:
    """Draw the correlations `[M, M]` of members, each number in its cell."""
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
    return _styled(figure, height=140 + 36 * len(names))


def _styled(figure: go.Figure, height: int = HEIGHT) -> go.Figure:
    """Leave the background to the page, which may be dark."""
    return figure.update_layout(
        height=height,
        margin={"l": 50, "r": 20, "t": 40, "b": 50},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        legend={"orientation": "h", "y": 1.15},
        font={"family": "system-ui, sans-serif"},
    )
