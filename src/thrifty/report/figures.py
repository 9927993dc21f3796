"""The plots of the page: inline SVG in two layouts, with a heading, a caption and words for those who see none."""

from __future__ import annotations

from collections.abc import Mapping

from thrifty.report import numbers
from thrifty.report.compare import baseline_of
from thrifty.report.markup import Html, el
from thrifty.report.plots import MOST_BARS, timed_layers
from thrifty.report.record import STAGES, Record
from thrifty.report.sections import section
from thrifty.report.svg import inline

_STAGE_MEANING = {
    "hash": "sign bits of every piece of the input",
    "group": "pieces with equal bits are put into one cluster",
    "centroid": "the mean of each cluster",
    "gemm": "the products that are left, of centroids with weights",
    "gather": "each result is brought back to the places of its cluster",
    "scatter": "gradients are added up by cluster",
    "conv": "exact products, of all values or of the nonzeros alone",
}


def figures(record: Record, drawn: Mapping[str, Mapping[str, str]]) -> Html:
    """Section of the plots. `drawn` holds SVG documents by plot name and layout; what is not drawn is said in words."""
    missing = _missing(record)
    parts = []
    for name, (heading, caption, alt) in _texts(record).items():
        title = el("h3", heading, id=f"{name}-heading")
        if name in drawn:
            images = [
                el("div", Html(inline(text, f"{name}-{layout}", alt)), class_=layout)
                for layout, text in drawn[name].items()
            ]
            body = [el("div", *images, class_="plot"), el("figcaption", *caption)]
        else:
            body = [el("p", missing[name], class_="absent")]
        parts.append(el("figure", title, *body, aria_labelledby=f"{name}-heading"))
    return section("curves", "Curves", el("div", *parts, class_="plots"))


def _texts(record: Record) -> dict[str, tuple[str, list[str], str]]:
    return {
        "accuracy": ("Test accuracy against training time", [_accuracy_caption(record)], _accuracy_alt(record)),
        "loss": ("Training loss", ["Mean loss of the training batches in each epoch."], _loss_alt(record)),
        "layer-time": ("Where the time goes", _time_caption(record), _time_alt(record)),
        "remaining-ratio": (
            "Remaining ratio and stage",
            [
                "The remaining ratio is the part of the input pieces that is still multiplied after grouping: at 0.05, "
                "one in twenty. Thin lines are layers, the bold one is their mean. A higher stage groups more "
                "finely; lines end where an arm went on densely."
            ],
            _ratio_alt(record),
        ),
    }


def _missing(record: Record) -> dict[str, str]:
    none = "No epoch has been finished yet."
    changed = any(layer.action != "dense" for arm in record.arms for layer in arm.layers)
    why = "no timings were recorded." if changed else "no layer was changed, so nothing was timed."
    return {
        "accuracy": none,
        "loss": none,
        "layer-time": f"Nothing to show: {why}",
        "remaining-ratio": "Nothing to show: no step was sampled.",
    }


def _accuracy_caption(record: Record) -> str:
    baseline = baseline_of(record)
    line = f" The dotted line is where {baseline.name} ended." if baseline and baseline.status == "finished" else ""
    return f"A mark is the end of an epoch. Further left and higher is better.{line}"


def _accuracy_alt(record: Record) -> str:
    told = [
        f"{arm.name} {numbers.percent(arm.epochs[-1].test_accuracy)} after {numbers.seconds(arm.epochs[-1].train_s)}"
        for arm in record.arms
        if arm.epochs
    ]
    return f"Line chart of test accuracy against seconds of training. Last marks: {'; '.join(told)}."


def _loss_alt(record: Record) -> str:
    told = [
        f"{arm.name} from {numbers.plain(arm.epochs[0].train_loss)} to {numbers.plain(arm.epochs[-1].train_loss)}"
        for arm in record.arms
        if arm.epochs
    ]
    return f"Line chart of training loss by epoch: {'; '.join(told)}."


def _time_caption(record: Record) -> list[str]:
    told = []
    for arm in record.arms:
        shown, timed = timed_layers(arm)
        if not timed:
            continue
        total = sum(layer.total_s for layer in arm.layers)
        of = f" of {numbers.seconds(arm.train_s)} training" if arm.train_s else ""
        told.append(f"{arm.name}: {numbers.seconds(total)} in changed layers{of}.")
        if timed > len(shown):
            told.append(f"The {MOST_BARS} slowest of {timed} layers are drawn; the table below has all.")
    meanings = [el("div", el("dt", stage), el("dd", _STAGE_MEANING[stage])) for stage in STAGES]
    return [" ".join(told), el("details", el("summary", "What the stages are"), el("dl", *meanings, class_="facts"))]


def _time_alt(record: Record) -> str:
    told = []
    for arm in record.arms:
        totals = {stage: sum(layer.stages_s.get(stage, 0.0) for layer in arm.layers) for stage in STAGES}
        if any(totals.values()):
            told.append(f"{arm.name}: " + ", ".join(f"{stage} {numbers.seconds(s)}" for stage, s in totals.items()))
    return f"Stacked bars of seconds by layer and stage. Over all layers, {'; '.join(told)}."


def _ratio_alt(record: Record) -> str:
    told = []
    for arm in record.arms:
        ratios = [row.remaining_ratio for row in arm.trace if row.remaining_ratio is not None]
        stages = [row.stage for row in arm.trace if row.stage is not None]
        if ratios and stages:
            between = f"between {numbers.plain(min(ratios))} and {numbers.plain(max(ratios))}"
            told.append(f"{arm.name}: remaining ratio {between}, stages {min(stages)} to {max(stages)}")
    return f"Line charts of remaining ratio and stage over training steps. {'; '.join(told)}."
