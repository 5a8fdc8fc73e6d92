"""The examples print what the documentation shows."""

from __future__ import annotations

import re
import subprocess
import sys

from tests.helpers.commands import ROOT


def test_the_batch_order_is_that_of_the_documentation() -> None:
    page = (ROOT / "docs/data.md").read_text()
    shown = re.search(r"\$ python examples/batch_order\.py\n((?:    .*\n)+)", page)
    assert shown is not None
    command = [sys.executable, "examples/batch_order.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [line.removeprefix("    ") for line in shown[1].splitlines()]
    alone = subprocess.run([*command, "0"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert re.sub(r"worker \d", "no worker", done.stdout) == alone.stdout
