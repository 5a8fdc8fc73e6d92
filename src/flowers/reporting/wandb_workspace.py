"""Build the W&B workspace of a project from sections and panels that are defined in code, and save it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

import wandb
from pydantic import ValidationError
from wandb_workspaces._graphql import execute_graphql
from wandb_workspaces.reports.v2 import (
    BarPlot,
    Config,
    CustomChart,
    LinePlot,
    MediaBrowser,
    WeavePanelSummaryTable,
)
from wandb_workspaces.workspaces import Section, Workspace

from flowers.errors import InputError
from flowers.settings import Nodes
from flowers.system.atomic import atomic_path
from flowers.training.wandb_server import find_api_key, find_server_problem

PROBE_SECONDS = 3.0
"""The time limit for the server's first answer, in seconds."""

SAVE_SECONDS = 30.0
"""The time limit for saving, in seconds. It usually takes a few."""

STEP = "trainer/global_step"
RESOLUTION = Config("data.image_size")
DEVICE = Config("device")

_VIEWS = """
query Views($entityName: String, $projectName: String) {
    project(name: $projectName, entityName: $entityName) {
        allViews(viewType: "project-view") { edges { node { id name displayName } } }
    }
}
"""


@dataclass(frozen=True, slots=True)
class DashboardSettings:
    """The settings of `python src/dashboard.py`.

    logger: the loggers; `wandb` has the project and the entity.
    name: the workspace's name.
    output: a JSON file to write the specification into, instead of saving it to W&B; None: save it.
    """

    logger: Nodes
    name: str
    output: str | None


def make_dashboard(settings: DashboardSettings) -> None:
    """Save the project's workspace to W&B, or write its specification into a file if `output` is set.

    Raises:
        InputError: there is no W&B project, the name has an emoji, the file cannot be written, nobody is logged in, or
            the server does not save the workspace in time.
    """
    node = (settings.logger or {}).get("wandb") or {}
    if not node.get("project"):
        raise InputError("logger.wandb.project: expected a W&B project, found none. Set logger=wandb.")
    try:
        workspace = make_workspace(node.get("entity") or "", node["project"], settings.name)
    except ValidationError as error:
        raise InputError(f"name={settings.name}: {error.errors()[0]['msg']}. Set another name.") from error
    if settings.output is None:
        save_workspace(workspace)
    else:
        write_specification(workspace, Path(settings.output))


def make_workspace(entity: str, project: str, name: str) -> Workspace:
    """Return the workspace of a project.

    Args:
        entity: the team or account; empty: the default of the account that saves it.
        project: the project's name.
        name: the workspace's name.
    """
    sections = [learning_curves(), members(), processors(), classes(), images(), optimisation()]
    return Workspace(entity=entity, project=project, name=name, sections=sections)


def learning_curves() -> Section:
    """Return the section of losses and scores by step: mean and range over the runs at each resolution."""
    metrics = ("train/loss", "val/loss", "val/macro_f1", "val/accuracy")
    return _section("Learning curves by resolution", [_line(metric, RESOLUTION) for metric in metrics])


def members() -> Section:
    """Return the section of the scores of trainings and ensembles, those of ensembles with intervals."""
    score = "val/macro_f1"
    kinds = BarPlot(
        title="The best training and the best ensemble",
        metrics=[f"best/{score}", score],
        groupby="JobType",
        groupby_aggfunc="max",
        groupby_rangefunc="none",
    )
    return _section(
        "Members against ensembles",
        [
            kinds,
            BarPlot(title="Macro F1 of each training", metrics=[f"best/{score}"]),
            BarPlot(title="Macro F1 of each ensemble: interval of 95 %", metrics=[f"{score}_low", f"{score}_high"]),
            BarPlot(title="Gain over the best member", metrics=["val/gain_low", "val/gain", "val/gain_high"]),
        ],
    )


def processors() -> Section:
    """Return the section of speed, loader waits, memory and compilations: the mean for each kind of device."""
    metrics = ("train/images_per_second", "train/loader_wait", "train/device_memory", "compile/count")
    speed = BarPlot(
        title="Images per second by device",
        metrics=["train/images_per_second"],
        groupby=DEVICE,
        groupby_aggfunc="mean",
        groupby_rangefunc="minmax",
    )
    return _section("Processors side by side", [speed, *(_line(metric, DEVICE) for metric in metrics)])


def classes() -> Section:
    """Return the section of the scores by class, the worst first, with confusion matrix and precision-recall curves."""
    confusion = {column: column for column in ("Actual", "Predicted", "nPredictions")}
    curves = {"x": "recall", "y": "precision", "class": "class"}
    titles = {"title": "Precision-Recall Curve", "x-axis-title": "Recall", "y-axis-title": "Precision"}
    return _section(
        "Worst classes",
        [
            WeavePanelSummaryTable(table_name="val/classes"),
            _chart("val/confusion", "wandb/confusion_matrix/v1", confusion, {}),
            _chart("val/precision_recall", "wandb/area-under-curve/v0", curves, titles),
        ],
    )


