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
_OF_THE_WHOLE_MODEL = {"merge"}
"""Known to `config_type`, and nothing for `apply_`; see `registry.Method.instead`."""


def method_names() -> tuple[str, ...]:
    """Return the short names of the methods for `apply_`."""
    return tuple(name for name in _HOMES if name not in _OF_THE_WHOLE_MODEL)


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
