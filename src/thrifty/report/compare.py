"""What each arm cost and reached against the baseline, in numbers.

Arms are compared at the last epoch that both have finished, so an unfinished arm is never set against a whole
training.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from thrifty.report.record import Arm, Record


@dataclass(frozen=True)
class Comparison:
    """One arm against the baseline after `epoch` epochs of each; None where the record does not say.

    Attributes:
        whole: both arms finished, with as many epochs each.
        train_s_ratio: baseline seconds / arm seconds; above 1 the arm is faster.
        accuracy_delta: test accuracy of the arm minus that of the baseline, a fraction.
        macs_saved: part of the multiply-adds of a dense training that the arm did not do; negative when it did more.
        to_baseline_s: training seconds until the arm reached the baseline's final test accuracy.
        test_images: how many images the accuracies are counted on.
    """

    arm: Arm
    baseline: Arm
    epoch: int
    whole: bool
    arm_train_s: float | None
    baseline_train_s: float | None
    arm_accuracy: float | None
    baseline_accuracy: float | None
    macs_saved: float | None
    to_baseline_s: float | None
    test_images: int | None

    @property
    def train_s_ratio(self) -> float | None:
        """Baseline seconds / arm seconds."""
        if self.arm_train_s is None or self.baseline_train_s is None or self.arm_train_s <= 0:
            return None
        return self.baseline_train_s / self.arm_train_s

    @property
    def accuracy_delta(self) -> float | None:
        """Accuracy of the arm minus that of the baseline."""
        if self.arm_accuracy is None or self.baseline_accuracy is None:
            return None
        return self.arm_accuracy - self.baseline_accuracy

    @property
    def same_work(self) -> bool:
        """Whether the arm's methods left every layer dense all along, so that it computed what the baseline did."""
        one, base = self.arm, self.baseline
        dense = bool(one.layers) and all(layer.action == "dense" for layer in one.layers) and not one.events
        return dense and (one.amp, one.memory, one.workers) == (base.amp, base.memory, base.workers)

    @property
    def within_chance(self) -> bool:
        """Whether test sets of this size could give such a difference to two networks that are equally good."""
        if self.accuracy_delta is None or self.arm_accuracy is None or self.baseline_accuracy is None:
            return False
        margins = [margin(one, self.test_images) for one in (self.arm_accuracy, self.baseline_accuracy)]
        known = [one for one in margins if one is not None]
        return len(known) == 2 and abs(self.accuracy_delta) < math.hypot(*known)


def margin(accuracy: float, images: int | None) -> float | None:
    """Half of the 95 % interval of an accuracy counted on so many images, by the normal approximation."""
    return 1.96 * math.sqrt(max(0.0, accuracy * (1 - accuracy)) / images) if images else None


def test_images(record: Record) -> int | None:
    """Images in the test set, where the settings say."""
    said = record.settings.get("test_images")
    return said if isinstance(said, int) and not isinstance(said, bool) and 0 < said < 1e12 else None


def baseline_of(record: Record) -> Arm | None:
    """The arm that the others are set against: the summary's, else the first one without a method."""
    named = record.summary.get("baseline")
    for arm in record.arms:
        if arm.name == named:
            return arm
    return next((arm for arm in record.arms if not arm.methods), None)


def comparisons(record: Record) -> list[Comparison]:
    """Every arm but the baseline against the baseline, in the order of the record."""
    baseline = baseline_of(record)
    if baseline is None:
        return []
    return [_compare(arm, baseline, test_images(record)) for arm in record.arms if arm is not baseline]


def macs_saved(arm: Arm) -> float | None:
    """Part of the dense multiply-adds that the arm did without."""
    if arm.macs is None or not arm.dense_macs:
        return None
    return 1 - arm.macs / arm.dense_macs


def _compare(arm: Arm, baseline: Arm, images: int | None) -> Comparison:
    epoch = min(len(arm.epochs), len(baseline.epochs))
    done = arm.status == baseline.status == "finished"
    whole = done and len(arm.epochs) == len(baseline.epochs)
    at_arm, at_baseline = (one.epochs[epoch - 1] if epoch else None for one in (arm, baseline))
    if whole:
        arm_s, baseline_s = arm.train_s, baseline.train_s
        arm_accuracy, baseline_accuracy = arm.test_accuracy, baseline.test_accuracy
    else:
        arm_s, baseline_s = (one.train_s if one else None for one in (at_arm, at_baseline))
        arm_accuracy, baseline_accuracy = (one.test_accuracy if one else None for one in (at_arm, at_baseline))
    return Comparison(
        arm, baseline, epoch, whole, arm_s, baseline_s, arm_accuracy, baseline_accuracy,
        macs_saved(arm), seconds_to(arm, baseline.test_accuracy), images,
    )  # fmt: skip


def seconds_to(arm: Arm, accuracy: float | None) -> float | None:
    """Training seconds at the end of the first epoch with at least this test accuracy; None where there is none."""
    if accuracy is None:
        return None
    for epoch in arm.epochs:
        if epoch.test_accuracy is not None and epoch.test_accuracy >= accuracy:
            return epoch.train_s
    return None
