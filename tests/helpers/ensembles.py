"""Three members whose predictions are made up, and the settings and files of their ensemble."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from flowers.ensembling.ensemble import EnsembleSettings
from flowers.settings import Paths, load_settings
from tests.helpers.commands import ROOT
from tests.helpers.members import predicted, write_run

VAL = [predicted(60, seed) for seed in range(3)]
TEST = [predicted(30, seed, first=1000) for seed in range(3)]


def settings(output: Path, runs: list[str], **changes: Any) -> EnsembleSettings:
    """Return configs/ensemble.yaml with fewer methods and resamples."""
    config = OmegaConf.load(ROOT / "configs" / "ensemble.yaml")
    assert isinstance(config, DictConfig)
    del config["defaults"], config["hydra"]
    config.paths = {**dict.fromkeys(Paths.__dataclass_fields__, "unused"), "output_dir": str(output)}
    config.update({"logger": None, "runs": runs, "methods": ["mean", "weights"], "resamples": 100} | changes)
    return load_settings(EnsembleSettings, config)


def write_runs(directory: Path) -> list[str]:
    """Write three runs, the rows of each in an order of its own."""
    return [
        write_run(directory / f"run{at}", val.shuffled(at), test.shuffled(at), parameters=10, images_per_second=30.0)
        for at, (val, test) in enumerate(zip(VAL, TEST, strict=True))
    ]


def summary_of(directory: Path) -> dict[str, Any]:
    """Read ensemble.json, which is JSON to any reader: without NaN and Infinity."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} in ensemble.json")

    summary: dict[str, Any] = json.loads((directory / "ensemble.json").read_text(), parse_constant=refuse)
    return summary


def left_over(directory: Path) -> list[Path]:
    """Return what a run that has ended must not leave."""
    return [path for path in directory.rglob("*") if path.name.startswith(".joined-") or path.suffix == ".part"]
