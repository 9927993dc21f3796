"""Train the same PyTorch network for less compute, and see what you saved.

    import thrifty
    applied = thrifty.apply_(model, [thrifty.Reuse()], optimizer=optimizer)

Names are loaded on first use, so that `import thrifty` costs little beside `import torch`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thrifty.compose import NoEffectWarning, apply_, remove_
    from thrifty.lsh import LSH
    from thrifty.reuse import Reuse, Stage

    __version__: str

__all__ = ["LSH", "NoEffectWarning", "Reuse", "Stage", "__version__", "apply_", "remove_"]

# public name -> the module that defines it
_HOMES = {
    "LSH": "thrifty.lsh",
    "NoEffectWarning": "thrifty.compose",
    "Reuse": "thrifty.reuse",
    "Stage": "thrifty.reuse",
    "apply_": "thrifty.compose",
    "remove_": "thrifty.compose",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib import metadata

        value: Any = metadata.version("thrifty")
    elif name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module 'thrifty' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
