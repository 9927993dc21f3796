"""Takes a dispatch mode aside for the length of a backward pass, whose operations need not be seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode, _pop_mode_temporarily

_BACKWARD = frozenset({Tensor.backward, torch.autograd.grad, torch.autograd.backward})


class BackwardAside(TorchFunctionMode):
    """Runs first-order backward passes without a dispatch mode, where that agrees. A mode that merely looks on costs
    several microseconds an operation, and backward has more of them than the forward pass.

    Args:
        mode: the dispatch mode.
        unseen: asked at each backward pass: may it run unseen?
    """

    def __init__(self, mode: TorchDispatchMode, unseen: Callable[[], bool]) -> None:
        super().__init__()
        self._mode, self._unseen = mode, unseen

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the function."""
        kwargs = kwargs or {}
        first_order = func in _BACKWARD and not kwargs.get("create_graph") and len(args) <= 3
        # Under another mode of the user's ours stays where it is: modes are a stack.
        if first_order and self._unseen() and _get_current_dispatch_mode() is self._mode:
            with _pop_mode_temporarily():
                return func(*args, **kwargs)
        return func(*args, **kwargs)
