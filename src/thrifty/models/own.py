"""Networks of the user: `package.module:function`, found on Python's path or in the working directory."""

import importlib
import inspect
import os
import sys
from collections.abc import Callable
from typing import Any

from torch import nn

from thrifty.core.errors import ModelError, UsageError


def find(name: str) -> Callable[..., Any]:
    """The function, or class, that `package.module:function` names.

    Raises:
        UsageError: no such module or function, or the module fails when it is imported.
    """
    module_name, _, path = name.partition(":")
    if not module_name or not path:
        raise UsageError(f"'{name}' is not a model: write package.module:function")
    if os.getcwd() not in sys.path:  # a console script does not look in the working directory by itself
        sys.path.append(os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:  # whatever the user's module raises while it is imported
        raise UsageError(
            f"cannot import {module_name} for the model {name}: {type(error).__name__}: {error}"
        ) from error
    for part in path.split("."):
        if not hasattr(found, part):
            raise UsageError(f"{module_name} has no '{path}': check the part of {name} after the colon")
        found = getattr(found, part)
    if not callable(found):
        raise UsageError(f"{name} is not a function or class but {type(found).__name__}")
    return found


def build_own(name: str, **keywords: Any) -> nn.Module:
    """Call the user's function with those `keywords` that it accepts, and check that a module came back.

    Raises:
        UsageError: see `find`; or the function needs an argument that we do not have.
        ModelError: the function raised, or returned something that is no `nn.Module`.
    """
    function = find(name)
    accepted = _accepted(name, function, keywords)
    try:
        model = function(**accepted)
    except Exception as error:  # the user's code may raise anything; the cause stays attached
        raise ModelError(f"{name} failed with {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"{name} returned {type(model).__name__}: it must return a torch.nn.Module")
    return model


def _accepted(name: str, function: Callable[..., Any], keywords: dict[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return keywords
    named = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    for p in parameters:
        needed = p.default is p.empty and p.kind is not p.VAR_POSITIONAL
        if needed and (p.name not in keywords or p.kind is p.POSITIONAL_ONLY):
            raise UsageError(
                f"{name} needs an argument '{p.name}': give it a default; known are {', '.join(sorted(keywords))}"
            )
    return {key: value for key, value in keywords.items() if key in named}
