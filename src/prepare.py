"""Make and check data sets: python src/prepare.py folder source=PHOTOS output=DIR, or verify root=DIR."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from omegaconf import DictConfig

from flowers.cli import run_subcommand


def folder(config: DictConfig) -> None:
    """Photographs to a data set in Kaggle's layout."""
    from flowers.preparation.beam import run_on_beam
    from flowers.preparation.folder import prepare_folder
    from flowers.preparation.plan import Settings
    from flowers.preparation.runner import run_on_processes

    spread = partial(run_on_beam, config.runner, config.runner_options) if config.runner else run_on_processes
    prepare_folder(config.source, config.output, Settings.of(config), spread)


def verify(config: DictConfig) -> None:
    """Check every record of a data set."""
    from flowers.preparation.report import write_report
    from flowers.preparation.verify import local_root, verify
    from flowers.reporting.verification import print_verification

    verification = verify(local_root(config.root), decode=config.decode)
    print_verification(verification)
    if config.report:
        write_report(Path(config.report), verification)
    if faults := len(verification.findings):
        sys.exit(f"{faults} fault{'s' if faults > 1 else ''} found")


if __name__ == "__main__":
    run_subcommand({"folder": folder, "verify": verify}, "prepare")
