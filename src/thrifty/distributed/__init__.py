"""Data parallelism that sends less often: gradients merged into the buckets that end first. See README.md here."""

import thrifty.distributed.method  # noqa: F401  (the import registers the method)
from thrifty.distributed.config import MergedGradients
from thrifty.distributed.cost import TransferCost, TransferSample
from thrifty.distributed.plan import MergePlan, compare, make_plan
from thrifty.distributed.profile import GradientProfile

__all__ = [
    "GradientProfile",
    "MergePlan",
    "MergedGradients",
    "TransferCost",
    "TransferSample",
    "compare",
    "make_plan",
]
