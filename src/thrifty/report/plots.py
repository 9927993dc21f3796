"""The plots of a run as matplotlib figures, each in a wide and a narrow (phone) layout.

Figures are made with the object API on the Agg and SVG canvases: no pyplot, no window, no global figure. A plot whose
data the record lacks is None.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from thrifty.report import numbers
from thrifty.report.compare import baseline_of
from thrifty.report.record import STAGES, Arm, Epoch, Layer, Record
from thrifty.report.theme import ARMS, DASHES, MARKERS, light

MOST_BARS = 24


@dataclass(frozen=True)
class Layout:
    """Width of a figure in inches, sizes of its text in points."""

    name: str
    width: float
    text: float


WIDE = Layout("wide", 5.8, 9.5)
NARROW = Layout("narrow", 3.5, 8.8)


def accuracy(record: Record, layout: Layout) -> Figure | None:
    """Test accuracy against seconds of training, one line an arm, a dot an epoch."""
    return _by_arm(record, layout, "test accuracy, %", "seconds of training", _accuracy_point, _baseline_level)


def loss(record: Record, layout: Layout) -> Figure | None:
    """Training loss by epoch, one line an arm."""
    return _by_arm(record, layout, "training loss", "epoch", _loss_point, None)


def _accuracy_point(epoch: Epoch) -> tuple[float | None, float | None]:
    return epoch.train_s, None if epoch.test_accuracy is None else 100 * epoch.test_accuracy


def _loss_point(epoch: Epoch) -> tuple[float | None, float | None]:
    return epoch.epoch, epoch.train_loss


def _by_arm(
    record: Record,
    layout: Layout,
    y_label: str,
    x_label: str,
    point: Callable[[Epoch], tuple[float | None, float | None]],
    extra: Callable[[Record, Axes], None] | None,
) -> Figure | None:
    lines = []
    for place, arm in enumerate(record.arms):
        pairs = [(x, y) for x, y in map(point, arm.epochs) if x is not None and y is not None]
        if pairs:
            lines.append((place, arm, pairs))
    if not lines:
        return None
    figure = Figure(figsize=(layout.width, 0.62 * layout.width if layout is WIDE else 0.85 * layout.width))
    axes = figure.subplots()
    for place, arm, pairs in lines:
        xs, ys = zip(*pairs, strict=True)
        axes.plot(
            xs, ys, label=_shorten(arm.name).lstrip("_"), color=arm_colour(place), linewidth=1.7,
            linestyle=DASHES[place % len(DASHES)], marker=MARKERS[place % len(MARKERS)], markersize=4,
        )  # fmt: skip
    if extra:
        extra(record, axes)
    axes.margins(x=0.04, y=0.08)
    if point is _loss_point:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    else:
        axes.set_xlim(left=0)
    return finish(figure, [axes], layout, y_label, x_label)


def _baseline_level(record: Record, axes: Axes) -> None:
    baseline = baseline_of(record)
    if baseline and baseline.status == "finished" and baseline.test_accuracy is not None:
        axes.axhline(100 * baseline.test_accuracy, color=light("muted"), linewidth=0.8, linestyle=(0, (1, 3)), zorder=1)


def layer_time(record: Record, layout: Layout) -> Figure | None:
    """Seconds of each changed layer, stacked by stage; one panel an arm, the slowest layers where there are many."""
    panels = [(arm, timed_layers(arm)[0]) for arm in record.arms]
    panels = [(arm, layers) for arm, layers in panels if layers]
    if not panels:
        return None
    bars = sum(len(layers) for _, layers in panels)
    row = 0.24 if layout is WIDE else 0.44
    figure = Figure(figsize=(layout.width, 0.95 + row * bars + 0.62 * len(panels)))
    heights = [len(layers) + 0.6 for _, layers in panels]
    grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=heights)
    all_axes = [axes for (axes,) in grid]
    for axes, (arm, layers) in zip(all_axes, panels, strict=True):
        _stack(axes, layers, layout)
        axes.set_title(_shorten(arm.name), loc="left", fontsize=layout.text, color=light("ink"), fontweight="bold")
    return finish(figure, all_axes, layout, "", "seconds over the whole run", bars=True)


def _stack(axes: Axes, layers: list[Layer], layout: Layout) -> None:
    places = range(len(layers))
    left = [0.0] * len(layers)
    for stage in STAGES:
        widths = [layer.stages_s.get(stage, 0.0) for layer in layers]
        # The stroke in the ground's colour parts neighbours for readers who cannot tell their hues.
        axes.barh(places, widths, 0.68 if layout is WIDE else 0.42, left=left, color=light(stage), label=stage,
                  edgecolor=light("card"), linewidth=0.6)  # fmt: skip
        left = [start + width for start, width in zip(left, widths, strict=True)]
    for place, end in zip(places, left, strict=True):
        axes.annotate(numbers.seconds(end), (end, place), (4, 0), textcoords="offset points", va="center",
                      fontsize=layout.text - 0.8, color=light("muted"))  # fmt: skip
    axes.set_ylim(len(layers) - 0.4, -0.6)
    axes.margins(x=0.14)
    if layout is WIDE:
        axes.set_yticks(places, [_shorten(layer.name, 26) for layer in layers])
    else:
        # On a phone the names stand above their bars, so that the bars have the whole width.
        axes.set_yticks([])
        for place, layer in zip(places, layers, strict=True):
            axes.annotate(_shorten(layer.name, 38), (0, place - 0.24), (0, 1.5), textcoords="offset points",
                          va="bottom", fontsize=layout.text - 0.4, color=light("ink"))  # fmt: skip


def timed_layers(arm: Arm) -> tuple[list[Layer], int]:
    """The layers that a bar is drawn for, in the order of the network, and how many have timings at all."""
    timed = [layer for layer in arm.layers if layer.total_s > 0]
    slowest = sorted(timed, key=lambda layer: -layer.total_s)[:MOST_BARS]
    kept = {id(layer) for layer in slowest}
    return [layer for layer in timed if id(layer) in kept], len(timed)


def remaining(record: Record, layout: Layout) -> Figure | None:
    """Remaining ratio of every layer (thin) and their mean (bold) over the steps, with the stage below."""
    arms = [(place, arm) for place, arm in enumerate(record.arms) if any(row.step is not None for row in arm.trace)]
    if not arms:
        return None
    figure = Figure(figsize=(layout.width, 0.5 + (0.5 if layout is WIDE else 0.72) * layout.width * len(arms)))
    grid = figure.subplots(2 * len(arms), 1, sharex=True, squeeze=False, height_ratios=[3, 1.1] * len(arms))
    all_axes = [axes for (axes,) in grid]
    for index, (place, arm) in enumerate(arms):
        ratio_axes, stage_axes = all_axes[2 * index : 2 * index + 2]
        _ratios(ratio_axes, arm, arm_colour(place))
        _stages(stage_axes, arm, arm_colour(place))
        named = f"{_shorten(arm.name)}: " if len(arms) > 1 else ""
        _heading(ratio_axes, f"{named}remaining ratio", layout)
        _heading(stage_axes, "stage", layout)
    return finish(figure, all_axes, layout, "", "training step")


def _ratios(axes: Axes, arm: Arm, colour: str) -> None:
    by_step: dict[int, list[float]] = {}
    by_layer: dict[str, list[tuple[int, float]]] = {}
    for row in arm.trace:
        if row.step is not None and row.remaining_ratio is not None:
            by_step.setdefault(row.step, []).append(row.remaining_ratio)
            by_layer.setdefault(row.layer, []).append((row.step, row.remaining_ratio))
    faint = 0.45 if len(by_layer) < 12 else 0.2
    for rows in by_layer.values():
        axes.plot(*zip(*sorted(rows), strict=True), color=colour, linewidth=0.8, alpha=faint)
    means = sorted((step, sum(values) / len(values)) for step, values in by_step.items())
    if means:
        axes.plot(*zip(*means, strict=True), color=colour, linewidth=2.2)
    tallest = max((ratio for rows in by_layer.values() for _, ratio in rows), default=1.0)
    axes.set_ylim(0, 1.04 if tallest > 0.6 or not tallest else 1.2 * tallest)
    axes.margins(x=0.02)


def _stages(axes: Axes, arm: Arm, colour: str) -> None:
    by_step = {row.step: row.stage for row in arm.trace if row.step is not None and row.stage is not None}
    steps = sorted(by_step)
    if steps:
        axes.step(steps, [by_step[step] for step in steps], where="post", color=colour, linewidth=1.7)
        top = max(by_step.values())
        axes.set_ylim(min(0, *by_step.values()) - 0.3, top + 0.3 if top else 1.0)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=4))
    axes.margins(x=0.02)


def arm_colour(place: int) -> str:
    """Light colour of the arm at this place of the record; more arms than colours begin anew with other dashes."""
    return light(f"arm-{place % len(ARMS)}")


def _heading(axes: Axes, text: str, layout: Layout) -> None:
    axes.set_title(text, loc="left", fontsize=layout.text, color=light("muted"))


def finish(
    figure: Figure, all_axes: list[Axes], layout: Layout, y_label: str, x_label: str, *, bars: bool = False
) -> Figure:
    """Give the figure its layout, colours, labels and key."""
    figure.set_layout_engine("constrained", h_pad=0.05, w_pad=0.05)
    figure.set_facecolor(light("card"))
    for axes in all_axes:
        axes.set_facecolor("none")
        axes.set_axisbelow(True)
        axes.grid(axis="x" if bars else "y", color=light("grid"), linewidth=0.8)
        axes.tick_params(
            labelsize=layout.text - 0.6, labelcolor=light("ink"), color=light("line"), length=0 if bars else 3
        )
        for side, spine in axes.spines.items():
            spine.set_visible(side == ("left" if bars else "bottom"))
            spine.set_color(light("line"))
    if y_label:
        _heading(all_axes[0], y_label, layout)
    all_axes[-1].set_xlabel(x_label, fontsize=layout.text, color=light("muted"))
    handles, labels = all_axes[0].get_legend_handles_labels()
    if handles:
        figure.legend(
            handles, labels, loc="outside upper left", ncols=_columns(labels, layout, bars), frameon=False,
            fontsize=layout.text, labelcolor=light("ink"), handlelength=1.0 if bars else 2.4, columnspacing=1.2,
            handletextpad=0.5, borderaxespad=0.0,
        )  # fmt: skip
    return figure


def _columns(labels: list[str], layout: Layout, bars: bool) -> int:
    # A letter is about 0.6 of the text size wide; a key with its gaps takes 2.6 (a box) or 4.8 (a line with a mark).
    entries = [(0.6 * len(label) + (2.6 if bars else 4.8)) * layout.text for label in labels]
    room = 0.97 * 72 * layout.width
    return len(labels) if sum(entries) <= room else max(1, int(room / max(entries)))


def _shorten(text: str, most: int = 30) -> str:
    # Matplotlib reads $...$ as mathematics; a name is only a name.
    short = text if len(text) <= most else f"{text[: most // 2 - 1]}...{text[len(text) - most // 2 + 2 :]}"
    return short.replace("$", r"\$")


PLOTS: dict[str, Callable[[Record, Layout], Figure | None]] = {
    "accuracy": accuracy,
    "loss": loss,
    "layer-time": layer_time,
    "remaining-ratio": remaining,
}


def render(figure: Figure, kind: str) -> bytes:
    """The figure as `svg` or `png` bytes; the same record gives the same SVG bytes."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "thrifty", "font.family": "DejaVu Sans"}):
        metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
        figure.savefig(buffer, format=kind, dpi=180 if kind == "png" else 72, metadata=metadata)
    return buffer.getvalue()
