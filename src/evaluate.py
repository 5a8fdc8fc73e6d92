"""Recompute a run's metrics from its best checkpoint: python src/evaluate.py run=DIR."""

from flowers.commands import evaluate

if __name__ == "__main__":
    evaluate()
