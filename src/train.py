"""Train a model: python src/train.py [group=NAME ...] [key=VALUE ...]; --help lists them."""

from __future__ import annotations

from omegaconf import DictConfig

from flowers.cli import run_command


def main(config: DictConfig) -> float | None:
    from flowers.reporting.summary import print_metrics, print_run, print_skipped
    from flowers.training.loggers import finished_wandb_run
    from flowers.training.train import train

    with finished_wandb_run():  # after the results are written and printed
        run, metrics, skipped = train(config)
        print_metrics(metrics)
        print_skipped(skipped)
        print_run(run.directory)
    return metrics.get(config.monitor.metric)


if __name__ == "__main__":
    run_command(main, "train")
