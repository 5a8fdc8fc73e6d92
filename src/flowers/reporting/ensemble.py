"""Report an ensemble: tables on the terminal, plots in report/, a W&B run."""

from __future__ import annotations

import warnings
from dataclasses import asdict
from pathlib import Path

from lightning.pytorch.loggers import WandbLogger
from matplotlib.figure import Figure
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from flowers.ensembling.ensemble import Ensemble
from flowers.ensembling.scores import Estimate
from flowers.settings import Nodes
from flowers.training.lightning_trainer import make_all
from flowers.training.loggers import finished_wandb_run

WIDE = 150  # characters, for tables that no narrower terminal or file could hold
SHOWN_NAMES = 24
"""Members up to which a figure names each."""

_console = Console(soft_wrap=True, highlight=False)


def print_ensemble(result: Ensemble, figures: list[Path]) -> None:
    """The table of the members, that of the methods with the ensemble below, what was missing, and what was written."""
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
                "lacking, for which the mean of the others stands (allow_missing=true)",
                markup=False,
            )
    for file in [*result.files, *figures]:
        shown = file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file
        _console.print(f"Wrote {shown}", markup=False)
    if not result.rows[1]:
        _console.print("No test predictions, and so no submission: write them with python src/predict.py run=DIR.")


def _verdict(gain: Estimate) -> str:
    if gain.low > 0:
        return "more than chance"
    return "less than zero, and not by chance" if gain.high < 0 else "which may be chance"


def _members_table(result: Ensemble) -> Table:
    names = ("macro F1", "interval", "log loss", "temperature", "parameters", "images/s", "weight", "adds")
    table = Table("", "member", *(Column(name, justify="right", no_wrap=True) for name in names), title="Members")
    for number, (member, figures) in enumerate(zip(result.members, result.assessment.members, strict=True), start=1):
        source = member.provenance
        table.add_row(
            str(number),
            escape(member.title),
            f"{figures.macro_f1.value:.4f}",
            _interval(figures.macro_f1),
            f"{figures.log_loss:.3f}",
            f"{figures.temperature:.2f}",
            f"{source.parameters / 1e6:.1f} M" if source.parameters else "",
            f"{source.images_per_second:.0f}" if source.images_per_second else "",
            f"{figures.weight:.3f}",
            "" if figures.adds is None else f"{figures.adds:+.4f}",
        )
    return table


def _methods_table(result: Ensemble) -> Table:
    assessment = result.assessment
    names = ("fitted", "interval", "cross-validated", "interval", "gain", "interval", "log loss")
    table = Table("macro F1 of", *(Column(name, justify="right", no_wrap=True) for name in names), title="Methods")
    own = f"[bold]ensemble: {assessment.method}{' with offsets' if assessment.offsets is not None else ''}[/bold]"
    rows = [*assessment.methods.items(), (own, assessment.ensemble)]
    for place, (name, figures) in enumerate(rows, start=1):
        table.add_row(
            name,
            f"{figures.fitted.value:.4f}",
            _interval(figures.fitted),
            f"{figures.validated.value:.4f}",
            _interval(figures.validated),
            f"{figures.gain.value:+.4f}",
            _interval(figures.gain),
            f"{figures.log_loss:.3f}",
            end_section=place == len(rows) - 1,
        )
    return table


def _interval(estimate: Estimate) -> str:
    return f"{estimate.low:.3f} to {estimate.high:.3f}"


def draw_ensemble(result: Ensemble) -> list[Path]:
    """Write the figures into the ensemble's `report/`: `scores.png` and `correlations.png`."""
    report = result.directory / "report"
    report.mkdir(exist_ok=True)
    figures = {"scores": _scores_figure(result), "correlations": _correlations_figure(result)}
    paths = []
    for name, figure in figures.items():
        paths.append(report / f"{name}.png")
        figure.savefig(paths[-1], dpi=150, bbox_inches="tight")
    return paths


def _scores_figure(result: Ensemble) -> Figure:
    """Macro F1 of members and methods with intervals; a hollow mark is the score on the rows that were fitted."""
    assessment = result.assessment
    members = [
        (f"{number} {member.title}", figures.macro_f1)
        for number, (member, figures) in enumerate(zip(result.members, assessment.members, strict=True), start=1)
    ]
    methods = [(str(name), figures) for name, figures in assessment.methods.items()]
    methods.append((f"ensemble: {assessment.method}", assessment.ensemble))
    rows = [*members, *((name, figures.validated) for name, figures in methods)]
    figure = Figure(figsize=(7, 0.8 + 0.27 * len(rows)))
    axes = figure.subplots()
    for place, (_, estimate) in enumerate(rows):
        colour = "tab:gray" if place < len(members) else "tab:green" if place == len(rows) - 1 else "tab:blue"
        axes.plot([estimate.low, estimate.high], [place, place], color=colour)
        axes.plot(estimate.value, place, "o", color=colour)
    fitted = [figures.fitted.value for _, figures in methods]
    axes.plot(fitted, range(len(members), len(rows)), "o", mfc="none", color="tab:red", label="on the rows fitted to")
    axes.axhline(len(members) - 0.5, color="lightgray", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.invert_yaxis()
    axes.set_xlabel("validation macro F1, 95 % intervals; methods cross-validated")
    axes.legend(loc="best")
    return figure


def _correlations_figure(result: Ensemble) -> Figure:
    """Plot the correlations of the probabilities that members give the true class."""
    correlations = result.assessment.correlations
    figure = Figure(figsize=(5, 4))
    axes = figure.subplots()
    image = axes.imshow(correlations, cmap="viridis", vmin=min(0.0, correlations.min()), vmax=1)
    figure.colorbar(image, label="correlation of the probabilities of the truth")
    if len(correlations) <= SHOWN_NAMES:
        numbers = range(len(correlations))
        axes.set_xticks(numbers, [str(number + 1) for number in numbers])
        titles = [f"{number + 1} {member.title}" for number, member in zip(numbers, result.members, strict=True)]
        axes.set_yticks(numbers, titles)
        for row in numbers:
            for column in numbers:
                value = correlations[row, column]
                colour = "white" if value < 0.6 else "black"
                axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=7)
    return figure


def log_ensemble(result: Ensemble, figures: list[Path], loggers: Nodes) -> None:
    """Tell the configured loggers (W&B, unless told otherwise) the members, the figures and the pictures of them."""
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
    warnings.filterwarnings("ignore", message="Experiment logs directory")  # of the CSV logger: it has no log there
    with finished_wandb_run():
        for logger in make_all("logger", loggers):
            logger.log_hyperparams({"method": assessment.method, "members": members})
            logger.log_metrics(values, step=0)
            if isinstance(logger, WandbLogger):
                for path in figures:
                    logger.log_image(f"report/{path.stem}", [str(path)], step=0)
            logger.finalize("success")
