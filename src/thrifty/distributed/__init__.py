"""Data parallelism that sends less often: gradients merged into the buckets that end first. See README.md here."""

import thrifty.distributed.method  # noqa: F401  (the import registers the method)
from thrifty.distributed.config import MergedGradients
from thrifty.distributed.cost import TransferCost, TransferSample
from thrifty.distributed.group import join
from thrifty.distributed.handover import BucketReport, PlanWarning, bucket_report, hand_over, realised
from thrifty.distributed.hooks import Wire, WireHook, attach
from thrifty.distributed.lamb import LAMB
from thrifty.distributed.lars import LARS
from thrifty.distributed.measure_gradients import profile_gradients
from thrifty.distributed.measure_transfers import measure_transfers
from thrifty.distributed.parallel import data_parallel, measure
from thrifty.distributed.plan import MergePlan, compare, make_plan
from thrifty.distributed.precision import MixedPrecision, Precision, PrecisionWarning
from thrifty.distributed.profile import GradientProfile
from thrifty.distributed.recipe import parameter_groups, polynomial, zero_last_gamma_
from thrifty.distributed.trace import trace_profile

__all__ = [
    "LAMB",
    "LARS",
    "BucketReport",
    "GradientProfile",
    "MergePlan",
    "MergedGradients",
    "MixedPrecision",
    "PlanWarning",
    "Precision",
    "PrecisionWarning",
    "TransferCost",
    "TransferSample",
    "Wire",
    "WireHook",
    "attach",
    "bucket_report",
    "compare",
    "data_parallel",
    "hand_over",
    "join",
    "make_plan",
    "measure",
    "measure_transfers",
    "parameter_groups",
    "polynomial",
    "profile_gradients",
    "realised",
    "trace_profile",
    "zero_last_gamma_",
]
