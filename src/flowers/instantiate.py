"""Make configured objects. None of them ever holds a container of OmegaConf's."""

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
    """Make the object that a node describes.

    Lists and dicts arrive as Python's own. Hydra's default hands over OmegaConf's, which an optimizer or a callback
    puts into the checkpoint, where `torch.load(weights_only=True)` refuses them.

    Args:
        key: where the node is configured, for messages.
        node: a mapping with a `_target_`.
        given: arguments besides those of the node; they win over the node's.

    Raises:
        InputError: a library's class refuses its settings. What a class of the user's or of this package raises is
            not caught.
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
    """Tell whether the call that Hydra made was refused at once, or by the code of an installed library."""
    files = [Path(frame.f_code.co_filename).resolve() for frame, _ in walk_tb(traceback)]
    called = [file for file in files if file != Path(__file__).resolve() and not file.is_relative_to(_HYDRA)]
    return not called or any(called[0].is_relative_to(library) for library in _LIBRARIES)
