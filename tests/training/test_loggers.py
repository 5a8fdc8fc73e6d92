"""W&B is online for who is logged in, and offline for everybody else."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlparse

import pytest
import wandb

from flowers.training.loggers import logged_in


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    return tmp_path / "netrc"


def test_nobody_is_logged_in() -> None:
    assert not logged_in()


def test_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    assert logged_in()


def test_by_netrc(nobody: Path) -> None:
    host = urlparse(wandb.Settings().base_url).hostname
    nobody.write_text(f"machine {host}\n  login user\n  password {'x' * 40}\n")
    assert logged_in()
    nobody.write_text("machine elsewhere.example\n  login user\n  password secret\n")
    assert not logged_in()
    nobody.write_text("not a netrc file")
    assert not logged_in()
