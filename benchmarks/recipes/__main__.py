"""Compare recipes: python -m benchmarks.recipes data.root=DIR [key=VALUE ...], or summarise; --help lists them."""

from __future__ import annotations

import sys
from pathlib import Path

from omegaconf import DictConfig

from flowers.cli import run_command
from flowers.settings import load_settings


def main(config: DictConfig) -> None:
    """Run the trainings that are not finished yet, and print and plot the results."""
    from hydra.core.hydra_config import HydraConfig

    from benchmarks.recipes.plan import RecipeSettings, make_plan
    from benchmarks.recipes.report import print_absent, print_outcome, print_summaries
    from benchmarks.recipes.run import run_tasks

    settings = load_settings(RecipeSettings, config)
    plan = make_plan(settings, HydraConfig.get().runtime.choices.get("ablation"))
    print_absent(plan.absent)
    results, failed = Path(settings.results), []
    for outcome in run_tasks(plan.tasks, results, force=settings.force):
        print_outcome(outcome)
        failed += [outcome.task.key] if outcome.status == "failed" else []
    names = {task.name for task in plan.tasks}
    print_summaries(results, plan.reference, {task.group for task in plan.tasks}, names)
    if failed:
        count = f"{len(failed)} of {len(plan.tasks)} trainings failed"
        sys.exit(f"error: {count}: {', '.join(failed)}. Fix what their logs name, and run the command again.")


def summarise(config: DictConfig) -> None:
    """Print and plot the results of earlier runs."""
    from benchmarks.recipes.report import SummarySettings, print_summaries

    settings = load_settings(SummarySettings, config)
    print_summaries(Path(settings.results), settings.reference)


if __name__ == "__main__":
    if sys.argv[1:2] == ["summarise"]:
        del sys.argv[1]  # Hydra would parse it as an override
        run_command(summarise, "benchmark_recipes_summary")
    else:
        run_command(main, "benchmark_recipes")
