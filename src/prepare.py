"""Make data sets: python src/prepare.py folder source=PHOTOS output=DIR [key=VALUE ...]."""

from __future__ import annotations

from functools import partial

from omegaconf import DictConfig

from flowers.door import open_command


def folder(config: DictConfig) -> None:
    """Photographs to a data set in Kaggle's layout."""
    from flowers.data.prepare.beam import run_on_beam
    from flowers.data.prepare.folder import prepare_folder
    from flowers.data.prepare.plan import Settings
    from flowers.data.prepare.processes import run_on_processes

    spread = partial(run_on_beam, config.runner, config.runner_options) if config.runner else run_on_processes
    prepare_folder(config.source, config.output, Settings.of(config), spread)


if __name__ == "__main__":
    open_command({"folder": folder}, "prepare")
