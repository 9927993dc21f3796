"""Gradients through every hook are the plain average within the roundings of their wire, on 2, 3 and 4 ranks."""

import hook_checks
import pytest
from spawned import run_ranks
from torch import nn

from thrifty.core.errors import ModelError, UsageError
from thrifty.distributed.hooks import Wire, attach
from thrifty.distributed.routes import check_groups

NAMES = [
    *(f"{case}, {ranks} ranks" for ranks in (2, 3, 4) for case in hook_checks.CASES),
    "bf16 weights, 3 ranks",
    "bf16 measured, 4 ranks",
]


@pytest.fixture(scope="module")
def found():
    """What four ranks found, by rank: one group for all checks."""
    return run_ranks(4, hook_checks.everything)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_the_plain_average(found, name):
    ranks = int(name.split()[-2])
    assert [rank for rank, of_rank in enumerate(found) if of_rank[name] is not None] == list(range(ranks))
    for of_rank in found[:ranks]:
        assert of_rank[name]["worst"] <= 1.0
        assert of_rank[name]["alike"], "all ranks must hold the same bits, or their weights part"
        assert of_rank[name]["buckets"] >= 3


def test_the_bound_is_tight_enough_to_notice_a_lost_bit(found):
    worst = [found[0][name]["worst"] for name in NAMES if "fp16 flat" in name or "bf16 flat," in name]
    assert min(worst) > 0.25


def test_groups_are_detected_by_host_and_the_switch_is_measured_alike(found):
    assert all(of_rank["detected"] == ((0, 1, 2, 3),) for of_rank in found)
    switches = {of_rank["bf16 measured, 4 ranks"]["switch"] for of_rank in found}
    assert len(switches) == 1 and switches <= {0, 4096, 16384}


def test_error_feedback_loses_nothing_for_good(found):
    plain, feedback = found[0]["plain"], found[0]["feedback"]
    assert feedback < plain / 2
    assert plain > 0.1, "rounding must be seen, or this shows little"


def test_what_is_too_large_for_the_wire_is_infinite_everywhere(found):
    assert all(of_rank["overflowed"] == [True, True] for of_rank in found)


def test_an_exchange_that_fails_fails_the_backward_pass(found):
    assert all("no way through" in of_rank["failing"] for of_rank in found)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"format": "fp8"}, "unknown wire format 'fp8'; |choose one of fp32, bf16, fp16"),
        ({"route": "ring"}, "Wire.route is 'ring': choose one of flat, hierarchical, hybrid"),
        ({"groups": ((0,),)}, "for the hierarchical and the hybrid route"),
        ({"switch_bytes": 10}, "for the hierarchical and the hybrid route"),
        ({"route": "hybrid", "switch_bytes": -1}, "must be at least 0"),
        ({"format": "fp32", "error_feedback": True}, "needs a format that rounds"),
        ({"channels": 3}, "Wire.channels must be 1 or 2"),
    ],
)
def test_settings_that_cannot_be_meant(wrong, message):
    with pytest.raises(UsageError, match=message):
        Wire(**wrong)


@pytest.mark.parametrize("groups", [((0, 1),), ((0, 1), (1, 2)), ((0, 1, 2), ()), ((0, 1), (2, 3))])
def test_groups_must_part_the_ranks(groups):
    with pytest.raises(UsageError, match="must hold each of the ranks 0 to 2 once"):
        check_groups(groups, 3)


def test_a_model_that_is_not_wrapped():
    with pytest.raises(ModelError, match="wrap the model first"):
        attach(nn.Linear(2, 2), Wire())
