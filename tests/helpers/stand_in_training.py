"""A stand-in for `src/train.py`: three epochs, whose metric follows from the values of `x` and `y`.

Overrides: `fail=true` ends it as a NaN does. `slow=SECONDS` waits in each epoch. `started=FILE` gets a line at each
start, and `wait=FILE` holds the end of the training until the file exists.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

EPOCHS = 3


def main(given: dict[str, str]) -> None:
    run = Path(given["hydra.run.dir"].strip("'"))
    run.mkdir(parents=True, exist_ok=True)
    (run / "config.yaml").write_text(f"data: {{}}\nmodel: {{}}\ntrainer: {{max_epochs: {EPOCHS}}}\n")
    (run / "owner").write_text(str(os.getppid()))
    if "started" in given:
        with Path(given["started"]).open("a") as file:
            file.write(f"{run.name}\n")
    if given.get("fail") == "true" or given.get("fail") == given["y"]:
        sys.exit("error: step 3 (epoch 0): expected a finite loss, found nan.")
    value = float(given["x"]) + (given["y"] == "a")
    rows = ["epoch,step,val/macro_f1"]
    for epoch in range(EPOCHS):
        time.sleep(float(given.get("slow", 0)))
        rows.append(f"{epoch},{epoch},{value * (epoch + 1) / EPOCHS}")
        (run / "metrics.csv").write_text("\n".join(rows) + "\n")
    while "wait" in given and not Path(given["wait"]).exists():
        time.sleep(0.01)
    part = run / "metrics.json.part"
    part.write_text(json.dumps({"val/macro_f1": value}))
    part.rename(run / "metrics.json")


if __name__ == "__main__":
    main(dict(argument.split("=", 1) for argument in sys.argv[1:]))
