"""Published points of scaling, to stand beside simulated ones, and what a simulation makes of one of them.

Numbers are facts of the sources named; nothing here is measured by this library.
"""

from __future__ import annotations

from dataclasses import dataclass

from thrifty.core.errors import UsageError
from thrifty.distributed.cost import TransferCost
from thrifty.distributed.plan import make_plan
from thrifty.distributed.profile import GradientProfile


@dataclass(frozen=True)
class Point:
    """Scaling efficiency of a network on a number of workers, as published."""

    network: str
    workers: int
    efficiency: float
    algorithm: str
    what: str
    source: str


JIA = "Jia et al., arXiv 1807.11205"
POINTS = (
    Point("resnet50", 2048, 0.879, "hierarchical", "Tesla P40, 100 Gbit/s, fp16", f"{JIA}, as quoted by others"),
    Point("resnet50", 2048, 0.97, "hierarchical", "the same run", "the authors' own article"),
)

RULES = {"single": "BSP", "per-tensor": "WFBP", "mg-wfbp": "MG-WFBP"}
"""Our names of the rules in the table below."""


@dataclass(frozen=True)
class Race:
    """Images a second of ResNet-50 on 32 GPUs, 64 images each, by rule; one GPU alone has `alone_per_s`."""

    link: str
    per_s: dict[str, float]
    alone_per_s: float = 253.1
    workers: int = 32
    batch: int = 64


SHI = "HKBU-HPML/ddl-benchmarks, 2020"
RACES = (
    Race("10 Gbit/s Ethernet", {"single": 4921, "per-tensor": 5113, "mg-wfbp": 6884}),
    Race("100 Gbit/s Ethernet, TCP", {"single": 5745, "per-tensor": 6141, "mg-wfbp": 7541}),
    Race("100 Gbit/s InfiniBand", {"single": 7127, "per-tensor": 7327, "mg-wfbp": 7876}),
)

STARTUP_AND_BYTE_S = {
    ("10 Gbit/s Ethernet", 8): (0.523e-3, 0.857e-9),
    ("10 Gbit/s Ethernet", 16): (0.908e-3, 0.740e-9),
    ("10 Gbit/s Ethernet", 32): (4.04e-3, 0.864e-9),
    ("10 Gbit/s Ethernet", 64): (7.04e-3, 0.964e-9),
    ("56 Gbit/s InfiniBand", 8): (97.5e-6, 0.306e-9),
    ("56 Gbit/s InfiniBand", 16): (0.236e-3, 0.406e-9),
    ("56 Gbit/s InfiniBand", 64): (0.806e-3, 0.589e-9),
}
"""a and b of T(m) = a + b m in MG-WFBP's code (HKBU-HPML/MG-WFBP), by link and workers."""


@dataclass(frozen=True)
class Rerun:
    """A race simulated: start-up and seconds a byte were fitted to two of its rules, the others are predictions."""

    race: Race
    startup_s: float
    byte_s: float
    per_s: dict[str, float]
    fitted: tuple[str, ...] = ("single", "per-tensor")

    @property
    def same_ranking(self) -> bool:
        """Whether the published rules come in the published order."""
        published = sorted(self.race.per_s, key=lambda rule: self.race.per_s[rule])
        return published == sorted(self.race.per_s, key=lambda rule: self.per_s[rule])


def rerun(race: Race, profile: GradientProfile) -> Rerun:
    """Simulate a race.

    Args:
        race: published images a second.
        profile: of the network with `race.batch` images; its times are scaled to those of one GPU.

    Raises:
        UsageError: no straight line explains the two rules that are fitted.
    """
    profile = profile.taking(race.batch / race.alone_per_s)

    def images_per_s(rule: str, cost: TransferCost) -> float:
        over_s = make_plan(profile, cost, rule=rule).predicted_s
        return race.workers * race.batch / (profile.forward_s + max(over_s, profile.backward_s))

    def cost(startup_s: float) -> TransferCost:
        # One transfer after the backward pass: what a step lasts beyond compute is its T.
        exposed_s = race.workers * race.batch / race.per_s["single"] - profile.compute_s
        return TransferCost.linear(startup_s, max(0.0, exposed_s - startup_s) / profile.total_bytes)

    low, high = 0.0, 0.1
    if not images_per_s("per-tensor", cost(low)) >= race.per_s["per-tensor"] >= images_per_s("per-tensor", cost(high)):
        raise UsageError(f"no start-up up to {high} s gives the published speed of one transfer a gradient")
    for _ in range(60):
        middle = (low + high) / 2
        if images_per_s("per-tensor", cost(middle)) >= race.per_s["per-tensor"]:
            low = middle
        else:
            high = middle
    fitted = cost(low)
    startup_s, byte_s = fitted.fitted()
    found = {rule: images_per_s(rule, fitted) for rule in (*race.per_s, "ddp-default", "optimal")}
    return Rerun(race, startup_s, byte_s, found)
