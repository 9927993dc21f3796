"""Finds the compiled kernels, `thrifty._native`, or the reason why they are not there.

`native` is the module of compiled kernels, or None where the reference path must do; `reason` then says why in one line
and what would change it, and is None otherwise. Importing this module raises ValueError when the environment variable
THRIFTY_ISA names an instruction set that is unknown or that this machine lacks. THRIFTY_NATIVE=0 leaves the kernels
unused, so that a suspicion against them can be tested.

torch is imported first: its OpenMP runtime is then already in the process and the kernels share it, so that there is
one thread pool and `torch.set_num_threads` governs both.
"""

import importlib
import os
from types import ModuleType
from typing import Any

import torch  # noqa: F401  (before the kernels: see above)

REBUILD = "install a C++17 compiler, then run `make build` in a checkout, or install thrifty again"


def _load() -> tuple[ModuleType | None, str | None]:
    if os.environ.get("THRIFTY_NATIVE") == "0":
        return None, "switched off by THRIFTY_NATIVE=0; unset it to use the kernels"
    try:
        module = importlib.import_module("thrifty._native")
    except ModuleNotFoundError:
        return None, f"not built; {REBUILD}"
    except ImportError as error:
        return None, f"built but not loadable ({error}); {REBUILD}"
    module.isa()  # chooses; raises ValueError for an unusable THRIFTY_ISA
    return module, None


native: Any  # the module or None; its functions are compiled and have no types
native, reason = _load()
