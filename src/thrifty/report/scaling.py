"""The plot of `thrifty simulate`: efficiency by workers, a panel for each all-reduce, a line for each merge rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from thrifty.report.theme import ARMS, DASHES, MARKERS, light

TEXT = 9.0


def scaling(name: str, rows: Sequence[Mapping[str, Any]], published: Sequence[Mapping[str, Any]] = ()) -> Figure:
    """Draw the rows of a simulation.

    Args:
        name: of the network, for the heading.
        rows: with `workers`, `algorithm`, `rule` and `efficiency`, or `uneven_efficiency` where there is one.
        published: points with `workers` and `efficiency`; into the panel of their `algorithm`, or into every one.
    """
    algorithms = list(dict.fromkeys(row["algorithm"] for row in rows))
    rules = list(dict.fromkeys(row["rule"] for row in rows))
    figure = Figure(figsize=(3.3 * len(algorithms) + 0.6, 4.2))
    figure.set_layout_engine("constrained", h_pad=0.05, w_pad=0.05)
    figure.set_facecolor(light("card"))
    grid = figure.subplots(1, len(algorithms), sharey=True, squeeze=False)[0]
    for axes, algorithm in zip(grid, algorithms, strict=True):
        for place, rule in enumerate(rules):
            _line(axes, [row for row in rows if (row["algorithm"], row["rule"]) == (algorithm, rule)], place, rule)
        for number, point in enumerate(published):
            if point.get("algorithm", algorithm) != algorithm:
                continue
            axes.plot(
                [point["workers"]], [100 * point["efficiency"]], linestyle="none", marker="*", markersize=10,
                color=light("ink"), label="published" if number == 0 else "_", zorder=20,
            )  # fmt: skip
        _dress(axes, algorithm, sorted({row["workers"] for row in rows}))
    grid[0].set_ylabel(f"{name}: scaling efficiency, %", fontsize=TEXT, color=light("muted"))
    named = dict(pair[::-1] for axes in grid for pair in zip(*axes.get_legend_handles_labels(), strict=True))
    labels, handles = list(named), list(named.values())
    figure.legend(
        handles, labels, loc="outside upper left", ncols=5, frameon=False, fontsize=TEXT, labelcolor=light("ink")
    )
    return figure


def _line(axes: Axes, rows: Sequence[Mapping[str, Any]], place: int, rule: str) -> None:
    pairs = [(row["workers"], row.get("uneven_efficiency", row["efficiency"])) for row in rows]
    pairs = [(workers, 100 * efficiency) for workers, efficiency in pairs if efficiency is not None]
    turn = place + place // len(ARMS)  # where colours begin anew, dashes and markers are one further
    if pairs:
        # The first line is drawn last, on top: it is the one that matters.
        axes.plot(
            *zip(*pairs, strict=True), label=rule.replace("$", r"\$"), color=light(f"arm-{(place + 1) % len(ARMS)}"),
            linewidth=2.2 if place == 0 else 1.3, linestyle=DASHES[turn % len(DASHES)],
            marker=MARKERS[turn % len(MARKERS)], markersize=3.5, zorder=10 - place,
        )  # fmt: skip


def _dress(axes: Axes, title: str, workers: Sequence[int]) -> None:
    axes.set_title(title, loc="left", fontsize=TEXT, color=light("ink"), fontweight="bold")
    axes.set_facecolor("none")
    axes.set_xscale("log", base=2)
    shown = workers if len(workers) <= 7 else workers[:: -(-len(workers) // 7)]
    axes.set_xticks(shown, [str(count) for count in shown])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylim(0, 104)
    axes.set_xlabel("workers", fontsize=TEXT, color=light("muted"))
    axes.grid(axis="y", color=light("grid"), linewidth=0.8)
    axes.tick_params(labelsize=TEXT - 1, labelcolor=light("ink"), color=light("line"))
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(light("line"))
