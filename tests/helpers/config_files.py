"""Let Hydra read each configuration file once per process: the tests compose about a thousand configurations."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigSource


def read_once() -> None:
    """Keep what Hydra's readers of files return. A file that has changed since is read again."""
    # Hydra executes the modules of its plugins when it looks for them, so classes imported before are not those in use.
    for source in Plugins.instance().discover(ConfigSource):
        if source.scheme() in ("file", "pkg"):
            _keep_results(source)


def _keep_results(source: Any) -> None:
    load, kept = source.load_config, {}

    def load_once(self: Any, config_path: str) -> Any:
        file = Path(self.path, config_path)
        file = file.with_name(f"{file.name.removesuffix('.yaml')}.yaml")
        state = file.stat() if file.exists() else None  # none within a package
        key = self.path, config_path, state and (state.st_ino, state.st_mtime_ns, state.st_size)
        if key not in kept:
            kept[key] = pickle.dumps(load(self, config_path))
        return pickle.loads(kept[key])  # faster than a deep copy

    source.load_config = load_once
