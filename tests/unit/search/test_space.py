"""The search space of optuna.yaml yields overrides that a training accepts, and a W&B sweep with the same values."""

from __future__ import annotations

import sys
from typing import Any

import optuna
import pytest
from omegaconf import OmegaConf
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from flowers.errors import InputError
from flowers.search.space import Choices, Range, Space, parse_space, write_overrides
from flowers.search.sweep import make_sweep
from flowers.training.monitor import Monitor
from flowers.training.train import TrainSettings, check_settings
from tests.helpers.configuration import check, check_config, compose_config


@pytest.fixture(scope="module")
def space() -> Space:
    return parse_space(OmegaConf.to_container(compose_config("search").space))  # type: ignore[arg-type]


def sample(space: Space, number: int) -> dict[str, Any]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=number))
    trial = study.ask()
    return {key: entry.sample(trial, key) for key, entry in space.items()}


@pytest.mark.parametrize("number", range(3))
def test_sampled_values_are_accepted_and_arrive(space: Space, number: int) -> None:
    values = sample(space, number)
    config = compose_config("train", *write_overrides(values))
    check_settings(check_config("train", config))
    for key, value in values.items():
        if "/" not in key:
            assert str(OmegaConf.select(config, key)) == str(value)
    expected = compose_config("train", f"data/augment={values['data/augment']}").data.train_transform
    assert config.data.train_transform == expected


def test_every_choice_and_both_ends_of_every_range_are_accepted(space: Space) -> None:
    for key, entry in space.items():
        for value in entry.edges():
            settings = check("train", *write_overrides({key: value}))
            check_settings(settings)
            assert isinstance(settings, TrainSettings)


def test_values_of_all_kinds_are_written_as_on_the_command_line() -> None:
    space = parse_space(
        {
            "model.train_sizes": {"choices": [None, "[64,96]"]},
            "test": {"choices": [True, False]},
            "optimizer.lr": {"low": 1e-6, "high": 1e-5},
            "trainer.max_epochs": {"low": 1, "high": 9, "step": 4},
            "left.out": None,
        }
    )
    assert space["model.train_sizes"] == Choices(("null", "[64,96]"))
    assert "left.out" not in space
    for number in range(8):
        values = sample(space, number)
        config = compose_config("train", *write_overrides(values))
        assert config.optimizer.lr == values["optimizer.lr"] and 1e-6 <= config.optimizer.lr <= 1e-5
        assert config.trainer.max_epochs in (1, 5, 9)
        assert config.model.train_sizes in (None, [64, 96])
        assert config.test in (True, False)


REFUSED = {
    "low": ({"high": 1}, r"space\.k\.low: "),
    "high": ({"low": 1, "high": "much"}, r"space\.k\.high: .*'much'"),
    "order": ({"low": 2, "high": 1}, r"space\.k\.low=2: .*high=1"),
    "log": ({"low": 0, "high": 1, "log": True}, r"space\.k\.low=0: .*log"),
    "log and step": ({"low": 1, "high": 2, "log": True, "step": 1}, r"space\.k\.step=1: "),
    "step": ({"low": 1, "high": 2, "step": 3}, r"space\.k\.step=3: "),
    "unknown": ({"low": 1, "high": 2, "logs": True}, r"space\.k\.logs: .*\blog\?"),
    "both": ({"choices": [1], "low": 2}, r"space\.k\.low: "),
    "no list": ({"choices": "light"}, r"space\.k\.choices=light: "),
    "none": ({"choices": []}, r"space\.k\.choices=\[\]: "),
    "twice": ({"choices": [1, 1]}, r"space\.k\.choices: "),
    "nested": ({"choices": [[1, 2]]}, r"space\.k\.choices: "),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_invalid_entry_is_refused_by_its_key(name: str) -> None:
    entry, pattern = REFUSED[name]
    with pytest.raises(InputError, match=pattern):
        parse_space({"k": entry, "fine": {"choices": [1]}})


def test_an_empty_space_is_refused() -> None:
    with pytest.raises(InputError, match=r"^space: "):
        parse_space({"k": None})


def test_a_sweep_has_the_same_values_by_wandbs_own_reading() -> None:
    from wandb.sdk.sweeps.scheduler.optuna import sweep_parameter_to_distribution

    space: Space = {
        "a": Range(1e-4, 3e-3, log=True),
        "b": Range(0.0, 0.5),
        "c": Range(1, 9),
        "d": Range(1, 64, log=True),
        "e": Choices(("light", "medium")),
        "f": Range(0.0, 0.4, step=0.1),
        "g": Range(1, 10, step=4),
    }
    sweep = make_sweep(space, Monitor("val/loss", "min"), 9, True, ["data=kaggle"])
    found = {key: sweep_parameter_to_distribution(dict(entry)) for key, entry in sweep["parameters"].items()}
    assert found["f"].choices == pytest.approx((0.0, 0.1, 0.2, 0.3, 0.4))
    assert found["g"].choices == (1, 5, 9)
    assert {key: found[key] for key in "abcde"} == {
        "a": FloatDistribution(1e-4, 3e-3, log=True),
        "b": FloatDistribution(0.0, 0.5),
        "c": IntDistribution(1, 9),
        "d": IntDistribution(1, 64, log=True),
        "e": CategoricalDistribution(("light", "medium")),
    }
    assert sweep["metric"] == {"name": "val/loss", "goal": "minimize"}
    assert sweep["command"][-2:] == ["data=kaggle", "${args_no_hyphens}"]
    assert "optuna" in sys.modules
