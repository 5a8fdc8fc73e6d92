"""Recompute a run's figures from its best checkpoint: python src/evaluate.py run=DIR."""

from __future__ import annotations

from omegaconf import DictConfig

from flowers.cli import run_command


def main(config: DictConfig) -> float | None:
    from flowers.inference.evaluate import evaluate
    from flowers.reporting.summary import print_metrics, print_skipped

    metrics, skipped = evaluate(config)
    print_metrics(metrics)
    print_skipped(skipped)
    return metrics.get("val/macro_f1")


if __name__ == "__main__":
    run_command(main, "evaluate")
