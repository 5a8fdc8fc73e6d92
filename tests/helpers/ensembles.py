"""Three members with made-up predictions, and the settings and files of their ensemble."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from flowers.ensembling.ensemble import EnsembleSettings
from flowers.settings import Paths, load_settings
from tests.helpers.commands import ROOT
from tests.helpers.members import make_rows, write_run

VAL = [make_rows(60, seed) for seed in range(3)]
TEST = [make_rows(30, seed, first=1000) for seed in range(3)]


def settings(output: Path, runs: list[str], **changes: Any) -> EnsembleSettings:
    """Return configs/ensemble.yaml with fewer methods and resamples."""
    config = OmegaConf.load(ROOT / "configs" / "ensemble.yaml")
    assert isinstance(config, DictConfig)
    del config["defaults"], config["hydra"]
    config.paths = {**dict.fromkeys(Paths.__dataclass_fields__, "unused"), "output_dir": str(output)}
    config.update({"logger": None, "runs": runs, "methods": ["mean", "weights"], "resamples": 100} | changes)
    return load_settings(EnsembleSettings, config)


def write_runs(directory: Path) -> list[str]:
    """Write three runs, each with its rows in a different order."""
    return [
        write_run(directory / f"run{at}", val.shuffle(at), test.shuffle(at), parameters=10, images_per_second=30.0)
        for at, (val, test) in enumerate(zip(VAL, TEST, strict=True))
    ]


def read_summary(directory: Path) -> dict[str, Any]:
    """Read ensemble.json as strict JSON: NaN and Infinity fail."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} in ensemble.json")

    summary: dict[str, Any] = json.loads((directory / "ensemble.json").read_text(), parse_constant=refuse)
    return summary


def find_leftovers(directory: Path) -> list[Path]:
    """Return the temporary files that a finished run must not leave behind."""
    return [path for path in directory.rglob("*") if path.name.startswith(".joined-") or path.suffix == ".part"]
