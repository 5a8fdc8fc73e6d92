"""Weights & Biases without a question asked: online for who is logged in, offline for everybody else."""

from __future__ import annotations

import netrc
import os
import sys
from pathlib import Path
from urllib.parse import urlparse

import wandb
from lightning.pytorch.loggers import WandbLogger


def wandb_logger(save_dir: str, project: str, name: str | None = None, tags: list[str] | None = None) -> WandbLogger:
    """W&B's logger into `save_dir/wandb`. `WANDB_MODE` decides where it is set, being logged in where it is not."""
    offline = "WANDB_MODE" not in os.environ and not logged_in()
    settings = wandb.Settings(quiet=True)  # the end of the run says where to look
    return WandbLogger(save_dir=save_dir, project=project, name=name, tags=tags, offline=offline, settings=settings)


def logged_in() -> bool:
    """Whether W&B has a key: in `WANDB_API_KEY`, or in the netrc file, where `wandb login` puts it."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    path = Path(os.environ.get("NETRC", "~/_netrc" if sys.platform == "win32" else "~/.netrc")).expanduser()
    host = urlparse(wandb.Settings().base_url).hostname
    try:
        return host is not None and netrc.netrc(path).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
