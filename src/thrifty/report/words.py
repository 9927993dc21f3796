"""The outcome of a run in plain words that do not flatter.

A difference of time within 2 % and of accuracy within 0.05 points is called none.
"""

from __future__ import annotations

from thrifty.report import numbers
from thrifty.report.compare import Comparison, comparisons
from thrifty.report.record import Arm, Record

_SAME_TIME = 0.02
_SAME_ACCURACY = 0.0005
_STATUS = {
    "finished": "finished",
    "pending": "not started",
    "running": "still training, or killed on the way",
    "stopped": "stopped",
}


def slower(ratio: float | None) -> bool:
    """Whether baseline seconds / arm seconds says that the arm lost time."""
    return ratio is not None and ratio < 1 - _SAME_TIME


def speed(ratio: float) -> str:
    """`0.66` -> `1.52 times slower`, a ratio of about one -> `as fast`."""
    if abs(ratio - 1) <= _SAME_TIME:
        return "as fast"
    return f"{ratio:.3g} times faster" if ratio > 1 else f"{1 / ratio:.3g} times slower"


def accuracy(delta: float) -> str:
    """`-0.008` -> `0.8 points less accurate`, a difference of about none -> `as accurate`."""
    if abs(delta) <= _SAME_ACCURACY:
        return "as accurate"
    amount = f"{100 * abs(delta):.1f}"
    return f"{amount} point{'' if amount == '1.0' else 's'} {'more' if delta > 0 else 'less'} accurate"


def against(found: Comparison) -> str:
    """Speed and accuracy in one breath: `1.52 times slower and 0.8 points less accurate than dense`."""
    base = found.baseline.name
    told = [
        *([speed(found.train_s_ratio)] if found.train_s_ratio else []),
        *([accuracy(found.accuracy_delta)] if found.accuracy_delta is not None else []),
    ]
    if not told:
        return f"not comparable with {base} yet"
    links = ["as" if part.startswith("as ") else "than" for part in told]
    if len(told) == 1 or links[0] == links[1]:
        return f"{' and '.join(told)} {links[0]} {base}"
    return f"{told[0]} {links[0]} {base} and {told[1]}"


def verdict(found: Comparison, *, figures: bool = True) -> str:
    """One arm against the baseline in a few plain sentences, whatever they say; without `figures` in fewer."""
    name, base = found.arm.name, found.baseline.name
    if found.train_s_ratio is None and found.accuracy_delta is None:
        return f"{name} cannot be set against {base} yet: {status(found.arm)}."
    text = f"{name} was {against(found)}."
    if not found.whole:
        text = f"After {epochs(found.epoch)} of each, {text}"
    return f"{text} {details(found)}" if figures else text + _consequences(found)


def details(found: Comparison) -> str:
    """The figures behind a verdict: accuracies, seconds, multiply-adds, and what became of an arm that did not end."""
    return (
        f"{found.arm.name} got {numbers.percent(found.arm_accuracy)} of the test set right after "
        f"{numbers.seconds(found.arm_train_s)} of training, {found.baseline.name} "
        f"{numbers.percent(found.baseline_accuracy)} after {numbers.seconds(found.baseline_train_s)}."
    ) + _consequences(found)


def _consequences(found: Comparison) -> str:
    text = _chance(found) + _reached(found) + _macs(found)
    return text if found.arm.status == "finished" else f"{text} {found.arm.name} is not finished: {status(found.arm)}."


def _chance(found: Comparison) -> str:
    if not found.within_chance or accuracy(found.accuracy_delta or 0.0) == "as accurate":
        return ""
    return f" On {found.test_images} test images that difference of accuracy can be chance."


def _reached(found: Comparison) -> str:
    if not found.whole or found.accuracy_delta is None:
        return ""
    if found.to_baseline_s is None:
        return f" It did not reach the final accuracy of {found.baseline.name} in any epoch."
    after = numbers.seconds(found.to_baseline_s)
    return f" It first reached the final accuracy of {found.baseline.name} after {after}."


