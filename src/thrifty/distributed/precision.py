"""Precision: sixteen bits where they are fast, thirty-two where they are needed; one policy for a whole training.

Source: Jia et al. (arXiv 1807.11205) and Micikevicius et al. (ICLR 2018): compute in 16 bits, keep master weights, the
optimizer and every norm in 32, and scale the loss so that small gradients survive fp16. Autocast and the gradient
scaler are torch's own; what is added here is the policy as plain data that a checkpoint records, master weights, and
steps that all ranks skip together.

    precision = MixedPrecision(Precision("bf16"), model, optimizer)
    with precision.autocast():
        loss = criterion(model(images), labels)
    precision.zero_grad()
    precision.backward(loss)
    precision.step()
"""

import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from thrifty.core.config import MethodConfig
from thrifty.core.errors import CheckpointError, ModelError, UsageError
from thrifty.core.inspection import refuse_wrapped
from thrifty.core.machine import cpu_flags
from thrifty.core.optimizers import Lazy
from thrifty.distributed.normalisation import NORMALISATION

FORMATS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16", "svebf16"}
"""Names in /proc/cpuinfo of what multiplies bfloat16 without widening it first."""


class PrecisionWarning(UserWarning):
    """A policy that this machine can follow, but gains nothing by."""


@dataclass(frozen=True)
class Precision(MethodConfig):
    """What is computed and kept in how many bits.

    Attributes:
        compute: `fp32`, `bf16` or `fp16`: the format of products, by autocast.
        weights: `fp32`, or `compute`: the model's own weights are then of that format, and fp32 masters of them are
            what the optimizer sees. Normalisation layers stay fp32 in any case, as do running statistics.
        init_scale: first factor of the loss, with fp16.
        growth_interval: steps without overflow after which the factor doubles, with fp16.

    Raises:
        UsageError: naming the field and what it may be.
    """

    method: ClassVar[str] = "precision"

    compute: str = "fp32"
    weights: str = "fp32"
    init_scale: float = 2.0**16
    growth_interval: int = 2000

    def validate(self) -> None:
        """Check every field; see `MethodConfig.validate`."""
        if self.compute not in FORMATS:
            raise UsageError(f"Precision.compute is {self.compute!r}: choose one of {', '.join(FORMATS)}")
        if self.weights not in ("fp32", "compute"):
            raise UsageError(f"Precision.weights is {self.weights!r}: choose fp32 or compute")
        if not self.init_scale >= 1 or self.growth_interval < 1:
            raise UsageError("Precision.init_scale and Precision.growth_interval must be at least 1")

    @property
    def dtype(self) -> torch.dtype:
        """What products are computed in."""
        return FORMATS[self.compute]

    @property
    def half_weights(self) -> bool:
        """Whether the model's weights have 16 bits, and masters beside them 32."""
        return self.weights == "compute" and self.compute != "fp32"

    def autocast(self, device_type: str = "cpu") -> AbstractContextManager[object]:
        """Torch's autocast for `compute`; nothing for fp32."""
        return nullcontext() if self.compute == "fp32" else torch.autocast(device_type, dtype=self.dtype)

    def drawback(self, device_type: str = "cpu") -> str:
        """Why this policy gains nothing on such a device of this machine; the empty string where it does."""
        if self.compute == "fp32":
            return ""
        if device_type == "cpu" and self.compute == "fp16":
            return "fp16 is emulated on a CPU and slower than fp32: take bf16, or a GPU"
        if device_type == "cpu" and not cpu_flags() & _BF16_FLAGS:
            return "this CPU has no bfloat16 products (AVX512-BF16, AMX or SVE): bf16 saves memory here, but no time"
        if device_type == "cuda" and self.compute == "bf16" and not torch.cuda.is_bf16_supported(False):
            return "this GPU has no bfloat16 products: take fp16"
        return ""


def check_fits(policy: Precision, model: nn.Module, optimizer: Optimizer) -> None:
    """Make sure that `MixedPrecision` can be made of these; nothing is changed. Raises as it does."""
    # DistributedDataParallel has laid out its buckets by the weights' format, and what wraps a model renames its state.
    refuse_wrapped(model, "thrifty.distributed.MixedPrecision")
    formats = {p.dtype for p in model.parameters() if p.is_floating_point()}
    wrong = next(iter(formats - {torch.float32}), None)
    if wrong is not None and policy.compute != "fp32":
        raise ModelError(f"the model has weights in {wrong}: build it in float32, the policy chooses the format")
    if policy.half_weights and isinstance(optimizer, Lazy):
        raise UsageError(
            f"{type(optimizer).__name__} brings rows up to date where they are read, and 16-bit weights are copies "
            f'that it does not know: keep fp32 weights, Precision("{policy.compute}")'
        )


