"""What a plan promised and what came of it, where memory was limited, and what workers sent each other.

A run has some of these parts, or none; a part that it has not is left out of the page.
"""

from __future__ import annotations

from dataclasses import dataclass

from thrifty.report import numbers
from thrifty.report.compare import baseline_of
from thrifty.report.markup import Html, el
from thrifty.report.record import Arm, Record, Tried
from thrifty.report.sections import section, table

AUTO = "auto"
UNREST = 1.5  # median over shortest step, above which a plan's seconds are those of a busy machine
HEADING = "Plan, memory and bytes"


@dataclass(frozen=True)
class Promise:
    """What the plan said of the combination that an arm trained with, and what was measured in its training."""

    arm: Arm
    tried: Tried
    dense_s: float | None

    @property
    def speedup(self) -> float | None:
        """Seconds of the dense arm's step over this arm's, as measured in training."""
        step_s = self.arm.step_s
        return self.dense_s / step_s if self.dense_s is not None and step_s else None

    @property
    def ratio(self) -> float | None:
        """Measured seconds of a step over those that the plan said."""
        step_s = self.arm.step_s
        return step_s / self.tried.step_s if step_s is not None and self.tried.step_s else None


def promises(record: Record) -> list[Promise]:
    """The arms that the run's plan had tried before: `auto`, and those of a tried combination's name."""
    if record.plan is None:
        return []
    tried = {option.name: option for option in record.plan.options}
    baseline = baseline_of(record)
    dense_s = baseline.step_s if baseline is not None else None
    named = [(arm, tried.get(record.plan.best if arm.name == AUTO else arm.name)) for arm in record.arms]
    return [Promise(arm, option, dense_s) for arm, option in named if option is not None]


def told(record: Record) -> str:
    """The plan of the arm `auto` against its training, in a sentence; empty where there is none yet."""
    for one in promises(record):
        if one.arm.name != AUTO or one.arm.step_s is None or one.tried.step_s is None:
            continue
        text = f"The plan chose {one.tried.name} and expected {numbers.seconds(one.tried.step_s)} a step"
        text += f", {numbers.ratio(one.tried.speedup)} as fast as dense" if one.tried.speedup is not None else ""
        text += f"; in training a step took {numbers.seconds(one.arm.step_s)}"
        same = one.tried.name == "dense"
        return text + (f", {numbers.ratio(one.speedup)} as fast." if one.speedup is not None and not same else ".")
    return ""


def costs(record: Record) -> Html | None:
    """The section, with the parts that the run has; None where it has none of them."""
    parts = [part for part in (_plan(record), _options(record), _memory(record), _traffic(record)) if part is not None]
    if not parts:
        return None
    said = told(record)
    return section("costs", HEADING, el("p", said) if said else None, *parts)


def _plan(record: Record) -> Html | None:
    found = promises(record)
    if not found:
        return None
    rows = [
        [
            one.arm.name,
            one.tried.name,
            numbers.seconds(one.tried.step_s),
            numbers.seconds(one.arm.step_s),
            numbers.ratio(one.ratio),
            numbers.ratio(one.tried.speedup),
            numbers.ratio(one.speedup),
        ]
        for one in found
    ]
    heads = ("Arm", "Combination", "Step, planned", "Step, trained", "Trained / planned", "Speed, planned",
             "Speed, trained")  # fmt: skip
    caption = (
        "What the plan measured before the first step, and the mean step of the whole training. Speed is that of dense "
        "over the arm's. Zeros grow more frequent and clusters coarser or finer while a network learns, so the two may "
        "differ."
    )
    assert record.plan is not None
    if record.plan.unrest is not None and record.plan.unrest > UNREST:
        caption += (
            f" While it planned, the machine was busy: a step took up to {record.plan.unrest:.1f} times its shortest."
        )
    return table("plan-table", caption, heads, rows, (0, 1), "cards")


def _options(record: Record) -> Html | None:
    if record.plan is None or not record.plan.options:
        return None
    rows = [
        [
            option.name,
            numbers.seconds(option.step_s),
            numbers.ratio(option.speedup),
            numbers.size(option.saved_bytes),
            numbers.plain(option.gradient_error) if option.step_s is not None else numbers.MISSING,
            option.reason or ("chosen" if option.name == record.plan.best else "not chosen"),
        ]
        for option in record.plan.options
    ]
    heads = ("Tried", "Step", "Speed", "Kept for backward", "Gradient error", "Verdict")
    caption = "Every combination that the plan tried, in the same turns. Errors are against the dense gradient."
    return table("options-table", caption, heads, rows, (0, 5), "cards")


def _memory(record: Record) -> Html | None:
    limited = [(arm, arm.memory) for arm in record.arms if arm.memory is not None]
    if not limited:
        return None
    limit = str(record.settings.get("memory") or numbers.MISSING)
    rows = [
        [
            arm.name,
            limit,
            numbers.size(found.step_peak_bytes),
            numbers.count(found.recomputed_ops),
            numbers.plain(found.recomputed_ops / arm.steps)
            if arm.steps and found.recomputed_ops is not None
            else numbers.MISSING,
            numbers.size(arm.peak_bytes),
        ]
        for arm, found in limited
    ]
    heads = ("Arm", "Limit of a step", "Most in a step", "Made again", "Made again, a step", "Peak of the process")
    caption = (
        "Steps within a limit: what did not fit was let go and made again, by so many operations. The peak of the "
        "process holds weights, data and the interpreter as well."
    )
    return table("memory-table", caption, heads, rows, (0,), "cards")


def _traffic(record: Record) -> Html | None:
    several = [arm for arm in record.arms if (arm.workers or 1) > 1 and arm.sent_bytes is not None]
    if not several:
        return None
    wire = str(record.settings.get("wire") or numbers.MISSING)
    rows = [
        [
            arm.name,
            numbers.count(arm.workers),
            wire,
            numbers.size(arm.sent_bytes / arm.steps if arm.steps and arm.sent_bytes is not None else None),
            numbers.size(arm.sent_bytes),
        ]
        for arm in several
    ]
    heads = ("Arm", "Workers", "Format on the wire", "Sent a step", "Sent in all")
    caption = "Bytes of gradients that each worker sent to the others: twice their size, less the part it keeps."
    return table("traffic-table", caption, heads, rows, (0, 2), "cards")
