"""Is a live optimizer still the optimizer of this model?

Surgery keeps the Parameter objects, and optimizers key their state by these objects: momentum and the like go on
without rebinding. What can be wrong is the optimizer that is handed over, and this is looked at before any change.
"""

from typing import Any, Protocol, runtime_checkable

from torch import nn

from thrifty.core.errors import UsageError


@runtime_checkable
class Lazy(Protocol):
    """An optimizer that leaves rows without a gradient behind, until somebody is about to read them."""

    def catch_up(self, p: Any, rows: Any = None, *, unique: bool = False) -> None:
        """Bring rows of a parameter to where the dense optimizer would have them."""
        ...


def check_optimizer(optimizer: Any, model: nn.Module) -> None:
    """Make sure that `optimizer` updates at least one parameter of `model`.

    Args:
        optimizer: a `torch.optim.Optimizer` or a wrapper with `param_groups`.
        model: the model that is about to be changed.

    Raises:
        UsageError: when it is no optimizer, or holds none of the model's parameters.
    """
    groups = getattr(optimizer, "param_groups", None)
    if not isinstance(groups, list):
        raise UsageError(f"optimizer= takes a torch.optim.Optimizer, got {type(optimizer).__name__}")
    mine = {id(parameter) for parameter in model.parameters()}
    held = {id(parameter) for group in groups for parameter in group["params"]}
    if mine and not mine & held:
        raise UsageError(
            "the optimizer holds none of the model's parameters: build it from model.parameters() of this very model "
            "(after any .to() or deepcopy), or leave optimizer= out"
        )
