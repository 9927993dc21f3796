"""A plan as a picture: seconds of a step of every combination, and the dense seconds of the layers."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from thrifty.compose.planning import Plan
from thrifty.report import numbers
from thrifty.report.plots import WIDE, arm_colour, finish, render
from thrifty.report.theme import light

MOST_LAYERS = 16


def draw(plan: Plan, path: Path, *, title: str) -> None:
    """Write the picture to `path`, an .svg or a .png file."""
    figure = figure_of(plan, title)
    kind = path.suffix.removeprefix(".")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(render(figure, kind))


def figure_of(plan: Plan, title: str) -> Figure:
    """Two panels: the options that ran, and the layers that take longest when dense, in the order in which they run."""
    options = [option for option in plan.options if option.step_s is not None]
    longest = sorted(plan.layers, key=lambda layer: -layer.dense_s)[:MOST_LAYERS]
    layers = [layer.cost for layer in plan.layers if layer in longest]
    figure = Figure(figsize=(WIDE.width, 1.8 + 0.26 * (len(options) + len(layers))))
    below, above = figure.subplots(2, 1, height_ratios=[max(len(layers), 1) + 1, len(options) + 1])
    step_ms = [1e3 * (option.step_s or 0.0) for option in options]
    above.barh([option.name for option in options], step_ms, color=list(map(arm_colour, range(len(options)))))
    for place, option in enumerate(options):
        above.annotate(numbers.ratio(option.speedup), (step_ms[place], place), (4, 0), textcoords="offset points",
                       va="center", fontsize=WIDE.text - 0.8, color=light("muted"))  # fmt: skip
    above.margins(x=0.14)
    names = [f"{cost.layer} {cost.kind}" for cost in layers]
    forward = [1e3 * cost.forward_s for cost in layers]
    below.barh(names, forward, color=light("gemm"), label="forward")
    below.barh(names, [1e3 * cost.backward_s for cost in layers], left=forward, color=light("gather"), label="backward")
    for axes, heading in ((below, f"{title}: dense layers that take longest"), (above, "a whole training step")):
        axes.invert_yaxis()
        axes.set_title(heading, loc="left", fontsize=WIDE.text, color=light("ink"), fontweight="bold")
    return finish(figure, [below, above], WIDE, "", "milliseconds", bars=True)
