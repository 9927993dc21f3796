"""Two real processes on gloo: measured, planned, handed over to DistributedDataParallel, and read back."""

from __future__ import annotations

import merging
import pytest
from ranks import DIED, run_ranks

from thrifty.distributed import GradientProfile, MergePlan, TransferCost


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    return run_ranks(2, merging.whole_way, str(folder))


def test_the_profile_is_that_of_readiness_and_the_same_everywhere(two):
    assert two[0]["profile"] == two[1]["profile"]
    profile = GradientProfile.from_dict(two[0]["profile"])
    assert sorted(profile.names) == two[0]["names"]
    owners = list(dict.fromkeys(name.partition(".")[0] for name in profile.names))
    assert owners == ["last", "middle", "first"]  # not the reverse of registration: last, first, middle
    assert dict(zip(profile.names, profile.sizes_bytes, strict=True))["first.weight"] == 24 * 10 * 4
    needed = dict(zip(profile.names, profile.needed_s, strict=True))
    assert needed["first.weight"] < needed["middle.0.weight"] < needed["last.weight"]


def test_the_cost_is_the_same_everywhere_and_grows(two):
    assert two[0]["cost"] == two[1]["cost"]
    cost = TransferCost.from_dict(two[0]["cost"])
    assert cost.sizes_bytes[0] == 1024 and cost.alone(1e9) >= cost.alone(1024)


def test_the_plan_is_the_same_everywhere(two):
    assert two[0]["plan"] == two[1]["plan"]
    plan = MergePlan.from_dict(two[0]["plan"])
    assert plan.in_flight == 2 and plan.rule == "optimal"
    assert sorted(name for bucket in plan.buckets for name in bucket) == two[0]["names"]


def test_measuring_leaves_the_model_as_it_was(two):
    assert all(found["unchanged"] for found in two)


def test_the_buckets_are_those_of_the_plan(two):
    for found in two:
        assert found["differences"] == []
        assert [set(bucket) for bucket in found["realised"]] == [set(bucket) for bucket in found["planned"]]


def test_a_plan_that_cannot_be_followed_is_told_once(two):
    for found in two:
        assert len(found["drift"]) == 1
        assert "has other buckets than planned: bucket 0 has" in found["drift"][0]


def test_gradients_are_the_plain_average(two):
    assert max(found["error"] for found in two) < 1e-6


def test_what_was_saved_is_used_until_the_batch_changes(two):
    assert two[0]["file"] and not two[1]["file"]  # the first rank's file serves all
    for found in two:
        assert found["kept_profile"] == found["profile"]
        assert found["other_profile"] != found["profile"]
        assert found["one_call"] == found["names"]


@pytest.fixture(scope="module")
def disagreements():
    return run_ranks(2, merging.disagreements)


@pytest.mark.parametrize(
    "what, message",
    [
        ("models", "differ in the model's parameters: last.weight (4, 24) torch.float32 and last.weight (4, 25)"),
        ("settings", "differ in the settings of merged gradients"),
        ("plans", "ranks 0 and 1 differ in the merge plan: per-tensor and single"),
        ("lines", "ranks 0 and 1 differ in things: b0 and b1"),
        ("count", "1 entries and 2"),
        ("no gradient", "spare.weight got no gradient (and 1 more)"),
        ("wrapped", "the model is a DistributedDataParallel: call thrifty.distributed.data_parallel(model) before"),
    ],
)
def test_processes_that_disagree_all_hear_of_it(disagreements, what, message):
    for found in disagreements:
        assert message in found[what]


def test_what_fails_on_one_is_told_to_all(disagreements):
    assert "got no gradient" in disagreements[1]["no gradient on one"]
    assert disagreements[0]["no gradient on one"].startswith("DistributedError: rank 1: ")
    assert disagreements[0]["loss fails on one"].startswith("DistributedError: rank 1: ")
    assert disagreements[0]["first fails"] == "ThriftyError: the file is damaged"
    assert disagreements[1]["first fails"] == "DistributedError: rank 0: the file is damaged"


def test_a_group_of_one_is_told_so_and_strangers_too(disagreements):
    assert "a world of one process sends no gradients" in disagreements[0]["two groups"]


def test_the_group_lives_on_after_an_error(disagreements):
    assert [found["still there"] for found in disagreements] == ["no error", "no error"]


@pytest.mark.parametrize("when", ["profile", "transfers"])
def test_a_process_that_dies_while_planning_is_noticed(when):
    left, right = run_ranks(2, merging.dying, when, may_die=True)
    assert right == DIED
    seconds, _, message = left.partition(" ")
    assert float(seconds) < 60  # it did not wait for ever; a busy machine may take its time to measure
    assert "did not answer within 3 s" in message or "a process of the group is gone" in message


def test_transfers_are_timed_beside_compute_which_leaves_no_trace(tmp_path):
    for found in run_ranks(2, merging.beside, str(tmp_path)):
        passes = merging.QUICK.steps + merging.QUICK.warmup
        assert found["calls"] > passes and found["threads"] == 1 and found["kept"]
        assert found["error"] == "the loss broke"
        assert found["bytes"]["bf16"] == found["bytes"]["fp32"]  # buckets count the bytes of gradients, as DDP does
        assert found["anew"], "a plan for another wire is no plan for this one"
