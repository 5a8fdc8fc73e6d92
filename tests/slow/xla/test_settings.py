"""The settings of the trainers for TPUs, whose class imports torch_xla, are accepted."""

from __future__ import annotations

import subprocess
import sys

from tests.helpers.commands import ROOT


def test_the_trainers_for_tpus_are_accepted() -> None:
    script = (
        "from flowers.settings import find_node_problems as find\n"
        "from flowers.training.lightning_trainer import TRAINER\n"
        "from tests.helpers.configuration import compose_values\n"
        "for choice in ('tpu', 'tpu_pod'):\n"
        "    for name in ('train', 'benchmark_step'):\n"
        "        print(*find('trainer', compose_values(name, f'trainer={choice}')['trainer'], TRAINER), sep='\\n')\n"
        "trainer = compose_values('train', 'trainer=tpu', 'trainer.strategy.hosts=0')['trainer']\n"
        "print(*find('trainer', trainer, TRAINER), sep='\\n')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [line.partition(":")[0] for line in done.stdout.split("\n") if line] == ["trainer.strategy.hosts=0"]