def _macs(found: Comparison) -> str:
    saved = found.macs_saved
    if found.same_work:
        return (
            f" It changed no layer and computed what {found.baseline.name} did: a difference of seconds between them is"
            " the machine's."
        )
    if saved is None:
        return ""
    if saved <= 0:
        return " It saved no multiply-adds."
    text = f" It did {numbers.percent(saved)} fewer multiply-adds"
    return (
        f"{text}, but the work around them cost more time than that saved."
        if slower(found.train_s_ratio)
        else text + "."
    )


def status(arm: Arm) -> str:
    """What became of an arm, with its message."""
    said = _STATUS.get(arm.status, arm.status or "no status recorded")
    return f"{said} ({arm.message})" if arm.message else said


def buckets(arm: Arm) -> str:
    """In which buckets the gradients of an arm travelled between workers, and whether as planned; a sentence."""
    sizes = [float(size) for size in arm.buckets["bytes"]]
    number = f"{len(sizes)} buckets of {numbers.size(min(sizes))} to {numbers.size(max(sizes))}"
    said = f"Gradients of {arm.name} travelled in {number if sizes[1:] else f'one bucket of {numbers.size(sizes[0])}'}"
    if arm.buckets.get("planned_bytes") is None:
        return f"{said}, DistributedDataParallel's own."
    differences = len(arm.buckets.get("differences") or ())
    but = f" but for {differences} difference{'s' * (differences > 1)}" if differences else ""
    return f"{said}, by the merge plan{but}."


def epochs(number: int) -> str:
    """`1 epoch`, `2 epochs`."""
    return f"{number} epoch{'' if number == 1 else 's'}"


def subject(record: Record) -> str:
    """What was trained on what: `cifarnet on CIFAR-10 (JPEG q75)`."""
    model = str(record.settings.get("model") or "a network")
    data = str(record.settings.get("source") or record.settings.get("data") or "unnamed data")
    return f"{model} on {data}"


def headline(record: Record) -> str:
    """The outcome of the run in one line; of several arms the fastest one speaks."""
    if not record.arms:
        return f"{subject(record)}: no arm has been recorded yet"
    told = [one for one in comparisons(record) if one.train_s_ratio]
    if told:
        best = max(told, key=lambda one: one.train_s_ratio or 0.0)
        which = f"{best.arm.name}, the fastest of {len(told)} alternatives," if len(told) > 1 else best.arm.name
        so_far = "" if best.whole else f" after {epochs(best.epoch)}"
        return f"{subject(record)}: {which} was {against(best)}{so_far}"
    arm = record.arms[0]
    if arm.test_accuracy is None:
        return f"{subject(record)}: nothing to compare yet"
    return (
        f"{subject(record)}: {arm.name} got {numbers.percent(arm.test_accuracy)} of the test set right "
        f"after {numbers.seconds(arm.train_s)} of training"
    )


def notices(record: Record) -> list[str]:
    """What a reader must know before believing the rest: an unfinished run, a stopped arm, unreadable fields."""
    said = []
    if not record.finished:
        state = record.status or "no status"
        said.append(f"This run is not finished (its record says: {state}). What follows is what it had written.")
    said += [f"{arm.name}: {status(arm)}." for arm in record.arms if arm.status == "stopped"]
    if record.problems:
        shown = "; ".join(record.problems[:5]) + ("; ..." if len(record.problems) > 5 else "")
        said.append(f"Parts of the record could not be read and are left out: {shown}.")
    return said


def caveat(record: Record) -> str:
    """What one run cannot tell, and what its seconds are."""
    seed = f" (seed {record.settings['seed']})" if "seed" in record.settings else ""
    return (
        f"One training per arm, all from one seed{seed}: another seed or a busier machine gives other figures. Seconds "
        "are those of training; reading data and evaluating are counted apart."
    )
