"""Gradients through every hook are the plain average within the roundings of their wire, on 2, 3 and 4 ranks."""

import hook_checks
import pytest
from ranks import run_ranks
from torch import nn

from thrifty.core.errors import ModelError, UsageError
from thrifty.distributed.hooks import Wire, attach
from thrifty.distributed.routes import check_groups

NAMES = [*hook_checks.CASES, "bf16 weights", "bf16 measured"]


@pytest.fixture(scope="module", params=[2, 3, 4], ids=lambda ranks: f"{ranks} ranks")
def found(request):
    """What the ranks of a group found: one group for all checks."""
    return run_ranks(request.param, hook_checks.everything)


def test_gradients_are_the_plain_average(found):
    for name in NAMES:
        for of_rank in found:
            assert of_rank[name]["worst"] <= 1.0, name
            assert of_rank[name]["alike"], f"{name}: all ranks must hold the same bits, or their weights part"
            assert of_rank[name]["buckets"] >= 2, name
    worst = [found[0][name]["worst"] for name in ("fp16 flat", "bf16 flat")]
    assert min(worst) > 0.25, "the bound must be tight enough to notice a lost bit"


def test_groups_are_detected_by_host_and_the_switch_is_measured_alike(found):
    assert all(of_rank["detected"] == (tuple(range(len(found))),) for of_rank in found)
    switches = {of_rank["bf16 measured"]["switch"] for of_rank in found}
    assert len(switches) == 1 and switches <= {0, 4096, 16384}


def test_error_feedback_leaves_the_rounding_of_the_mean_alone(found):
    plain, feedback = found[0]["plain"], found[0]["feedback"]
    assert feedback < 0.7 * plain
    assert plain > 0.1, "rounding must be seen, or this shows little"


def test_what_is_too_large_for_the_wire_is_infinite_everywhere(found):
    assert all(of_rank["overflowed"] == [True, True] for of_rank in found)


def test_an_overflow_on_one_rank_costs_the_step_on_all(found):
    assert all(of_rank["skipped"] == [True, False, 8.0, 1] for of_rank in found)


def test_an_exchange_that_fails_fails_the_backward_pass(found):
    assert all("no way through" in of_rank["failing"] for of_rank in found)


def test_a_model_of_some_ranks_uses_the_group_that_it_has(found):
    assert [of_rank["of some"] for of_rank in found] == (
        [True, None, True, None] if len(found) == 4 else [None] * len(found)
    )


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
