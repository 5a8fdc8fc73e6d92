"""Import the class or function that a `_target_` names, and inspect its signature."""

from __future__ import annotations

import builtins
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any, cast

from flowers.errors import InputError, nearest


def locate(target: object, key: str) -> Callable[..., Any]:
    """Import the class or function that a `_target_` names. Exceptions from the import of its module are not caught.

    Args:
        target: a dotted path.
        key: the node's place in the configuration, for messages.

    Raises:
        InputError: there is no such module or name, or it cannot be called.
    """
    if callable(target):
        return target
    place = f"{key}._target_={target}"
    parts = str(target).split(".")
    if not isinstance(target, str) or not all(part.isidentifier() for part in parts) or len(parts) < 2:
        raise InputError(f"{place}: expected the dotted path of a class or function, such as my_project.model.Net.")
    found = _import_module(parts[0], place)
    for number, part in enumerate(parts[1:], start=1):
        path = ".".join(parts[: number + 1])
        if inspect.ismodule(found) and not hasattr(found, part) and _is_module(path):
            found = _import_module(path, place)
        elif hasattr(found, part):
            found = getattr(found, part)
        else:
            hint = nearest(part, [name for name in dir(found) if not name.startswith("_")])
            raise InputError(f"{place}: {'.'.join(parts[:number])} has no {part}.{hint}")
    if not callable(found):
        raise InputError(f"{place}: expected a class or function, found a {type(found).__name__}.")
    return cast(Callable[..., Any], found)


def _is_module(path: str) -> bool:
    try:
        return importlib.util.find_spec(path) is not None
    except ModuleNotFoundError:  # its parent is not a package
        return False


def _import_module(path: str, place: str) -> Any:
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name != path:
            raise
        raise InputError(
            f"{place}: there is no module {path}. Modules are looked for in the current directory and among the "
            "installed packages; correct the path, or install the package."
        ) from None


def require_package(key: str, module: str, distribution: str) -> None:
    """Raise `InputError`, with the command that installs it, if the module that a setting needs is missing."""
    if importlib.util.find_spec(module) is None:
        raise InputError(f"{key}: expected the package {module}, found none. Install it: pip install {distribution}")


def parameters_of(target: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], bool]:
    """Return the parameters of a class or function by name, and whether it takes any others (`**kwargs`)."""
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):  # it is written in C
        return {}, True
    named = {
        name: parameter
        for name, parameter in parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    return named, any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())


def is_required(parameter: inspect.Parameter) -> bool:
    """Return whether a parameter has no default."""
    return parameter.default is parameter.empty


def hints_of(target: Callable[..., Any], parameters: Mapping[str, inspect.Parameter]) -> dict[str, Any]:
    """Return the types of a target's parameters; Any where there is no annotation, or it cannot be evaluated."""
    function = inspect.unwrap(target.__init__ if inspect.isclass(target) else target)
    # A dataclass inherits the annotations of its bases, which refer to names in the modules of the bases.
    owners = [owner.__module__ for owner in reversed(inspect.getmro(target))] if inspect.isclass(target) else []
    names: dict[str, Any] = {}
    for module in [*owners, target.__module__]:
        names |= vars(sys.modules.get(module, builtins))
    names |= getattr(function, "__globals__", {})
    hints = {}
    for name, parameter in parameters.items():
        hint = parameter.annotation
        try:
            hints[name] = eval(hint, names) if isinstance(hint, str) else hint
        except Exception:  # an annotation may use a name that is imported for type checkers only
            hints[name] = Any
    return {name: Any if hint is inspect.Parameter.empty else hint for name, hint in hints.items()}
