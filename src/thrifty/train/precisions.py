"""Precisions by name, as `--amp` and `METHOD@NAME` give them."""

from thrifty.distributed.precision import Precision

PRECISIONS = {
    "none": Precision(),
    "bf16": Precision("bf16"),
    "bf16-weights": Precision("bf16", weights="compute"),
}
"""fp16 is for GPUs, and `thrifty train` trains on the CPU: there it needs `thrifty.distributed.precision`."""
AMPS = tuple(PRECISIONS)
