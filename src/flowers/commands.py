"""Implement the commands. Heavy imports wait until the configuration is composed, so that --help is quick."""

from __future__ import annotations

import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from flowers.cli import (
    command_line,
    compose,
    overrides_of,
    own_search_path,
    run_command,
    run_subcommand,
    sibling_command,
    task_overrides,
)
from flowers.errors import InputError

if TYPE_CHECKING:
    from flowers.inference.evaluate import EvaluationResult
    from flowers.reporting.report import Report
    from flowers.training.train import TrainingResult


def train() -> None:
    """Train a model: `python src/train.py`, `flowers-train`."""
    run_command(_train, "train")


def evaluate() -> None:
    """Recompute a run's metrics from its best checkpoint: `python src/evaluate.py`, `flowers-evaluate`."""
    run_command(_evaluate, "evaluate")


def predict() -> None:
    """Write a run's predictions and submission: `python src/predict.py`, `flowers-predict`."""
    run_command(_predict, "predict")


def choose() -> None:
    """Rank backbones for a data set: `python src/choose.py`, `flowers-choose`."""
    run_command(_choose, "choose")


def search() -> None:
    """Search for the best settings: `python src/search.py`, `flowers-search`."""
    run_command(_search, "search")


def ensemble() -> None:
    """Blend runs' predictions into one submission: `python src/ensemble.py`, `flowers-ensemble`."""
    run_command(_ensemble, "ensemble")


def cross_validate() -> None:
    """Train, predict and score all folds: `python src/cross_validate.py`, `flowers-cross-validate`."""
    run_command(_cross_validate, "cross_validate")


def prepare() -> None:
    """Make and check data sets: `python src/prepare.py folder|verify`, `flowers-prepare folder|verify`."""
    run_subcommand({"folder": _prepare_folder, "verify": _prepare_verify}, "prepare")


def sync() -> None:
    """Upload offline W&B runs: `python src/sync.py`, `flowers-sync`."""
    run_command(_sync, "sync")


def dashboard() -> None:
    """Build the project's W&B workspace: `python src/dashboard.py`, `flowers-dashboard`."""
    run_command(_dashboard, "dashboard")


def _train(config: DictConfig) -> float | None:
    if "space" in config:
        raise InputError("hparams_search=optuna: expected another command. Type python src/search.py instead.")
    from flowers.reporting.summary import print_finished, print_headroom, print_metrics, print_run, print_skipped
    from flowers.training.continuing import find_finished
    from flowers.training.loggers import finished_wandb_run
    from flowers.training.train import train

    if (metrics := find_finished(config)) is not None:
        print_finished(Path(config.paths.output_dir))
        print_metrics(metrics, config.monitor.metric)
        return metrics.get(config.monitor.metric)
    with finished_wandb_run():  # the W&B run is finished last, after the results are written and printed
        trained = train(config)
        print_metrics(trained.metrics, config.monitor.metric)
        print_skipped(trained.skipped)
        print_headroom(trained.metrics)
        if not config.trainer.get("fast_dev_run"):
            from flowers.reporting.wandb_results import log_results

            parts = (trained, config.monitor.metric, trained.run.report)
            log_results(trained, _write_report(*parts) if config.report else None)
        print_run(trained.run.directory)
    return trained.metrics.get(config.monitor.metric)  # None after a final fit, which has no validation


def _evaluate(config: DictConfig) -> float | None:
    from flowers.inference.evaluate import evaluate
    from flowers.reporting.summary import print_metrics, print_skipped, print_speed, print_written_report

    evaluated = evaluate(config)
    monitored = evaluated.run.monitored()
    print_metrics(evaluated.metrics, monitored)
    print_skipped(evaluated.skipped)
    print_speed(evaluated.images_per_second)
    if config.report and not config.trainer.get("fast_dev_run"):
        path = evaluated.run.report.with_name("evaluation.html")
        _write_report(evaluated, monitored, path)
        print_written_report(path)
    return evaluated.metrics.get(monitored)


def _write_report(results: TrainingResult | EvaluationResult, monitored: str, path: Path) -> Report | None:
    """Write the report of a training or an evaluation in the first process; return None in the others."""
    from lightning.pytorch.utilities import rank_zero_only

    if rank_zero_only.rank != 0:  # type: ignore[attr-defined]
        return None
    from flowers.reporting.report import make_report, write_report

    parts = (results.outcomes, results.model, results.datamodule)
    report = make_report(results.run, results.metrics, monitored, *parts, command_line())
    write_report(report, path)
    return report


def _predict(config: DictConfig) -> None:
    from flowers.inference.predict import predict
    from flowers.reporting.summary import print_skipped, print_speed, print_written
    from flowers.training.runs import Run

    written = predict(config)
    print_written(written.files, written.rows)
    print_skipped(written.skipped)
    print_speed(written.images_per_second)
    if written.files and Run(Path(config.run)).wandb_id() is not None:
        from flowers.reporting.wandb_results import log_predictions

        log_predictions(Run(Path(config.run)), written.files)


