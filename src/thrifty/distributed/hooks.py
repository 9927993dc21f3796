"""How gradients travel: a communication hook for DistributedDataParallel, for any plan of its buckets.

A hook decides what is done with a bucket, a merge plan which gradients are in it; the two do not know of each other.
Error feedback (Seide et al., Interspeech 2014; Karimireddy et al., ICML 2019) adds to each gradient what rounding took
from the one before, for one fp32 copy of the gradients. The mean is rounded too, and that is not fed back: about half
of the error of the wire remains.

    data_parallel = DistributedDataParallel(model)
    hook = attach(data_parallel, Wire("bf16"))
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from thrifty.core.errors import CheckpointError, ModelError, UsageError
from thrifty.distributed.channel import Channel, on_stream
from thrifty.distributed.routes import (
    BySize,
    Flat,
    Groups,
    Hierarchical,
    Route,
    check_groups,
    detect_groups,
    measure_switch,
)
from thrifty.distributed.wire import wire_dtype

ROUTES = ("flat", "hierarchical", "hybrid")


@dataclass(frozen=True)
class Wire:
    """How gradients travel between ranks.

    Attributes:
        format: `fp32`, `bf16` or `fp16` on the wire; sums are made in fp32.
        route: `flat`, `hierarchical`, or `hybrid`: hierarchical for small buckets and flat for large ones.
        groups: ranks by group, the first of each leads; None goes by the machines that the ranks run on.
        switch_bytes: hybrid: fp32 bytes of a bucket from which it goes flat; None measures it.
        error_feedback: keep what rounding took from a gradient, and add it to the next one.
        channels: buckets under way at a time on a CPU, 1 or 2.

    Raises:
        UsageError: naming the field and what it may be.
    """

    format: str = "bf16"
    route: str = "flat"
    groups: Groups | None = None
    switch_bytes: int | None = None
    error_feedback: bool = False
    channels: int = 1

    def __post_init__(self) -> None:
        wire_dtype(self.format)
        if self.route not in ROUTES:
            raise UsageError(f"Wire.route is {self.route!r}: choose one of {', '.join(ROUTES)}")
        if self.route == "flat" and (self.groups is not None or self.switch_bytes is not None):
            raise UsageError("Wire.groups and Wire.switch_bytes are for the hierarchical and the hybrid route")
        if self.switch_bytes is not None and self.switch_bytes < 0:
            raise UsageError(f"Wire.switch_bytes must be at least 0, got {self.switch_bytes}")
        if self.error_feedback and self.format == "fp32":
            raise UsageError("Wire.error_feedback needs a format that rounds: bf16 or fp16")
        if self.channels not in (1, 2):
            raise UsageError(f"Wire.channels must be 1 or 2, got {self.channels}")


def attach(model: DistributedDataParallel, wire: Wire) -> "WireHook":
    """Make the gradients of `model` travel as `wire` says; all ranks call it, before the first backward pass.

    Each channel has a process group of its own, with the timeout of the default one. A model over some of the ranks
    only uses the group that it has, and one channel.

    Returns:
        The hook; its `state_dict` holds the residuals of error feedback, its `close` ends its threads.

    Raises:
        UsageError: groups that do not part the ranks; two channels for some of the ranks only.
        ModelError: not a DistributedDataParallel, or one that has a hook.
    """
    if not isinstance(model, DistributedDataParallel):
        raise ModelError(f"attach takes a DistributedDataParallel, got {type(model).__name__}: wrap the model first")
    if model._comm_hooks:
        raise ModelError("the model has a communication hook already, and DistributedDataParallel takes one")
    if wire.channels > 1 and dist.get_world_size(model.process_group) < dist.get_world_size():
        raise UsageError("Wire.channels is 2, which takes a model that all ranks train: use 1")
    hook = WireHook(model.module, wire, model.process_group, model.device)
    model.register_comm_hook(hook, _travel)
    return hook


def _travel(hook: "WireHook", bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    return hook(bucket)  # torch insists on this name of the parameter and on this annotation, which is no text


class WireHook:
    """The hook of one model; made by `attach`.

    Attributes:
        wire: as given.
        groups: ranks by group, as given or detected; None on the flat route.
        switch_bytes: as given or measured; None on other routes than the hybrid.
        buckets: how many the model's gradients came in so far.
        item_bytes: of a gradient's element on the wire.
    """

    def __init__(self, model: nn.Module, wire: Wire, group: dist.ProcessGroup, device: torch.device | None) -> None:
        self.wire, self._dtype, self._device = wire, wire_dtype(wire.format), device
        self.item_bytes = self._dtype.itemsize
        self.groups: Groups | None = None
        self.buckets = 0
        self.switch_bytes = wire.switch_bytes
        if wire.route != "flat":
            ranks = dist.get_world_size(group)
            self.groups = check_groups(wire.groups, ranks) if wire.groups else detect_groups(group)
        self._names = {parameter: name for name, parameter in model.named_parameters()}
        self._residuals: dict[nn.Parameter, Tensor] = {}
        on_cpu = device is None or device.type == "cpu"
        self._stream = None if on_cpu else torch.cuda.Stream(device)
        whole = dist.get_world_size(group) == dist.get_world_size()
        self._routes: list[Route] = []
        for _ in range(wire.channels if on_cpu else 1):
            own = dist.new_group() if whole else group
            assert isinstance(own, dist.ProcessGroup)
            self._routes.append(self._route(own))
        self._channels = [Channel(f"gradients {i}") for i in range(len(self._routes))] if on_cpu else []

    def _route(self, group: dist.ProcessGroup) -> Route:
        flat = Flat(self._dtype, group)
        if self.groups is None:
            return flat
        hierarchical = Hierarchical(self._dtype, group, self.groups)
        if self.wire.route == "hierarchical":
            return hierarchical
        if self.switch_bytes is None:
            self.switch_bytes = measure_switch(flat, hierarchical, group, self._device or "cpu")
        return BySize(flat, hierarchical, self.switch_bytes)

    def __call__(self, bucket: dist.GradBucket) -> "torch.futures.Future[Tensor]":
        """The future of the bucket's buffer, holding the mean over the ranks."""
        index = bucket.index()
        self.buckets = max(self.buckets, index + 1)
        buffer, gradients, parameters = bucket.buffer(), bucket.gradients(), bucket.parameters()
        route = self._routes[index % len(self._routes)]

        def exchange() -> Tensor:
            with torch.no_grad():
                if self.wire.error_feedback:
                    self._feed_back(parameters, gradients)
                # Gradients of 16-bit weights are summed in fp32 as well.
                wide = buffer.float() if buffer.dtype in (torch.float16, torch.bfloat16) else buffer
                route(wide)
                return buffer if wide is buffer else buffer.copy_(wide)

        if self._stream is not None:
            return on_stream(exchange, self._stream, buffer.device)
        return self._channels[index % len(self._channels)].submit(exchange)

    def _feed_back(self, parameters: list[Tensor], gradients: list[Tensor]) -> None:
        """Add what was lost before, round to the wire's format, and keep what is lost now."""
        residuals = []
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if parameter not in self._residuals:
                self._residuals[parameter] = torch.zeros_like(gradient, dtype=torch.float32)  # type: ignore[index]
            residuals.append(self._residuals[parameter])  # type: ignore[index]
        torch._foreach_add_(residuals, gradients)
        for gradient, residual in zip(gradients, residuals, strict=True):
            gradient.copy_(residual.to(self._dtype))
        torch._foreach_sub_(residuals, gradients)
        for residual in residuals:
            residual.nan_to_num_(0.0, 0.0, 0.0)  # of a step that overflowed nothing is kept

    def state_dict(self) -> dict[str, Any]:
        """This rank's residuals by parameter name."""
        return {"residuals": {self._names[parameter]: value for parameter, value in self._residuals.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over such a state. Raises CheckpointError when it is of another model."""
        parameters = {name: parameter for parameter, name in self._names.items()}
        for name, value in state["residuals"].items():
            if name not in parameters or parameters[name].shape != value.shape:
                raise CheckpointError(f"the checkpoint has a residual of {name}, which this model has not")
        self._residuals = {parameters[name]: value.clone() for name, value in state["residuals"].items()}

    def close(self) -> None:
        """End the threads; the model must not be trained any more."""
        for channel in self._channels:
            channel.close()
