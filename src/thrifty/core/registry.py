"""The table of methods: for each config class, how the method treats each type of layer and who steers it.

A method registers itself when its package is imported:

    register_method(Reuse, Method(handlers={nn.Conv2d: reuse_conv2d, nn.Linear: reuse_linear}, controller=Stages))

Types are matched exactly: a subclass may have a forward of its own, so it is left dense.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, is_dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import nn

from thrifty.core.config import MethodConfig
from thrifty.core.counters import Event, LayerCounters
from thrifty.core.errors import UsageError

Handler = Callable[[Any, str, Any], nn.Module | str]
"""`handler(module, name, config)` returns the replacement, or the reason why the layer stays dense.

It is called before anything is changed and must not change `module`: `surgery.adopt` builds the replacement.
"""


@runtime_checkable
class ChangedLayer(Protocol):
    """What a replacement offers besides being a module of the stock class.

    Attributes:
        method: the short name of the method that made it, as in its config.
    """

    method: ClassVar[str]

    @property
    def counters(self) -> LayerCounters:
        """The layer's live counters; whoever reads them copies them."""
        ...

    def trace_row(self) -> dict[str, Any] | None:
        """Return what was observed since the last call, or None when nothing was.

        The row is plain data: `{"stage": int, "remaining_ratio": float, "error": float}`, more keys are welcome;
        "step" and "layer" are filled in by the caller.
        """
        ...

    def to_stock(self) -> nn.Module:
        """Return the stock layer with the same parameters; see `surgery.restore`. The layer itself stays as it is."""
        ...


class Controller(Protocol):
    """Moves a method's settings while training goes on.

    It alone owns what must survive a resume: state of layers that a later step depends on belongs into its state.
    """

    def step(self, step: int, loss: float) -> list[Event]:
        """Take notice of the loss of training step `step` (counted from 1) and return the moves made."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain data and tensors."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over such a state and set the layers accordingly."""
        ...


@runtime_checkable
class Measuring(Protocol):
    """A controller that goes by clocks, which differ between the processes that train one model together."""

    def measured(self) -> list[float]:
        """What the step that ends was measured to be: as many numbers on every process."""
        ...

    def agree(self, means: list[float]) -> None:
        """Take the means over all processes in place of what was measured here; `step` follows."""
        ...


@dataclass(frozen=True)
class Method:
    """How a method works on a model.

    Attributes:
        handlers: exact layer type to handler.
        controller: `controller(config, layers)` makes the controller over the replacements by name, before they are
            put into the model; None for a method that never moves.
        containers: stock container type to a subclass that runs its layers in another way. A container that holds a
            replacement of this method becomes one, in place, as long as the method is on the model.
        look: `look(layer, x)` tells of a replacement on inputs (rows, D) like those it gets, as plain data, and changes
            nothing; None for a method that has nothing to tell.
        instead: for a method that does not change layers, what to call in place of `apply_`: why, and what.
    """

    handlers: Mapping[type[nn.Module], Handler]
    controller: Callable[[Any, dict[str, Any]], Controller] | None = None
    containers: Mapping[type[nn.Module], type[nn.Module]] = field(default_factory=dict)
    look: Callable[[Any, Any], dict[str, Any]] | None = None
    instead: str = ""


_methods: dict[type[MethodConfig], Method] = {}


def register_method(config_class: type[MethodConfig], method: Method) -> None:
    """Make `method` the meaning of configs of exactly `config_class`; registering again replaces it.

    Raises:
        TypeError: when the config is not a frozen dataclass derived from `MethodConfig` with a `method` name.
    """
    if not (isinstance(config_class, type) and issubclass(config_class, MethodConfig) and is_dataclass(config_class)):
        raise TypeError(f"{config_class!r} is not a dataclass derived from MethodConfig")
    if not config_class.__dataclass_params__.frozen or "__dataclass_params__" not in vars(config_class):  # type: ignore[attr-defined]
        raise TypeError(f"{config_class.__name__} must be decorated with @dataclass(frozen=True)")
    if not isinstance(getattr(config_class, "method", None), str):
        raise TypeError(f"{config_class.__name__} must set the class variable `method`, its short name")
    _methods[config_class] = method


def containers() -> dict[type[nn.Module], type[nn.Module]]:
    """Return the stock type of every container type that a registered method puts in its place."""
    return {own: stock for method in _methods.values() for stock, own in method.containers.items()}


def method_of(config: MethodConfig) -> Method:
    """Return the method registered for the type of `config`.

    Raises:
        UsageError: when `config` is no config instance or its type is not registered.
    """
    if isinstance(config, type) and issubclass(config, MethodConfig):
        raise UsageError(f"{config.__name__} is a class: pass an instance, {config.__name__}()")
    method = _methods.get(type(config))
    if method is None:
        known = ", ".join(sorted(kind.__name__ for kind in _methods)) or "none"
        raise UsageError(f"{type(config).__name__} is not a registered method config; known here: {known}")
    return method
