"""Run a notebook's cells in IPython, shell commands included: `python -m tests.helpers.run_notebook FILE SETTINGS`.

SETTINGS are variables as JSON. They replace what the first executed cell has set. Cells tagged `install` or `colab` are
skipped, as they would change the environment or need Colab. A cell or a command that fails ends the process.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from IPython.core.interactiveshell import InteractiveShell

SKIPPED_TAGS = {"install", "colab"}


def main(path: str, settings: str) -> None:
    shell = InteractiveShell.instance(history_length=0)
    given = json.loads(settings)
    for cell in json.loads(Path(path).read_text())["cells"]:
        if cell["cell_type"] != "code" or SKIPPED_TAGS & set(cell["metadata"].get("tags", [])):
            continue
        source = "".join(cell["source"])
        shell.run_cell(source).raise_error()
        if shell.user_ns.get("_exit_code"):
            sys.exit(f"{path}: status {shell.user_ns['_exit_code']} of the last command of:\n{source}")
        shell.user_ns |= given
        given = {}


if __name__ == "__main__":
    main(*sys.argv[1:])
