"""Print an ensemble's results, and log them."""

from __future__ import annotations

import warnings
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from flowers.ensembling.ensemble import Ensemble
from flowers.ensembling.scores import Estimate
from flowers.reporting.report import Report
from flowers.reporting.wandb_results import log_ensemble_results
from flowers.settings import Nodes
from flowers.training.lightning_trainer import make_all
from flowers.training.loggers import FallbackWandbLogger, finished_wandb_run

WIDE = 150
"""The least width of the tables, in characters."""

_console = Console(soft_wrap=True, highlight=False)


def print_ensemble(result: Ensemble, report: Path) -> None:
    """Print a table of the members and one of the methods, the missing predictions, and the written files."""
    wide = Console(width=max(_console.width, WIDE), highlight=False)
    wide.print(_members_table(result))
    wide.print(_methods_table(result))
    gain = result.assessment.ensemble.gain
    best = result.assessment.best + 1
    _console.print(
        f"Intervals: 95 %, of {result.rows[0]} validation images. The ensemble's gain over member {best}: "
        f"{gain.value:+.4f}, {_verdict(gain)}."
    )
    for member, left_out, lacking in zip(result.members, *result.missing, strict=True):
        if left_out or lacking:
            _console.print(
                f"{member.name}: {left_out} validation rows left out, as other members lack them; {lacking} test rows "
                "missing, replaced by the mean of the others (allow_missing=true)",
                markup=False,
            )
    for file in [*result.files, report]:
        shown = file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file
        _console.print(f"Wrote {shown}", markup=False)
    if result.without_train:
        _console.print(
            f"No training predictions were blended, as there are none from {', '.join(result.without_train)}. To "
            "distil the ensemble, write them with python src/predict.py run=DIR split=train, and blend again.",
            markup=False,
        )
    if not result.rows[1]:
        _console.print("No test predictions, so no submission. Write them with python src/predict.py run=DIR.")


def _verdict(gain: Estimate) -> str:
    if gain.low > 0:
        return "more than chance"
    return "less than zero, and not by chance" if gain.high < 0 else "which may be chance"


def _members_table(result: Ensemble) -> Table:
    gain = "leave-one-out\ngain"  # in two lines, to leave room for the members' titles
    names = ("macro F1", "interval", "log loss", "temperature", "parameters", "images/s", "weight", gain)
    table = Table("", "member", *(Column(name, justify="right", no_wrap=True) for name in names), title="Members")
    for number, (member, scores) in enumerate(zip(result.members, result.assessment.members, strict=True), start=1):
        source = member.provenance
        table.add_row(
            str(number),
            escape(member.title),
            f"{scores.macro_f1.value:.4f}",
            _interval(scores.macro_f1),
            f"{scores.log_loss:.3f}",
            f"{scores.temperature:.2f}",
            f"{source.parameters / 1e6:.1f} M" if source.parameters else "",
            f"{source.images_per_second:.0f}" if source.images_per_second else "",
            f"{scores.weight:.3f}",
            "" if scores.adds is None else f"{scores.adds:+.4f}",
        )
    return table


def _methods_table(result: Ensemble) -> Table:
    assessment = result.assessment
    names = ("fitted", "interval", "cross-validated", "interval", "gain", "interval", "log loss")
    table = Table("macro F1 of", *(Column(name, justify="right", no_wrap=True) for name in names), title="Methods")
    own = f"[bold]ensemble: {assessment.method}{' with offsets' if assessment.offsets is not None else ''}[/bold]"
    rows = [*assessment.methods.items(), (own, assessment.ensemble)]
    for place, (name, scores) in enumerate(rows, start=1):
        table.add_row(
            name,
            f"{scores.fitted.value:.4f}",
            _interval(scores.fitted),
            f"{scores.validated.value:.4f}",
            _interval(scores.validated),
            f"{scores.gain.value:+.4f}",
            _interval(scores.gain),
            f"{scores.log_loss:.3f}",
            end_section=place == len(rows) - 1,
        )
    return table


def _interval(estimate: Estimate) -> str:
    return f"{estimate.low:.3f} to {estimate.high:.3f}"


def log_ensemble(result: Ensemble, report: Report, loggers: Nodes) -> None:
    """Log an ensemble's metrics, members and method to all loggers, and tables, charts and artifacts to W&B.

    Args:
        result: the ensemble.
        report: its report, whose tables are logged to W&B.
        loggers: the configured loggers.
    """
    assessment = result.assessment
    ensemble = assessment.ensemble
    values = {
        "val/macro_f1": ensemble.validated.value,
        "val/macro_f1_low": ensemble.validated.low,
        "val/macro_f1_high": ensemble.validated.high,
        "val/macro_f1_fitted": ensemble.fitted.value,
        "val/gain": ensemble.gain.value,
        "val/gain_low": ensemble.gain.low,
        "val/gain_high": ensemble.gain.high,
        "val/log_loss": ensemble.log_loss,
    }
    members = [
        {"name": member.name, "title": member.title, **asdict(own)}
        for member, own in zip(result.members, assessment.members, strict=True)
    ]
    warnings.filterwarnings("ignore", message="Experiment logs directory")  # from the CSV logger, which has no log yet
    with finished_wandb_run():
        for logger in make_all("logger", loggers):
            logger.log_hyperparams({"method": assessment.method, "members": members})
            logger.log_metrics(values, step=0)
            if isinstance(logger, FallbackWandbLogger):
                log_ensemble_results(logger, result, report)
            logger.finalize("success")
