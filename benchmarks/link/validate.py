"""Simulated against real steps of two processes over a shaped link; see README.md here."""

from __future__ import annotations

import argparse
import statistics
import sys

from thrifty.bench.link import unavailable
from thrifty.bench.merge_plan import CASES, run_pair
from thrifty.core.errors import ThriftyError
from thrifty.distributed import GradientProfile, TransferCost
from thrifty.distributed.collectives import Link
from thrifty.distributed.rules import RIVALS
from thrifty.distributed.simulate import sweep
from thrifty.distributed.units import parse_bandwidth


def main() -> int:
    """Measure, simulate, print. Returns the exit code."""
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--rate", default="1gbit", help="of the link, as tc writes it")
    words.add_argument("--network", default="resnet50", choices=CASES)
    words.add_argument("--rounds", type=int, default=7, help="timed steps of each rule")
    words.add_argument("--batch", type=int, help="images a process and step")
    words.add_argument("--image-size", type=int)
    given = words.parse_args()
    if reason := unavailable():
        print(f"skipped: {reason}")
        return 0
    case = CASES[given.network]
    job = {
        "network": given.network, "batch": given.batch or case.batch, "image_size": given.image_size or case.image_size,
        "rounds": given.rounds, "transfer_s": 8.0,
    }  # fmt: skip
    try:
        found = run_pair(job, given.rate, 1800.0)
    except ThriftyError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    profile = GradientProfile.from_dict(found["profile"])
    cost = TransferCost.from_dict(found["cost"])
    # A ring of two sends two messages one after the other.
    link = Link(latency_s=cost.alone_s[0] / 2, bytes_per_s=parse_bandwidth(given.rate))
    rules = ("optimal", *RIVALS)
    points = sweep(profile, link, [2], algorithms=["ring"], rules=rules, in_flight=found["in_flight"])
    simulated = {point.rule: point.step_s for point in points}
    print(f"{'rule':12} {'measured':>10} {'modelled':>10} {'error':>7} {'simulated':>10} {'error':>7}")
    errors = []
    for rule in rules:
        measured, modelled = statistics.median(found["seconds"][rule]), found["modelled_s"][rule]
        errors.append((modelled / measured - 1, simulated[rule] / measured - 1))
        print(
            f"{rule:12} {measured:8.3f} s {modelled:8.3f} s {errors[-1][0]:+7.1%} {simulated[rule]:8.3f} s "
            f"{errors[-1][1]:+7.1%}"
        )
    for name, of in (("modelled", [pair[0] for pair in errors]), ("simulated", [pair[1] for pair in errors])):
        print(f"median error, {name}: {statistics.median(map(abs, of)):.1%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
