"""Blend runs' predictions into one submission: python src/ensemble.py 'runs=[DIR,DIR]' [method=NAME]."""

from __future__ import annotations

from omegaconf import DictConfig

from flowers.cli import run_command


def main(config: DictConfig) -> float:
    from flowers.ensembling.ensemble import ensemble
    from flowers.reporting.ensemble import draw_ensemble, log_ensemble, print_ensemble

    result = ensemble(config)
    figures = draw_ensemble(result)
    print_ensemble(result, figures)
    log_ensemble(result, figures, config)
    return result.assessment.ensemble.validated.value


if __name__ == "__main__":
    run_command(main, "ensemble")
