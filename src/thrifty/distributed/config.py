"""MergedGradients: the settings of merged gradients under data parallelism."""

from dataclasses import dataclass
from typing import ClassVar

from thrifty.core.config import MethodConfig
from thrifty.core.errors import UsageError
from thrifty.distributed.plan import OPTIMAL
from thrifty.distributed.rules import RIVALS
from thrifty.distributed.wire import wire_dtype

RULES = (OPTIMAL, *RIVALS)


@dataclass(frozen=True)
class MergedGradients(MethodConfig):
    """Gradients merged into the buckets that end first, for this model, machine and network.

    Attributes:
        rule: which plan: the `optimal` one, or that of a rival for comparison (`per-tensor`, `single`, `ddp-default`,
            `threshold`, `mg-wfbp`).
        steps: forward and backward passes that are timed; their median counts.
        warmup: passes before, not timed.
        in_flight: transfers that the backend runs at a time, 1 or 2; None goes by the backend (gloo 2, NCCL 1).
        transfer_s: seconds at most for timing transfers.
        timeout_s: seconds after which a process that does not answer is given up.
        wire: format in which gradients will travel, `fp32`, `bf16` or `fp16`: what is timed and planned for. That they
            do is the business of a hook, `attach(model, Wire("bf16"))`.
        saved: file in which profile, cost and plan are kept; what it holds is used again as long as model, group and
            backend are the same. None measures anew each time.
    """

    method: ClassVar[str] = "merge"

    rule: str = OPTIMAL
    steps: int = 5
    warmup: int = 2
    in_flight: int | None = None
    transfer_s: float = 8.0
    timeout_s: float = 60.0
    wire: str = "fp32"
    saved: str | None = None

    def validate(self) -> None:
        """Check every field; see `MethodConfig.validate`."""
        if self.rule not in RULES:
            raise UsageError(f"MergedGradients.rule is {self.rule!r}: choose one of {', '.join(RULES)}")
        for name, least in (("steps", 1), ("warmup", 0)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise UsageError(f"MergedGradients.{name} must be a whole number of at least {least}, got {value!r}")
        if self.in_flight not in (None, 1, 2):
            raise UsageError(f"MergedGradients.in_flight must be 1, 2 or None, got {self.in_flight!r}")
        for name in ("transfer_s", "timeout_s"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < float("inf"):
                raise UsageError(f"MergedGradients.{name} must be a positive number of seconds, got {value!r}")
        wire_dtype(self.wire)
        if self.saved is not None and (not isinstance(self.saved, str) or not self.saved):
            raise UsageError(f"MergedGradients.saved must be the path of a file, got {self.saved!r}")
