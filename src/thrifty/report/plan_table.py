"""A plan on the terminal: the combinations that were tried, and the layers that cost most."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from thrifty.compose.candidate import DENSE
from thrifty.compose.planning import Plan, PlannedLayer
from thrifty.report import numbers
from thrifty.report.costs import UNREST

MOST_LAYERS = 12


def plan_table(plan: Plan, most_layers: int = MOST_LAYERS) -> RenderableType:
    """Tables of a plan with a sentence on what to do; the layers are those that take longest when dense."""
    busy = f"The machine was busy: a step took up to {plan.unrest:.1f} times its shortest. Plan again when it is quiet."
    return Group(
        _options(plan),
        Text(verdict(plan), style="green" if plan.best != "dense" else ""),
        *([Text(busy, style="yellow")] if plan.unrest > UNREST else []),
        *_layers(plan, most_layers),
    )


def verdict(plan: Plan) -> str:
    """What follows from the plan, in one sentence."""
    choice = plan.choice
    if choice.name == "dense":
        return "Stay dense: nothing that was tried is worth it on this model, this batch and this machine."
    return (
        f"Use {choice.name}: a step takes {numbers.seconds(choice.step_s)} instead of "
        f"{numbers.seconds(plan['dense'].step_s)}, {numbers.ratio(choice.speedup)} as fast; "
        f"its gradient is {numbers.plain(choice.gradient_error)} away from the dense one."
    )


def _options(plan: Plan) -> Table:
    grid = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), title=f"Measured in {plan.steps} steps each",
                 title_justify="left", title_style="bold")  # fmt: skip
    grid.add_column("tried", overflow="fold")
    for heading in ("step", "as fast", "kept for backward", "gradient error"):
        grid.add_column(heading, justify="right")
    grid.add_column("", overflow="fold")
    for option in plan.options:
        note = option.reason or ("best" if option.name == plan.best else "")
        if not note and option.methods:
            note = f"{option.changed_layers} layers changed"
        grid.add_row(
            Text(option.name),
            numbers.seconds(option.step_s),
            numbers.ratio(option.speedup),
            numbers.size(option.saved_bytes),
            numbers.plain(option.gradient_error) if option.step_s is not None else numbers.MISSING,
            Text(note),
        )
    return grid


def _layers(plan: Plan, most: int) -> list[RenderableType]:
    ranked = sorted(plan.layers, key=lambda layer: -layer.dense_s)
    shown = ranked[:most]
    methods = list(dict.fromkeys(method for layer in plan.layers for method in layer.verdicts))
    if not shown:
        return []
    grid = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), title="Layers that take longest", title_justify="left",
                 title_style="bold")  # fmt: skip
    grid.add_column("layer", overflow="fold")
    for heading in ("forward", "backward", "kept", "parameters", *methods):
        grid.add_column(heading, justify="right")
    for layer in shown:
        cost = layer.cost
        grid.add_row(
            Text(f"{cost.layer} {cost.kind}"),
            numbers.seconds(cost.forward_s),
            numbers.seconds(cost.backward_s),
            numbers.size(cost.saved_bytes),
            numbers.size(cost.parameter_bytes),
            *(_under(layer, method) for method in methods),
        )
    rest = len(ranked) - len(shown)
    more = f"and {rest} layers more, {numbers.seconds(sum(layer.dense_s for layer in ranked[most:]))} together"
    return [grid, *([Text(more)] if rest else []), *_looks(shown), *_reasons(shown, methods)]


def _under(layer: PlannedLayer, method: str) -> str:
    verdict = layer.verdicts.get(method)
    if verdict is None:
        return ""
    return "dense" if verdict.startswith(DENSE) else numbers.seconds(layer.method_s.get(method))


def _looks(layers: list[PlannedLayer]) -> list[Text]:
    """What methods tell of the layers that they change."""
    return [
        Text(f"{method} in {layer.cost.layer}: " + "; ".join(str(told.get("text", "")).splitlines()), style="dim")
        for layer in layers
        for method, told in layer.looks.items()
    ]


def _reasons(layers: list[PlannedLayer], methods: list[str]) -> list[Text]:
    """Why layers stay dense: each reason once, with the layers that it holds for."""
    found: dict[str, list[str]] = {}
    for layer in layers:
        for method in methods:
            verdict = layer.verdicts.get(method, "")
            if verdict.startswith(DENSE):
                found.setdefault(f"{method} leaves as is: {{}}: {verdict.removeprefix(DENSE)}", []).append(
                    layer.cost.layer
                )
    return [Text(reason.replace("{}", ", ".join(names), 1), style="dim") for reason, names in found.items()]