class MixedPrecision:
    """A policy at work on one model and its optimizer.

    With 16-bit weights the model's parameters change their format in place, and the optimizer's groups and state go
    over to the masters: make it before DistributedDataParallel and before a learning-rate schedule.

    Args:
        policy: what to do.
        model: in fp32.
        optimizer: over the model's parameters.
        group: ranks that train together, which skip a step if any of them overflows; None for this process alone.

    Attributes:
        policy: as given.
        skipped: steps that an overflow cost so far.

    Raises:
        ModelError: a model whose parameters are not in fp32, or that is wrapped or compiled already.
        UsageError: 16-bit weights under a lazy optimizer.

    Warns:
        PrecisionWarning: this machine gains nothing by the policy.
    """

    def __init__(
        self, policy: Precision, model: nn.Module, optimizer: Optimizer, *, group: dist.ProcessGroup | None = None
    ) -> None:
        check_fits(policy, model, optimizer)
        self.policy, self.skipped = policy, 0
        self._model, self._optimizer = model, optimizer
        self._device = next((p.device.type for p in model.parameters() if p.is_floating_point()), "cpu")
        drawback = policy.drawback(self._device)
        if drawback:
            warnings.warn(drawback, PrecisionWarning, stacklevel=2)
        self._scaler = _make_scaler(policy, self._device, group) if policy.compute == "fp16" else None
        self._masters: dict[nn.Parameter, nn.Parameter] = {}
        if policy.half_weights:
            self._masters = _split_weights(model, optimizer, policy.dtype)

    def autocast(self) -> AbstractContextManager[object]:
        """Compute in the policy's format inside."""
        return self.policy.autocast(self._device)

    def zero_grad(self) -> None:
        """Forget the gradients of the model and of the masters."""
        self._model.zero_grad(set_to_none=True)
        self._optimizer.zero_grad(set_to_none=True)

    def backward(self, loss: Tensor) -> None:
        """Gradients of the loss, scaled where the policy scales."""
        (loss if self._scaler is None else self._scaler.scale(loss)).backward()

    def step(self) -> bool:
        """Let the optimizer step, and tell whether it did: not when the gradient of some rank overflowed."""
        pairs = [(p, master) for p, master in self._masters.items() if p.grad is not None]
        for parameter, master in pairs:
            assert parameter.grad is not None
            master.grad = parameter.grad.float()
        done = self._step_optimizer()
        if pairs and done:
            with torch.no_grad():
                torch._foreach_copy_([p for p, _ in pairs], [master for _, master in pairs])
        self.skipped += not done
        return done

    def _step_optimizer(self) -> bool:
        if self._scaler is None:
            self._optimizer.step()
            return True
        before = self._scaler.get_scale()
        self._scaler.unscale_(self._optimizer)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        return self._scaler.get_scale() >= before

    def weights(self) -> dict[str, Tensor]:
        """The model's state_dict with the masters in place of 16-bit weights: what a checkpoint should hold."""
        state = self._model.state_dict()
        names = {id(p): name for name, p in self._model.named_parameters(remove_duplicate=False)}
        for parameter, master in self._masters.items():
            state[names[id(parameter)]] = master.detach()
        return state

    def load_weights(self, state: Mapping[str, Tensor]) -> None:
        """Take over such weights, into the masters too. Raises RuntimeError as `nn.Module.load_state_dict` does."""
        self._model.load_state_dict(state)
        names = {id(p): name for name, p in self._model.named_parameters(remove_duplicate=False)}
        with torch.no_grad():
            for parameter, master in self._masters.items():
                master.copy_(state[names[id(parameter)]])

    def state_dict(self) -> dict[str, Any]:
        """The policy, the loss scale and the skipped steps as plain data; the masters are in `weights`."""
        scaler = self._scaler.state_dict() if self._scaler is not None else None
        return {"policy": self.policy.to_dict(), "scaler": scaler, "skipped": self.skipped}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over such a state. Raises CheckpointError when it is of another policy."""
        if state["policy"] != self.policy.to_dict():
            raise CheckpointError(f"the checkpoint was trained with {state['policy']}, not {self.policy.to_dict()}")
        if self._scaler is not None:
            self._scaler.load_state_dict(state["scaler"])
        self.skipped = int(state["skipped"])


def _make_scaler(policy: Precision, device: str, group: dist.ProcessGroup | None) -> torch.amp.GradScaler:
    settings: dict[str, Any] = {"init_scale": policy.init_scale, "growth_interval": policy.growth_interval}
    if group is None or dist.get_world_size(group) == 1:
        return torch.amp.GradScaler(device, **settings)
    # Torch's own scaler for gradients that differ between ranks: it adds up what each of them found.
    from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler

    return ShardedGradScaler(device, process_group=group, **settings)


def _split_weights(model: nn.Module, optimizer: Optimizer, dtype: torch.dtype) -> dict[nn.Parameter, nn.Parameter]:
    """Turn all weights but those of normalisation layers into `dtype`; return an fp32 master for each."""
    kept = {id(p) for m in model.modules() if isinstance(m, NORMALISATION) for p in m.parameters(recurse=False)}
    masters: dict[nn.Parameter, nn.Parameter] = {}
    for parameter in model.parameters():
        if id(parameter) not in kept and parameter.is_floating_point():
            master = nn.Parameter(parameter.detach().clone(), requires_grad=parameter.requires_grad)
            masters[parameter] = master
            parameter.data = parameter.data.to(dtype)
    for group in optimizer.param_groups:
        group["params"] = [masters.get(p, p) for p in group["params"]]
    for parameter, master in masters.items():
        if parameter in optimizer.state:
            optimizer.state[master] = optimizer.state.pop(parameter)
    return masters
