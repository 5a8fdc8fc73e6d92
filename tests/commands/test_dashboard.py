"""The W&B workspace is written as a specification, and saved to a local server."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb
from wandb_workspaces.reports.v2.internal import panel_type_mapping
from wandb_workspaces.workspaces.internal import View

from flowers.reporting import wandb_workspace
from tests.helpers.commands import run_script
from tests.helpers.wandb_server import WandbServer, wandb_server

PROJECT = "logger.wandb.project=trees"
ENTITY = "logger.wandb.entity=me"


@pytest.fixture(autouse=True)
def logged_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Log out of W&B and clear its settings. Waits are long, as machines may be busy."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setattr(wandb_workspace, "PROBE_SECONDS", 20.0)
    monkeypatch.setattr(wandb_workspace, "SAVE_SECONDS", 60.0)
    wandb.teardown()
    yield
    wandb.teardown()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    """Yield a server that answers, with this process logged in to it."""
    with wandb_server() as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        yield server


def write_specification(path: Path, *overrides: str) -> dict[str, Any]:
    done = run_script("dashboard", f"output={path}", *overrides)
    assert done.returncode == 0, done.stderr
    assert str(path) in done.stdout
    read: dict[str, Any] = json.loads(path.read_text())
    return read


def read_sections(spec: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Return the panels of each section of a specification."""
    return {section["name"]: section["panels"] for section in spec["section"]["panelBankConfig"]["sections"]}


def run_refused(*overrides: str) -> str:
    """Run the command, which must fail, and return its message."""
    done = run_script("dashboard", *overrides)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and "Traceback" not in done.stderr
    return done.stderr


def test_the_library_reads_the_specification(tmp_path: Path) -> None:
    written = write_specification(tmp_path / "new" / "board.json", PROJECT, ENTITY, "name=Board")
    assert (written["entity"], written["project"], written["displayName"]) == ("me", "trees", "Board")
    view = View.model_validate(written)
    read = [(section.name, section.panels) for section in view.spec.section.panel_bank_config.sections]
    assert len(read) == 6
    for _, panels in read:
        assert panels and all(type(panel) in panel_type_mapping.values() for panel in panels)
    assert view.spec.section.settings.should_auto_generate_panels is False


def test_runs_are_grouped_by_resolution_and_by_device(tmp_path: Path) -> None:
    panels = read_sections(write_specification(tmp_path / "board.json")["spec"])
    found = {name: {panel["config"].get("groupBy") for panel in panels[name]} for name in panels}
    assert found["Learning curves by resolution"] == {"data.value.image_size"}
    assert found["Processors side by side"] == {"device.value"}
    assert found["Members against ensembles"] == {"jobType", None}


def test_project_and_name_come_from_the_logger(tmp_path: Path) -> None:
    written = write_specification(tmp_path / "board.json", PROJECT)
    assert (written["project"], written["displayName"]) == ("trees", "trees")


@pytest.mark.parametrize(
    ("override", "place"), [("name=☃", "name="), ("logger=none", "logger.wandb"), ("output=.", "output=")]
)
def test_invalid_settings_are_refused(override: str, place: str, tmp_path: Path) -> None:
    output = [] if override.startswith("output") else [f"output={tmp_path}/board.json"]
    assert place in run_refused(override, *output)
    assert not list(tmp_path.glob("board.json"))


def test_a_missing_package_is_reported_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)  # as if it were not installed
    assert "pip install wandb-workspaces" in run_refused("output=board.json")


def test_without_a_login_the_message_has_the_command(server: WandbServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    message = run_refused()
    assert "wandb login" in message and "output=" in message
    assert server.requests == []


def test_offline_makes_no_request(server: WandbServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert "WANDB_MODE=offline" in run_refused()
    assert server.requests == []


def test_the_specification_is_saved(server: WandbServer, tmp_path: Path) -> None:
    done = run_script("dashboard", PROJECT)
    assert done.returncode == 0, done.stderr
    (view,) = server.views
    assert (view["entityName"], view["projectName"], view["displayName"]) == ("me", "trees", "trees")
    assert view["type"] == "project-view"
    assert (
        json.loads(view["spec"])["section"].keys() == write_specification(tmp_path / "b.json")["spec"]["section"].keys()
    )
    assert list(read_sections(json.loads(view["spec"]))) == list(
        read_sections(write_specification(tmp_path / "b.json")["spec"])
    )


def test_saving_again_replaces_only_the_workspace_of_that_name(server: WandbServer) -> None:
    server.views = [{"id": "view-0", "name": "nw-other-v", "displayName": "somebody's", "spec": "{}"}]
    for name in ("one", "two", "one"):
        assert run_script("dashboard", ENTITY, f"name={name}").returncode == 0
    assert [view["displayName"] for view in server.views] == ["somebody's", "one", "two"]
    assert len({view["name"] for view in server.views}) == 3


@pytest.mark.parametrize("behaviour", [401, 403, 404, 500, "hang"])
def test_a_server_that_does_not_answer_is_reported(
    behaviour: Any, server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wandb_workspace, "PROBE_SECONDS", 2.0)
    monkeypatch.setattr(wandb_workspace, "SAVE_SECONDS", 4.0)
    server.behaviour = behaviour
    start = time.monotonic()
    assert server.url in run_refused(ENTITY)
    assert time.monotonic() - start < 20


def test_a_server_that_is_down_is_reported(server: WandbServer) -> None:
    server.vanish()
    assert server.url in run_refused(ENTITY)


def test_a_server_that_hangs_on_saving_is_reported(server: WandbServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wandb_workspace, "SAVE_SECONDS", 4.0)
    server.hang_on = ("UpsertView",)
    assert server.url in run_refused(ENTITY)
    assert server.views == []


def test_a_project_that_does_not_exist_is_reported(server: WandbServer) -> None:
    server.views = None
    assert "me/trees" in run_refused(PROJECT, ENTITY)
