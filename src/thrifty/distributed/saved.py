"""Profile, cost and plan in a file, used again as long as they are about the same model, group and backend."""

from __future__ import annotations

import hashlib
import json
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import ProcessGroup

from thrifty.core.atomic import write_json
from thrifty.core.codec import decode_fields, encode
from thrifty.core.errors import CheckpointError, UsageError
from thrifty.distributed.agreement import exchange
from thrifty.distributed.cost import TransferCost
from thrifty.distributed.measure_gradients import specification
from thrifty.distributed.plan import MergePlan
from thrifty.distributed.profile import GradientProfile

FORMAT = 1
_LONGEST = 500  # characters of a message, which quotes what a stranger may have written


@dataclass(frozen=True)
class Circumstances:
    """What measured times hold for; another value of any of these makes them worthless.

    Attributes:
        model: digest of the trained parameters' names, shapes and dtypes.
        batch: digest of what the caller says about a step, such as its batch size; empty where nothing is said.
        hosts: name of the machine of each rank.
        backend: of the group.
        device: that the model lies on.
        threads: of torch in each process.
        torch: its version.
    """

    model: str
    batch: str
    hosts: tuple[str, ...]
    backend: str
    device: str
    threads: int
    torch: str


@dataclass(frozen=True)
class Measured:
    """What is kept in the file."""

    circumstances: Circumstances
    profile: GradientProfile
    cost: TransferCost
    plan: MergePlan

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return {"format": FORMAT, **encode(self)}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Measured:
        """Build what `to_dict` described. Raises UsageError for anything else, and for another format."""
        if not isinstance(state, Mapping) or state.get("format") != FORMAT:
            raise UsageError(f"not a plan of format {FORMAT}")
        found = cls(**decode_fields(cls, {key: state[key] for key in state if key != "format"}, "plan file"))
        plan = found.plan
        if tuple(name for bucket in plan.buckets for name in bucket) != found.profile.names:
            raise UsageError("its plan is of other gradients than its profile")
        if len(plan.bucket_bytes) != len(plan.buckets) or min(plan.bucket_bytes) < 0 or plan.in_flight < 1:
            raise UsageError("its plan has not the sizes of its buckets")
        if not (math.isfinite(plan.predicted_s) and plan.predicted_s >= 0):
            raise UsageError("its plan takes no time that can be")
        return found


def circumstances(model: nn.Module, batch: str, group: ProcessGroup | None, timeout_s: float) -> Circumstances:
    """Return those of this moment; all processes of the group have to call it."""
    lines: Sequence[str] = specification(model)
    return Circumstances(
        model=hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16],
        batch=batch,
        hosts=tuple(exchange("the names of machines", platform.node(), group, timeout_s)),
        backend=str(dist.get_backend(group)),
        device=next(model.parameters()).device.type,
        threads=torch.get_num_threads(),
        torch=torch.__version__,
    )


def save(path: Path, measured: Measured) -> None:
    """Write the file in one step."""
    write_json(path, measured.to_dict())


def read(path: Path) -> Measured:
    """Read such a file.

    Raises:
        CheckpointError: it is missing, damaged, or of another format.
    """
    try:
        return Measured.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    except RecursionError as error:
        raise CheckpointError(f"{path} holds no saved plan (its parts nest too deep): remove it") from error
    except (ValueError, UsageError) as error:
        told = str(error)[:_LONGEST]
        raise CheckpointError(f"{path} holds no saved plan ({told}): remove it, or name another file") from error


def changed(measured: Measured, now: Circumstances) -> list[str]:
    """Return what is not as it was when `measured` was written, in words; empty when it can be used."""
    then = encode(measured.circumstances)
    return [
        f"{key} was {then[key]!r} and is {value!r}" if key not in ("model", "batch") else f"the {key} is another one"
        for key, value in encode(now).items()
        if then[key] != value
    ]
