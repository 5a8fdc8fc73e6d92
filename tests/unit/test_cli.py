"""A configuration composed in Python equals the one that a command gets."""

from __future__ import annotations

import pytest
from hydra.errors import ConfigCompositionException

from flowers.cli import compose
from tests.helpers.configuration import compose_config


def test_overrides_choose_groups_and_values() -> None:
    composed = compose("train", ["model=resnet50", "data.image_size=224", "paths.output_dir=out"])
    assert composed == compose_config("train", "model=resnet50", "data.image_size=224")
    assert composed.data.train_size == 128 and composed.data.eval_size == 144


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(ConfigCompositionException, match="unknown_size"):
        compose("train", ["data.unknown_size=224"])