def _choose(config: DictConfig) -> None:
    from flowers.inference.choose import choose
    from flowers.reporting.choose import print_choice
    from flowers.reporting.summary import print_skipped

    choice = choose(config)
    print_skipped(choice.skipped)
    print_choice(choice, overrides_of("data"))


def _search(config: DictConfig) -> float | None:
    from flowers.targets import require_package

    require_package("hparams_search", "optuna", "optuna")
    from flowers.reporting.search import print_directory, print_end, print_search, print_start, write_sweep
    from flowers.search.search import OWN, Training, plan_search, search

    overrides = [*task_overrides(without=[*OWN, "hparams_search"]), *own_search_path()]
    training = Training(sibling_command("train"), overrides, partial(compose, "train"))
    plan = plan_search(config, training)
    if plan.settings.sweep is not None:
        write_sweep(plan, Path(plan.settings.sweep))
        return None
    print_directory(plan)
    result = search(plan, print_start, partial(print_end, plan.monitor.metric))
    return print_search(result)


def _ensemble(config: DictConfig) -> float:
    from flowers.ensembling.ensemble import EnsembleSettings, ensemble
    from flowers.reporting.ensemble import log_ensemble, print_ensemble
    from flowers.reporting.ensemble_report import make_ensemble_report
    from flowers.reporting.report import write_report
    from flowers.settings import load_settings

    settings = load_settings(EnsembleSettings, config)
    result = ensemble(settings)
    report, path = make_ensemble_report(result, command_line()), result.directory / "report" / "index.html"
    write_report(report, path)
    print_ensemble(result, path)
    log_ensemble(result, report, settings.logger)
    return result.assessment.ensemble.validated.value


def _cross_validate(config: DictConfig) -> float | None:
    from flowers.cross_validation.cross_validate import cross_validate
    from flowers.cross_validation.plan import OWN_SETTINGS, Call, make_plan
    from flowers.reporting.cross_validation import print_cross_validation
    from flowers.reporting.ensemble_report import make_ensemble_report
    from flowers.reporting.report import write_report
    from flowers.settings import quote
    from flowers.system.paths import shorten

    search = own_search_path()
    overrides = [*task_overrides(without=(*OWN_SETTINGS, "hparams_search")), *search]
    output = f"output={quote(str(shorten(Path(config.paths.output_dir))))}"
    again = command_line(without=("output", "hparams_search"), added=[output, *search])
    result = cross_validate(make_plan(config, Call(overrides, again, sibling_command("train")), compose))
    report = result.directory / "report" / "index.html" if config.report else None
    if report is not None:
        write_report(make_ensemble_report(result.ensemble, command_line()), report)
    print_cross_validation(result, report)
    summary = result.spreads.get(result.monitored)
    return None if summary is None else summary.mean


def _sync(config: DictConfig) -> None:
    from flowers.reporting.uploads import print_outcome, print_outcomes
    from flowers.reporting.wandb_sync import SyncSettings, sync
    from flowers.settings import load_settings

    outcomes = []
    for outcome in sync(load_settings(SyncSettings, config)):
        print_outcome(outcome)
        outcomes.append(outcome)
    print_outcomes(outcomes)
    if bad := sum(outcome.status == "bad" for outcome in outcomes):
        sys.exit(f"{bad} run{'s' if bad > 1 else ''} not uploaded")


def _prepare_folder(config: DictConfig) -> None:
    from flowers.preparation.beam import run_on_beam
    from flowers.preparation.folder import prepare_folder
    from flowers.preparation.plan import FolderSettings, Settings
    from flowers.preparation.runner import run_on_processes
    from flowers.settings import load_settings

    settings = load_settings(FolderSettings, config)
    run_tasks = partial(run_on_beam, settings.runner, settings.runner_options) if settings.runner else run_on_processes
    plan_settings = Settings.from_config(asdict(settings))
    prepare_folder(settings.source, settings.output, plan_settings, run_tasks)


def _prepare_verify(config: DictConfig) -> None:
    from flowers.preparation.report import write_report
    from flowers.preparation.verify import VerifySettings, local_root, verify
    from flowers.reporting.verification import print_verification
    from flowers.settings import load_settings

    settings = load_settings(VerifySettings, config)
    verification = verify(local_root(settings.root), decode=settings.decode)
    print_verification(verification)
    if settings.report:
        write_report(Path(settings.report), verification)
    if problems := len(verification.findings):
        sys.exit(f"{problems} problem{'s' if problems > 1 else ''} found")


def _dashboard(config: DictConfig) -> None:
    from flowers.settings import load_settings
    from flowers.targets import require_package

    require_package("dashboard", "wandb_workspaces", "wandb-workspaces")
    from flowers.reporting.wandb_workspace import DashboardSettings, make_dashboard

    make_dashboard(load_settings(DashboardSettings, config))
