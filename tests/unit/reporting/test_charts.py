"""Charts hold the numbers that they are made from."""

from __future__ import annotations

import numpy as np
import pytest

from flowers.reporting import charts
from flowers.reporting.curves import Curve


def test_class_counts_are_sorted_by_the_first_split() -> None:
    train, val = charts.class_counts(["a", "b", "c"], {"train": np.array([1, 5, 3]), "val": np.array([2, 0, 1])}).data
    assert (train.name, list(train.x), list(train.y)) == ("train", ["b", "c", "a"], [5, 3, 1])
    assert (val.name, list(val.x), list(val.y)) == ("val", ["b", "c", "a"], [0, 1, 2])


@pytest.mark.parametrize("panels", [0, 1, 2, 3])
def test_learning_curves_have_a_panel_for_each_metric(panels: int) -> None:
    lines = {"train": Curve([0, 1], [2.0, 1.0]), "val": Curve([0, 1], [3.0, 2.0])}
    figure = charts.learning_curves({f"metric_{number}": lines for number in range(panels)})
    assert [title.text for title in figure.layout.annotations] == [f"metric {number}" for number in range(panels)]
    assert len({trace.xaxis for trace in figure.data}) == panels
    assert [list(trace.y) for trace in figure.data] == [[2.0, 1.0], [3.0, 2.0]] * panels
    assert [trace.name for trace in figure.data if trace.showlegend] == (["train", "val"] if panels else [])


@pytest.mark.parametrize("colour", [charts.NEUTRAL["text"], *charts.COLOURS])
def test_colours_have_enough_contrast_on_white_and_on_dark(colour: str) -> None:
    """The contrast of WCAG 2.2 is at least 3 to 1, with white and with the report's dark background."""
    for background in ("#ffffff", "#14181f"):
        dark, light = sorted([luminance(colour), luminance(background)])
        assert (light + 0.05) / (dark + 0.05) >= 3


def luminance(colour: str) -> float:
    """Return the relative luminance of `#rrggbb`, as WCAG 2.2 defines it."""
    parts = np.array([int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)])
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])
