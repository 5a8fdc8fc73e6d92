"""An XLA strategy that records compilations. It has its own module because workers must not import torch_xla."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flowers.training.xla.strategy import SPMDStrategy


class Counting(SPMDStrategy):
    """Writes to `path`, for each predicted batch, the counts of compilations and of operations run on the host."""

    def __init__(self, path: str, **settings: Any) -> None:
        super().__init__(**settings)
        self._path = Path(path)
        self._counts: list[dict[str, Any]] = []

    def predict_step(self, *args: Any, **kwargs: Any) -> Any:
        output = super().predict_step(*args, **kwargs)
        self._counts.append(asdict(self.compile_counts()))
        return output

    def teardown(self) -> None:
        self._path.write_text(json.dumps(self._counts))
        super().teardown()
