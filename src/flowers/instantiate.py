"""Instantiate configured objects, with plain Python lists and dicts instead of OmegaConf's."""

from __future__ import annotations

import sysconfig
from collections.abc import Mapping
from pathlib import Path
from traceback import walk_tb
from types import TracebackType
from typing import Any

import hydra.utils
from hydra.errors import InstantiationException

from flowers.errors import InputError

_HYDRA = Path(hydra.__file__).resolve().parent
_LIBRARIES = tuple(Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib", "stdlib"))


def instantiate(key: str, node: Mapping[str, Any], **given: Any) -> Any:
    """Instantiate the object that a node describes.

    Lists and dicts are converted to plain Python ones. By default Hydra passes OmegaConf's. Optimizers and callbacks
    would save those in the checkpoint, where `torch.load(weights_only=True)` refuses them.

    Args:
        key: the node's place in the configuration, for messages.
        node: a mapping with a `_target_`.
        given: further arguments, which replace those of the node.

    Raises:
        InputError: a library's class refuses its settings. Exceptions from the user's classes and from this package
            are not caught.
    """
    try:
        return hydra.utils.instantiate(node, _convert_="all", **given)
    except InstantiationException as error:
        cause = error.__cause__
        if cause is None:
            raise InputError(f"{key}: {str(error).partition(chr(10))[0]}") from error
        if isinstance(cause, Exception) and not isinstance(cause, InputError) and _is_of_library(cause.__traceback__):
            raise InputError(f"{key}: {' '.join(str(cause).split())}") from error
        raise cause from cause.__cause__


def _is_of_library(traceback: TracebackType | None) -> bool:
    """Return whether the call failed at once, or in the code of an installed library."""
    files = [Path(frame.f_code.co_filename).resolve() for frame, _ in walk_tb(traceback)]
    called = [file for file in files if file != Path(__file__).resolve() and not file.is_relative_to(_HYDRA)]
    return not called or any(called[0].is_relative_to(library) for library in _LIBRARIES)
