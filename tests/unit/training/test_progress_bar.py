"""The progress bar shows durations in whole seconds."""

from __future__ import annotations

import pytest

from flowers.training.progress_bar import _duration


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0:00"), (59.6, "1:00"), (61, "1:01"), (3599, "59:59"), (3600, "1:00:00")]
)
def test_a_duration_is_rounded_to_seconds(seconds: float, text: str) -> None:
    assert _duration(seconds) == text
