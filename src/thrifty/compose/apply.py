"""The one verb: put methods on a stock model in place, or take them off again.

`apply_` first decides everything, on the side, and only then exchanges modules, so a call that raises has changed
nothing. The order and the conflicts of methods are in `rules`.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from thrifty.compose import rules
from thrifty.compose.applied import Applied
from thrifty.core.config import MethodConfig
from thrifty.core.errors import ModelError, UsageError
from thrifty.core.inspection import is_candidate, reason_dense, refuse_wrapped
from thrifty.core.optimizers import check_optimizer
from thrifty.core.registry import ChangedLayer, Method, containers, method_of
from thrifty.core.surgery import LayerReport, named_layers, retype, swap

Filter = Callable[[str, nn.Module], bool]
_Table = Sequence[tuple[MethodConfig, Method]]


class NoEffectWarning(UserWarning):
    """A call of `apply_` changed no layer."""


@dataclass
class _Plan:
    reports: list[LayerReport] = field(default_factory=list)
    replacements: dict[nn.Module, nn.Module] = field(default_factory=dict)
    by_method: dict[str, dict[str, Any]] = field(default_factory=dict)


def apply_(
    model: nn.Module,
    methods: Sequence[MethodConfig],
    *,
    optimizer: Any = None,
    filter_fn: Filter | None = None,
    group: Any = None,
) -> Applied:
    """Change the layers of `model` in place, as the methods say.

    Parameters stay the same objects, so a live optimizer goes on with its state; state_dict keys, hooks, buffers and
    training flags stay as they are. Layers that a method cannot change stay dense, with a reason in `Applied.layers`.

    Args:
        model: a model that is not yet wrapped or compiled.
        methods: configs such as `[Reuse()]`, each method once.
        optimizer: the live optimizer, if there is one: it is checked that it belongs to this model.
        filter_fn: called with the (first) qualified name and the module of each layer that could be changed; False
            leaves it dense.
        group: the torch process group whose ranks train this model together, by DistributedDataParallel for one: their
            controllers then move together, and `Applied.step` is a call that all of them make.

    Returns:
        The account of what was changed, whose `step` belongs into the training loop.

    Raises:
        UsageError: for methods that are unknown or cannot go together, and for a foreign optimizer.
        ModelError: for a model that is wrapped, compiled, itself a single layer, or already changed by the method.

    Warns:
        NoEffectWarning: when no layer was changed.
    """
    configs = _checked(methods)
    if not isinstance(model, nn.Module):
        raise UsageError(f"apply_ takes a torch.nn.Module, got {type(model).__name__}")
    refuse_wrapped(model, "thrifty.apply_")
    present = {module.method for module in model.modules() if isinstance(module, ChangedLayer)}
    for config in configs:
        if config.method in present:
            raise ModelError(f"{config.method} is already applied to this model: call thrifty.remove_(model) first")
    rules.check([config.method for config in configs], present)
    table = [(config, method_of(config)) for config in configs]
    if optimizer is not None:
        check_optimizer(optimizer, model)

    plan = _plan(model, table, filter_fn)
    changed = {name: layer for of_method in plan.by_method.values() for name, layer in of_method.items()}
    controllers = {
        config.method: method.controller(config, plan.by_method[config.method])
        for config, method in table
        if method.controller is not None and plan.by_method[config.method]
    }
    if not changed:
        warnings.warn(_no_effect(plan, table), NoEffectWarning, stacklevel=2)
    swap(model, plan.replacements)
    for config, method in table:
        retype(model, method.containers, list(plan.by_method[config.method].values()))
    return Applied(configs, plan.reports, changed, controllers, model, group)


def remove_(model: nn.Module) -> nn.Module:
    """Put the stock layers back in place, with the same parameters; a model without changed layers stays as it is.

    Returns:
        `model`; or the stock layer, when `model` is itself a single changed layer.

    Raises:
        ModelError: for a changed model that has been wrapped or compiled since.
    """
    changed = [module for module in model.modules() if isinstance(module, ChangedLayer)]
    if not changed:
        return model
    refuse_wrapped(model, "thrifty.remove_")
    stock: dict[nn.Module, nn.Module] = {layer: layer.to_stock() for layer in changed}
    swap(model, stock)
    retype(model, containers(), list(stock.values()))
    return stock.get(model, model)


def _checked(methods: Sequence[MethodConfig]) -> list[MethodConfig]:
    if not isinstance(methods, Sequence) or isinstance(methods, str) or not methods:
        raise UsageError("apply_ takes a list of method configs, for example [thrifty.Reuse()]")
    for config in methods:
        if instead := method_of(config).instead:
            raise UsageError(instead)
    return [methods[i] for i in rules.in_order([config.method for config in methods])]


def _plan(model: nn.Module, table: _Table, filter_fn: Filter | None) -> _Plan:
    """Ask the handlers about every candidate layer; nothing is changed."""
    plan = _Plan(by_method={config.method: {} for config, _ in table})
    handled = {cls for _, method in table for cls in method.handlers}
    for (name, *aliases), module in named_layers(model):
        if not is_candidate(module, handled):
            continue
        action, reason = "dense", reason_dense(module, handled)
        if not reason and module is model:
            kind = type(module).__name__
            raise ModelError(f"the model is a bare {kind}, which only a parent can exchange: pass nn.Sequential(layer)")
        if not reason and filter_fn is not None and not filter_fn(name, module):
            reason = "left out by filter_fn"
        if not reason:
            claims, reason = _ask(module, name, table)
            if len(claims) > 1:
                both = " and ".join(claims)
                raise UsageError(f"{both} would both change layer {name!r}: apply one of them, or use filter_fn")
            for action, replacement in claims.items():
                plan.replacements[module] = replacement
                plan.by_method[action][name] = replacement
        plan.reports.append(LayerReport(name, type(module).__name__, action, reason, tuple(aliases)))
    return plan


def _ask(module: nn.Module, name: str, table: _Table) -> tuple[dict[str, nn.Module], str]:
    """Return the replacements by method, and if there is none, the reasons."""
    claims: dict[str, nn.Module] = {}
    reasons: list[str] = []
    for config, method in table:
        handler = method.handlers.get(type(module))
        if handler is None:
            continue
        answer = handler(module, name, config)
        if isinstance(answer, str):
            reasons.append(answer if len(table) == 1 else f"{config.method}: {answer}")
        else:
            _check_replacement(module, answer, name)
            claims[config.method] = answer
    return claims, "" if claims else "; ".join(reasons)


def _check_replacement(module: nn.Module, replacement: nn.Module, name: str) -> None:
    """Hold a method to the promises that are made to the user; a TypeError is the method's mistake."""
    if not isinstance(replacement, ChangedLayer) or not isinstance(replacement, type(module)):
        raise TypeError(f"layer {name!r}: {type(replacement).__name__} is no ChangedLayer of {type(module).__name__}")
    same_parameters = module._parameters.keys() == replacement._parameters.keys() and all(
        parameter is replacement._parameters[key] for key, parameter in module._parameters.items()
    )
    if not same_parameters or _persistent(module) != _persistent(replacement):
        raise TypeError(f"layer {name!r}: {type(replacement).__name__} does not hold the same parameters and buffers")


def _persistent(module: nn.Module) -> set[str]:
    return set(module._buffers) - module._non_persistent_buffers_set


def _no_effect(plan: _Plan, table: _Table) -> str:
    names = ", ".join(config.method for config, _ in table)
    if not plan.reports:
        kinds = ", ".join(sorted({cls.__name__ for _, method in table for cls in method.handlers}))
        return f"{names} changed nothing: the model has no layer of the types {kinds}"
    first = plan.reports[0]
    return (
        f"{names} changed nothing: all {len(plan.reports)} candidate layers stay dense, "
        f"the first, {first.name!r}, because: {first.reason}"
    )
