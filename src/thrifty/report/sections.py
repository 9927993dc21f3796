"""The parts of the report page, each a function from the record to HTML."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from thrifty.report import numbers, words
from thrifty.report.compare import Comparison, baseline_of, comparisons, macs_saved
from thrifty.report.markup import Html, el, join
from thrifty.report.record import STAGES, Arm, Event, Layer, Record


def header(record: Record) -> Html:
    """What was run and what came of it: notices, headline, a sentence per arm, the figures of a single arm."""
    found = comparisons(record)
    started = record.started.replace("T", " ").replace("Z", " UTC")
    over = " · ".join(part for part in (record.name, started, f"thrifty {record.thrifty}".rstrip()) if part)
    return el(
        "header",
        el("p", over, class_="over"),
        # A name like CIFAR-10 is not to be torn apart at the end of a line.
        el("h1", words.headline(record).replace("-", "\u2011")),
        *(el("p", notice, class_="notice") for notice in words.notices(record)),
        _scores(found[0]) if len(found) == 1 else None,
        *(el("p", _lead(one, len(found) == 1), class_="verdict") for one in found),
        el("p", words.caveat(record), class_="small") if found else None,
    )


def _lead(found: Comparison, alone: bool) -> str:
    # The headline has given the verdict on a single arm; of several, the table below gives the figures.
    told = found.train_s_ratio is not None or found.accuracy_delta is not None
    return _unbroken(words.details(found) if alone and told else words.verdict(found, figures=False))


def _scores(found: Comparison) -> Html:
    ratio, delta, base = found.train_s_ratio, found.accuracy_delta, found.baseline
    items = []
    if ratio:
        kind = "bad" if words.slower(ratio) else ("good" if words.speed(ratio) != "as fast" else None)
        against = f"{numbers.seconds(found.arm_train_s)} against {numbers.seconds(found.baseline_train_s)}"
        items.append(("Training time", words.speed(ratio), against, kind))
    if delta is not None:
        kind = None if words.accuracy(delta) == "as accurate" or found.within_chance else ("bad", "good")[delta > 0]
        against = f"{numbers.percent(found.arm_accuracy)} against {numbers.percent(found.baseline_accuracy)}"
        items.append(("Test accuracy", f"{_minus(numbers.points(delta))} points", against, kind))
    if found.macs_saved is not None:
        done = f"{numbers.count(found.arm.macs)} done of {numbers.count(found.arm.dense_macs)}"
        items.append(("Multiply-adds saved", numbers.percent(found.macs_saved), done, None))
    if found.arm.peak_bytes is not None:
        beside = f"{base.name}: {numbers.size(base.peak_bytes)}"
        items.append(("Peak memory", numbers.size(found.arm.peak_bytes), beside, None))
    return el(
        "dl",
        *(
            el("div", el("dt", term), el("dd", value, class_=kind), el("dd", _unbroken(below), class_="small"))
            for term, value, below, kind in items
        ),
        class_="scores",
    )


def arms(record: Record) -> Html:
    """Table of the arms; on a phone every arm becomes a card."""
    found = {one.arm.name: one for one in comparisons(record)}
    baseline = baseline_of(record)
    rows = [_arm_row(arm, found.get(arm.name), arm is baseline) for arm in record.arms]
    if not rows:
        return section("arms", "Arms", el("p", "No arm has been recorded yet."))
    against = f"Against {baseline.name if baseline else 'dense'}"
    costs = ("Training", "Data", "Evaluation", "MACs saved", "Peak memory")
    heads = ("Arm", "Test accuracy", against, *costs, "Status")
    caption = "What each arm reached and cost. Training, data and evaluation are seconds of the whole run."
    if any(arm.peak_source == "ru_maxrss" for arm in record.arms):
        caption += " Peak memory is that of the process so far, so an arm cannot show less than those before it."
    caption += "".join(f" {words.buckets(arm)}" for arm in record.arms if arm.buckets.get("bytes"))
    return section("arms", "Arms", table("arms-table", caption, heads, rows, class_="cards", text_columns=(0, 2, 8)))


def _arm_row(arm: Arm, found: Comparison | None, is_baseline: bool) -> list[str]:
    against: str = "baseline" if is_baseline else numbers.MISSING
    if found and found.train_s_ratio:
        speed = words.speed(found.train_s_ratio)
        kind = "bad" if words.slower(found.train_s_ratio) else ("good" if speed != "as fast" else None)
        against = el("span", speed + ("" if found.whole else f" at epoch {found.epoch}"), class_=kind)
    how = ", ".join([*arm.methods, *([arm.amp] if arm.amp else [])])
    return [
        join(arm.name, el("small", how) if how and how.lower() != arm.name.lower() else None),
        numbers.percent(arm.reached),
        against,
        numbers.seconds(arm.train_s),
        numbers.seconds(arm.data_s),
        numbers.seconds(arm.eval_s),
        _minus(numbers.percent(macs_saved(arm))),
        numbers.size(arm.peak_bytes),
        words.status(arm),
    ]


def layers(record: Record) -> Html:
    """Per layer of every arm with methods: what was done and why, ratio, error, MACs, seconds by stage."""
    shown = [arm for arm in record.arms if arm.layers]
    if not shown:
        return section("layers", "Layers", el("p", "No arm recorded its layers."))
    heads = ("Layer", "Action", "Remaining ratio", "Error", "MACs", "Dense MACs", "Time", *STAGES)
    parts = []
    for place, arm in enumerate(shown):
        rows = _layer_rows(arm)
        caption = (
            f"Layers of {arm.name}, over all steps. Remaining ratio and error are means; times are seconds, in all and "
            "by stage."
        )
        key = f"layers-{place}"
        parts.append(table(key, caption, heads, rows, class_="wide", text_columns=(0, 1)))
    return section("layers", "Layers", *parts)


def _layer_rows(arm: Arm) -> list[list[str]]:
    times = [
        value
        for layer in arm.layers
        for value in (
            (layer.total_s, *(layer.stages_s.get(stage) for stage in STAGES))
            if layer.total_s > 0
            else (None,) * (1 + len(STAGES))
        )
    ]
    texts = iter(numbers.column(times))
    return [[*_layer_facts(layer), *(next(texts) for _ in range(1 + len(STAGES)))] for layer in arm.layers]


def _layer_facts(layer: Layer) -> list[str]:
    return [
        join(layer.name, el("small", layer.kind) if layer.kind else None),
        join(layer.action, el("small", layer.reason) if layer.reason else None),
        numbers.plain(layer.remaining_ratio),
        numbers.plain(layer.error),
        numbers.count(layer.macs),
        numbers.count(layer.dense_macs),
    ]


def events(record: Record) -> Html:
    """Every move that a controller made, and why."""
    rows = [
        [_step(event), arm.name, event.layer or "all", event.what, event.reason]
        for arm in record.arms
        for event in arm.events
    ]
    if not rows:
        return section("moves", "Controller moves", el("p", "No controller made a move."))
    heads = ("Step", "Arm", "Layer", "What", "Reason")
    caption = "Moves of the controllers in the order of the steps."
    return section("moves", "Controller moves", table("moves-table", caption, heads, rows, range(len(heads)), "cards"))


def _step(event: Event) -> str:
    return "step unknown" if event.step is None else f"step {event.step}"


def setup(record: Record) -> Html:
    """The command that repeats the run, its settings and the machine."""
    told = "This command repeats the run with the same settings and seed; times depend on the machine."
    return section(
        "setup",
        "Do it again",
        el("p", told if record.command else "The record does not hold the command."),
        el("pre", el("code", record.command)) if record.command else None,
        el("div", _facts("Settings", record.settings), _facts("Machine", record.machine), class_="pair"),
    )


def _facts(title: str, facts: Mapping[str, Any]) -> Html:
    pairs = [el("div", el("dt", str(key).replace("_", " ")), el("dd", fact(value))) for key, value in facts.items()]
    body = el("dl", *pairs, class_="facts") if pairs else el("p", "Not recorded.")
    return el("div", el("h3", title), body)


def fact(value: Any) -> str:
    """A setting as people read it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(fact, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def section(key: str, heading: str, *body: str | None) -> Html:
    """A landmark with a heading, which the navigation links to."""
    return el("section", el("h2", heading, id=f"{key}-heading"), *body, id=key, aria_labelledby=f"{key}-heading")


def table(
    key: str,
    caption: str,
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    text_columns: Sequence[int],
    class_: str | None = None,
) -> Html:
    """A table in a container that scrolls by itself and by keyboard; columns hold numbers unless named."""
    kinds = ["text" if place in text_columns else "num" for place in range(len(heads))]
    head = el("tr", *(el("th", text, scope="col", class_=kind) for text, kind in zip(heads, kinds, strict=True)))
    body = [
        el(
            "tr",
            el("th", row[0], scope="row"),
            *(
                el("td", cell, class_=kind, data_label=label)
                for cell, kind, label in zip(row[1:], kinds[1:], heads[1:], strict=True)
            ),
        )
        for row in rows
    ]
    title = el("caption", el("span", caption), id=key)
    inner = el("table", title, el("thead", head), el("tbody", *body), class_=class_)
    return el("div", inner, class_="scroll", role="region", aria_labelledby=key, tabindex="0")


def _unbroken(text: str) -> str:
    """The text with its numbers tied to their units, so that no line begins with a lone unit."""
    return re.sub(r"(?<=\d) (?=(?:[num]?s|min|h|[kMGTP]B?|B)\b)", "\u00a0", text)


def _minus(text: str) -> str:
    # A hyphen is too short for a minus beside tabular figures.
    return f"\u2212{text[1:]}" if text.startswith("-") and len(text) > 1 else text
