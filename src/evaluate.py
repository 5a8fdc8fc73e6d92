"""Recompute a run's figures from its best checkpoint: python src/evaluate.py run=DIR."""

from __future__ import annotations

from omegaconf import DictConfig

from flowers.door import open_door


def main(config: DictConfig) -> float | None:
    from flowers.reporting.summary import print_metrics, print_skipped
    from flowers.training.evaluate import evaluate

    metrics, skipped = evaluate(config)
    print_metrics(metrics)
    print_skipped(skipped)
    return metrics.get("val/macro_f1")


if __name__ == "__main__":
    open_door(main, "evaluate")
