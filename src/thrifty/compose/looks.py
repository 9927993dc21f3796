"""Looks: what methods can tell of their layers on the inputs that these get, for reports and plans.

A method that registers `Method.look` is asked, layer by layer, with the inputs of one pass of the model.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from torch import Tensor, nn

from thrifty.compose.applied import Applied
from thrifty.core.errors import ThriftyError
from thrifty.core.registry import method_of

ROWS = 512  # of an input that are kept, at most


class Looks:
    """Within `with`, keeps some of the inputs that the changed layers get in the first pass of `model`.

    Args:
        model: under the methods of `applied`.
        applied: their handle; None for a model without methods.
    """

    def __init__(self, model: nn.Module, applied: Applied | None) -> None:
        self._look = {} if applied is None else {
            config.method: look for config in applied.methods if (look := method_of(config).look) is not None
        }  # fmt: skip
        self._layers = {
            name: module for name, module in model.named_modules() if getattr(module, "method", None) in self._look
        }
        self._inputs: dict[str, Tensor] = {}
        self._hooks: list[Any] = []

    def __enter__(self) -> Self:
        for name, layer in self._layers.items():
            self._hooks.append(layer.register_forward_pre_hook(self._keep(name)))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def any(self) -> bool:
        """Whether there is a layer to look at."""
        return bool(self._layers)

    def found(self) -> dict[str, dict[str, Any]]:
        """What the methods tell, plain data by layer; a layer that got no input, or none that can be looked at, is
        left out.
        """
        told = {}
        for name, x in self._inputs.items():
            layer = self._layers[name]
            try:
                told[name] = self._look[layer.method](layer, x)
            except ThriftyError:
                continue  # NaN among the inputs, say: the training tells of it
        return told

    def _keep(self, name: str) -> Any:
        def hook(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            if name not in self._inputs and inputs and isinstance(inputs[0], Tensor) and inputs[0].numel():
                x = inputs[0].detach()
                self._inputs[name] = x.reshape(-1, x.shape[-1])[:ROWS].clone() if x.dim() else x

        return hook