def images() -> Section:
    """Return the section of training images and worst mistakes."""
    return _section(
        "Images",
        [
            MediaBrowser(title="As the model trains on them", media_keys=["train/images"]),
            MediaBrowser(title="Worst mistakes of each validation", media_keys=["val/mistakes"]),
            WeavePanelSummaryTable(table_name="val/worst_mistakes"),
        ],
    )


def optimisation() -> Section:
    """Return the section of metrics by training step, with a line for each run."""
    return _section(
        "Optimisation", [_line(metric) for metric in ("train/loss_step", "train/learning_rate", "train/gradient_norm")]
    )


def _section(name: str, panels: list[Any]) -> Section:
    return Section(name=name, panels=panels, is_open=True)


def _line(metric: str, group: Config | None = None) -> LinePlot:
    """Return a chart of a metric by step; with `group`, of its mean and range over each group of runs."""
    if group is None:
        return LinePlot(title=metric, x=STEP, y=[metric])
    return LinePlot(title=metric, x=STEP, y=[metric], groupby=group, groupby_aggfunc="mean", groupby_rangefunc="minmax")


def _chart(key: str, preset: str, fields: dict[str, str], titles: dict[str, str]) -> CustomChart:
    """Return a chart that W&B draws from the table that runs have logged as `key`."""
    query = {"summaryTable": {"tableKey": f"{key}_table"}}
    return CustomChart(query=query, chart_name=preset, chart_fields=fields, chart_strings=titles)


def write_specification(workspace: Workspace, path: Path) -> None:
    """Write the specification that would be saved to W&B as JSON, and print its path.

    Raises:
        InputError: the path is a directory.
    """
    if path.is_dir():
        raise InputError(f"output={path}: expected a file, found a directory. Name a file, such as {path}/board.json.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as unfinished:
        unfinished.write_text(json.dumps(workspace._spec, indent=2) + "\n")
    print(f"Wrote {path}")


def save_workspace(workspace: Workspace) -> None:
    """Save a workspace to W&B, which prints its URL. It replaces the project's workspace of the same name, if any.

    Raises:
        InputError: nobody is logged in, or the server does not save it within `SAVE_SECONDS`.
    """
    mode = os.environ.get("WANDB_MODE", "online")
    if mode not in ("online", "run", "shared"):
        raise InputError(f"WANDB_MODE={mode}: expected online, as a server stores the workspace. Unset it, {_OUTPUT}")
    url = wandb.setup().settings.base_url
    key = find_api_key(url)
    if key is None and "WANDB_IDENTITY_TOKEN_FILE" not in os.environ:
        raise InputError(f"{url}: expected an API key, found none. Run wandb login, set WANDB_API_KEY, {_OUTPUT}")
    problem = find_server_problem(url, key, PROBE_SECONDS)
    problem = problem or _find_problem(lambda: _save(workspace), SAVE_SECONDS)
    if problem is not None:
        raise InputError(f"{url}: {problem}. The workspace was not saved. Try again later, {_OUTPUT}")


_OUTPUT = "or write it into a file with output=FILE.json."


def _find_problem(call: Callable[[], None], seconds: float) -> str | None:
    """Call a function of W&B's client; return why it failed, or that it took too long, or None if it succeeded."""
    problems: SimpleQueue[str | None] = SimpleQueue()

    def attempt() -> None:
        try:
            call()
        except Exception as error:  # of many types
            problems.put(" ".join(str(error).split()).rstrip(".") or type(error).__name__)
        else:
            problems.put(None)

    Thread(target=attempt, daemon=True).start()
    try:
        return problems.get(timeout=seconds)
    except Empty:
        return f"no answer within {seconds:g} s"


def _save(workspace: Workspace) -> None:
    api = wandb.Api()
    workspace.entity = workspace.entity or api.default_entity or ""
    # Without these ids, the library would add a second workspace of the same name.
    workspace._internal_id, workspace._internal_name = _find_view(api, workspace)
    workspace.save()


def _find_view(api: Any, workspace: Workspace) -> tuple[str, str]:
    """Return the id and the internal name of the project's workspace with the same name; empty if there is none."""
    variables = {"entityName": workspace.entity, "projectName": workspace.project}
    project = execute_graphql(api, _VIEWS, variables).get("project")
    if project is None:
        raise InputError(
            f"expected the project {workspace.entity}/{workspace.project}, found none. Log a run to it first, or set "
            "logger.wandb.entity and logger.wandb.project"
        )
    views = [edge["node"] for edge in project["allViews"]["edges"]]
    return next(((view["id"], view["name"]) for view in views if view["displayName"] == workspace.name), ("", ""))
