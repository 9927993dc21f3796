"""The methods by their short name, for those who take names: a command line, a settings file.

The packages are imported when they are asked for, so that one method does not pay for the others.
"""

import importlib

from thrifty.core.config import MethodConfig
from thrifty.core.errors import UsageError

_HOMES = {
    "lsh": ("thrifty.lsh", "LSH"),
    "merge": ("thrifty.distributed", "MergedGradients"),
    "reuse": ("thrifty.reuse", "Reuse"),
}


def method_names() -> tuple[str, ...]:
    """Return the short names that `config_type` knows."""
    return tuple(_HOMES)


def config_type(name: str) -> type[MethodConfig]:
    """Return the config class of the method `name`, registered and ready for `apply_`.

    Raises:
        UsageError: for an unknown name; the message lists the known ones.
    """
    if name not in _HOMES:
        raise UsageError(f"unknown method '{name}'; known: {', '.join(_HOMES)}")
    module, attribute = _HOMES[name]
    found: type[MethodConfig] = getattr(importlib.import_module(module), attribute)
    return found
