"""Configured objects are made here, so that none of them ever holds a container of OmegaConf's."""

from __future__ import annotations

from typing import Any

import hydra.utils


def instantiate(node: Any, **arguments: Any) -> Any:
    """Make the object that a node with a `_target_` describes; `arguments` override the node's.

    Lists and dicts arrive as Python's own. Hydra's default hands over OmegaConf's, which an optimizer or a callback
    puts into the checkpoint, where `torch.load(weights_only=True)` refuses them.
    """
    return hydra.utils.instantiate(node, _convert_="all", **arguments)
