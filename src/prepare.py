"""Data sets: python src/prepare.py verify root=DIR [key=VALUE ...]."""

from __future__ import annotations

import sys
from pathlib import Path

from omegaconf import DictConfig

from flowers.door import open_command


def verify(config: DictConfig) -> None:
    """Check every record of a data set."""
    from flowers.data.verify import verify, write_report
    from flowers.reporting.verification import print_verification

    verification = verify(Path(config.root), decode=config.decode)
    print_verification(verification)
    if config.report:
        write_report(Path(config.report), verification)
    if faults := len(verification.findings):
        sys.exit(f"{faults} fault{'s' if faults > 1 else ''} found")


if __name__ == "__main__":
    open_command({"verify": verify}, "prepare")
