"""Let Hydra read each configuration file once per process: the tests compose about a thousand configurations."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.core_plugins.importlib_resources_config_source import ImportlibResourcesConfigSource


def read_once() -> None:
    """Keep what Hydra's two readers of files return. A file that has changed since is read again."""
    for source in (FileConfigSource, ImportlibResourcesConfigSource):
        _keep_results(source)


def _keep_results(source: Any) -> None:
    load, kept = source.load_config, {}

    def load_once(self: Any, config_path: str) -> Any:
        file = Path(self.path, config_path)
        file = file.with_name(f"{file.name.removesuffix('.yaml')}.yaml")
        state = file.stat() if file.exists() else None  # none within a package
        key = self.path, config_path, state and (state.st_ino, state.st_mtime_ns, state.st_size)
        if key not in kept:
            kept[key] = load(self, config_path)
        return copy.deepcopy(kept[key])

    source.load_config = load_once
