"""Finds the compiled kernels, `thrifty._native`, or the reason why they are not there.

torch is imported first: its OpenMP runtime is then already in the process and the kernels share it, so that there is one
thread pool and `torch.set_num_threads` governs both.
"""

import functools
import os
from types import ModuleType

REBUILD = "install a C++17 compiler and run `make build` (in a checkout) or install thrifty again"


class IsaError(ValueError):
    """`THRIFTY_ISA` names an instruction set that is unknown or that this machine lacks."""


@functools.cache
def _load() -> tuple[ModuleType | None, str | None]:
    if os.environ.get("THRIFTY_NATIVE", "1") == "0":
        return None, "switched off by THRIFTY_NATIVE=0"
    import torch  # noqa: F401  (see the module docstring)

    try:
        from thrifty import _native
    except ImportError as error:
        return None, f"{error}; {REBUILD}"
    try:
        _native.isa()
    except ValueError as error:
        raise IsaError(str(error)) from None
    return _native, None


def native() -> ModuleType | None:
    """The module of compiled kernels, or None where the reference path must do.

    Raises:
        IsaError: the environment variable THRIFTY_ISA is not usable here.
    """
    return _load()[0]


def missing_reason() -> str | None:
    """Why `native()` is None and what would change it; None when the kernels are there."""
    return _load()[1]
