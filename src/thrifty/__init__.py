"""Train the same PyTorch network for less compute, and see what you saved.

    import thrifty
    applied = thrifty.apply_(model, [thrifty.Reuse()], optimizer=optimizer)

Names are loaded on first use, so that `import thrifty` costs little beside `import torch`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thrifty.autodiff import (
        MemoryLimit,
        checkpointing,
        curl,
        derivative,
        divergence,
        grad,
        hessian,
        hvp,
        jacfwd,
        jacrev,
        jvp,
        laplacian,
        value_and_grad,
        vjp,
    )
    from thrifty.compose import Auto, NoEffectWarning, Plan, apply_, auto_, plan, remove_
    from thrifty.compose.together import Together, together
    from thrifty.distributed import MergedGradients
    from thrifty.distributed.precision import Precision
    from thrifty.lsh import LSH
    from thrifty.reuse import Reuse, Stage

    __version__: str

__all__ = [
    "LSH",
    "Auto",
    "MemoryLimit",
    "MergedGradients",
    "NoEffectWarning",
    "Plan",
    "Precision",
    "Reuse",
    "Stage",
    "Together",
    "__version__",
    "apply_",
    "auto_",
    "checkpointing",
    "curl",
    "derivative",
    "divergence",
    "grad",
    "hessian",
    "hvp",
    "jacfwd",
    "jacrev",
    "jvp",
    "laplacian",
    "plan",
    "remove_",
    "together",
    "value_and_grad",
    "vjp",
]

# public name -> the module that defines it
_HOMES = {
    "Auto": "thrifty.compose",
    "LSH": "thrifty.lsh",
    "MemoryLimit": "thrifty.autodiff",
    "MergedGradients": "thrifty.distributed",
    "NoEffectWarning": "thrifty.compose",
    "Plan": "thrifty.compose",
    "Precision": "thrifty.distributed.precision",
    "Reuse": "thrifty.reuse",
    "Stage": "thrifty.reuse",
    "Together": "thrifty.compose.together",
    "apply_": "thrifty.compose",
    "auto_": "thrifty.compose",
    "checkpointing": "thrifty.autodiff",
    "curl": "thrifty.autodiff",
    "derivative": "thrifty.autodiff",
    "divergence": "thrifty.autodiff",
    "grad": "thrifty.autodiff",
    "hessian": "thrifty.autodiff",
    "hvp": "thrifty.autodiff",
    "jacfwd": "thrifty.autodiff",
    "jacrev": "thrifty.autodiff",
    "jvp": "thrifty.autodiff",
    "laplacian": "thrifty.autodiff",
    "plan": "thrifty.compose",
    "remove_": "thrifty.compose",
    "together": "thrifty.compose.together",
    "value_and_grad": "thrifty.autodiff",
    "vjp": "thrifty.autodiff",
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
