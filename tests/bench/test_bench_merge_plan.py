"""The benchmark of merge rules end to end over the loopback device, and the shaped link where there may be one."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest
from rich.console import Console

from thrifty.bench import merge_plan
from thrifty.bench.link import ADDRESSES, NAMES, LinkError, ShapedLink, unavailable
from thrifty.bench.merge_worker import BOUND, BOUND_HALF, DEFAULT_HALF, HALF, bound_s
from thrifty.bench.registry import load
from thrifty.core.errors import DistributedError, UsageError
from thrifty.distributed import GradientProfile, TransferCost
from thrifty.distributed.rules import RIVALS

SMALL = ("networks=transformer", "link=none", "rounds=1", "batch=2", "image_size=8", "transfer_s=0.3")


def run(*options: str, **keywords):
    return load("merge-plan").run(quick=True, console=Console(file=io.StringIO()), options=options, **keywords)


def test_every_rule_is_modelled_and_measured():
    kept = {"network": "vgg19", "rule": "optimal", "modelled_s": 1.0, "measured_s": 2.0, "error": -0.5}
    others = [{**kept, "rule": rule, "measured_s": 3.0} for rule in (*RIVALS, HALF, DEFAULT_HALF)]
    others.append({**kept, "rule": BOUND, "measured_s": None, "error": None})
    result = run(*SMALL, earlier={"rows": [kept, *others], "settings": {"networks": {"vgg19": {"batch": 4}}}})
    rows = {row["rule"]: row for row in result.rows if row["network"] == "transformer"}
    bounds = {BOUND, BOUND_HALF}
    assert set(rows) == {"optimal", *RIVALS, HALF, DEFAULT_HALF, "optimal-split", "dear", *bounds}
    for rule, row in rows.items():
        assert row["modelled_s"] > 0
        if rule in ("optimal-split", "dear", *bounds):
            assert row["measured_s"] is None
        else:
            assert row["measured_s"] > 0 and sum(row["bucket_bytes"]) == sum(rows["single"]["bucket_bytes"])
    assert min(rows[rule]["modelled_s"] for rule in RIVALS) >= rows["optimal"]["modelled_s"] * (1 - 1e-9)
    assert rows[DEFAULT_HALF]["buckets"] == rows["ddp-default"]["buckets"]
    assert rows["single"]["buckets"] == 1 and rows["per-tensor"]["buckets"] > 20
    assert result.settings["networks"]["transformer"]["link"].startswith("loopback: asked for")
    assert result.settings["networks"]["transformer"]["differences"] == {"optimal": []}
    assert result.settings["networks"]["vgg19"] == {"batch": 4}
    assert result.summary["vgg19"]["ours_vs_ddp"] == 1.5
    summary = result.summary["transformer"]
    assert summary["ours_vs_ddp"] == rows["ddp-default"]["measured_s"] / rows["optimal"]["measured_s"]
    assert summary["ours_with_bf16_wire_vs_ddp"] == rows["ddp-default"]["measured_s"] / rows[HALF]["measured_s"]


def test_no_buckets_are_quicker_than_the_bound():
    """Compute of 3 s that hides everything; then bytes that take 10 s from the first gradient on."""
    profile = GradientProfile(("b", "a"), (400, 600), (0.5, 2.0), 2.0, 1.0, (0.0, 0.0))
    assert bound_s(profile, TransferCost.linear(0.1, 1e-9)) == 3.0
    assert bound_s(profile, TransferCost((100.0, 1000.0), (5.0, 12.0), (6.0, 22.0))) == 1.0 + 0.5 + 10.0


@pytest.mark.parametrize(
    "option, message",
    [
        ("networks=lenet", "choose among alexnet, vgg19, resnet50, transformer"),
        ("rounds=-1", "rounds: at least 1"),
        ("rule.x=1", "merge-plan knows no such key"),
    ],
)
def test_choices_that_there_are_not(option, message):
    with pytest.raises(UsageError, match=message):
        run(option)


def test_a_process_that_fails_is_told_with_its_last_line():
    job = {"network": "alexnet", "batch": 1, "image_size": 8, "rounds": 1, "transfer_s": 0.1}
    with pytest.raises(DistributedError, match=r"process . failed .*: .*needs images of at least 63 x 63"):
        merge_plan.run_pair(job, None, 60.0)


def test_a_shaped_link_has_its_rate_at_both_ends_and_goes_again():
    if reason := unavailable():
        pytest.skip(reason)
    with ShapedLink("200mbit") as link:
        for rank in range(2):
            words = [*link.inside(rank), "tc", "qdisc", "show"]
            shown = subprocess.run(words, capture_output=True, text=True, check=True).stdout
            assert "tbf" in shown and "rate 200Mbit" in shown
        across = f"import socket; socket.create_connection(({ADDRESSES[0]!r}, 9), 5)"
        answer = subprocess.run(
            [*link.inside(1), sys.executable, "-c", across], capture_output=True, text=True, check=False
        )
        assert "ConnectionRefusedError" in answer.stderr  # somebody is there, and says no
    there = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert not any(name in there for name in NAMES)


def test_a_rate_that_tc_does_not_know_is_told_and_leaves_nothing():
    if reason := unavailable():
        pytest.skip(reason)
    with pytest.raises(LinkError, match="tc qdisc add"), ShapedLink("fast"):
        pass
    there = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert not any(name in there for name in NAMES)
