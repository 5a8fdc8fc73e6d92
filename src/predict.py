"""Write a run's predictions and submission: python src/predict.py run=DIR split=test."""

from __future__ import annotations

from omegaconf import DictConfig

from flowers.cli import run_command


def main(config: DictConfig) -> None:
    from flowers.inference.predict import predict
    from flowers.reporting.summary import print_skipped, print_written

    written = predict(config)
    print_written(written.files, written.rows)
    print_skipped(written.skipped)


if __name__ == "__main__":
    run_command(main, "predict")
