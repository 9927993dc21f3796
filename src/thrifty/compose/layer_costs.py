"""What each layer of a stock model costs in one training step: seconds, memory kept for the backward pass, parameters.

Seconds are taken around the layer's forward pass, and around every node that it put into autograd's graph; a layer is
a module without modules of its own, or one that holds parameters itself, such as attention. On an accelerator the clock
waits for the device at each of these places, so a sum over layers is longer than a step that runs freely.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node, saved_tensors_hooks
from torch.utils._pytree import tree_leaves

from thrifty.core.surgery import named_layers

Clock = Callable[[], float]


@dataclass
class LayerCost:
    """One layer in one training step.

    Attributes:
        layer: its first qualified name. kind: the name of its class.
        forward_s, backward_s: seconds, of all its calls in the step.
        saved_bytes: what its forward pass kept for the backward pass and no layer before it did.
        parameter_bytes: of its own parameters; what data parallelism sends of its gradient.
    """

    layer: str
    kind: str
    forward_s: float = 0.0
    backward_s: float = 0.0
    saved_bytes: int = 0
    parameter_bytes: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The costs as plain data."""
        return asdict(self)


class SavedBytes:
    """Bytes that autograd keeps for the backward pass: each storage once, parameters not at all."""

    def __init__(self, model: nn.Module) -> None:
        self._seen = {_storage(parameter) for parameter in model.parameters()}
        self._kept: list[Tensor] = []  # alive, or an address could be given twice
        self.bytes = 0

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count what is saved inside the block."""
        with saved_tensors_hooks(self._pack, lambda kept: kept):
            yield

    def clear(self) -> None:
        """Let go of the tensors that were counted."""
        self._kept.clear()

    def _pack(self, kept: Tensor) -> Tensor:
        mark = _storage(kept)
        if mark is not None and mark not in self._seen:
            self._seen.add(mark)
            self._kept.append(kept.detach())
            self.bytes += kept.untyped_storage().nbytes()
        return kept


def _storage(tensor: Tensor) -> int | None:
    try:
        return tensor.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):  # a sparse or wrapped tensor has none
        return None


def layer_costs(model: nn.Module, step: Callable[[], Tensor], *, clock: Clock = time.perf_counter) -> list[LayerCost]:
    """Run one training step and count it by layer.

    Args:
        model: whose layers are counted; hooks are put on it and taken off again.
        step: runs `model` on a batch and returns the loss; `backward` is called on it here, gradients are added to.
        clock: seconds, for tests.

    Returns:
        A row for each layer that ran, in the order in which they first ran.
    """
    meter = _Meter(model, clock)
    with ExitStack() as stack:
        for (name, *_), module in named_layers(model):
            if not any(True for _ in module.children()) or module._parameters:
                stack.enter_context(meter.watching(name, module))
        with meter.saved.counting():
            loss = step()
        loss.backward()
    meter.saved.clear()
    return list(meter.rows.values())


@dataclass
class _Call:
    """A forward pass that is under way, and what layers inside it took."""

    start: float
    saved_bytes: int
    below: set[Node | None]
    inner_s: float = 0.0
    inner_bytes: int = 0


class _Meter:
    def __init__(self, model: nn.Module, clock: Clock) -> None:
        self.rows: dict[str, LayerCost] = {}
        self.saved = SavedBytes(model)
        self._timed: set[Node] = set()
        self._clock = clock
        self._calls: list[_Call] = []

    @contextmanager
    def watching(self, name: str, module: nn.Module) -> Iterator[None]:
        def before(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            # Looked at now: a layer that works in place leaves its own node on the input.
            below = {leaf.grad_fn for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)}
            self._calls.append(_Call(self._now(), self.saved.bytes, below))

        def after(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            seconds, saved_bytes, below = self._end_call()
            row = self.rows.get(name)
            if row is None:
                sizes = (parameter.numel() * parameter.element_size() for parameter in module._parameters.values()
                         if parameter is not None)  # fmt: skip
                row = self.rows[name] = LayerCost(name, type(module).__name__, parameter_bytes=sum(sizes))
            row.forward_s += seconds
            row.saved_bytes += saved_bytes
            self._time_backward(row, below, output)

        handles = [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _end_call(self) -> tuple[float, int, set[Node | None]]:
        """Seconds and saved bytes of the call that ends, without those of layers inside it; the nodes of its inputs."""
        call = self._calls.pop()
        seconds, saved_bytes = self._now() - call.start, self.saved.bytes - call.saved_bytes
        if self._calls:
            self._calls[-1].inner_s += seconds
            self._calls[-1].inner_bytes += saved_bytes
        return seconds - call.inner_s, saved_bytes - call.inner_bytes, call.below

    def _time_backward(self, row: LayerCost, below: set[Node | None], output: Any) -> None:
        """Put the clock around each node between the output and the inputs."""
        waiting = [leaf.grad_fn for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
        while waiting:
            node = waiting.pop()
            if node is None or node in below or node in self._timed or "AccumulateGrad" in type(node).__name__:
                continue
            self._timed.add(node)
            self._clock_node(row, node)
            waiting.extend(source for source, _ in node.next_functions)

    def _clock_node(self, row: LayerCost, node: Node) -> None:
        began = 0.0

        def before(gradients: Any) -> None:
            nonlocal began
            began = self._now()

        def after(inputs: Any, outputs: Any) -> None:
            row.backward_s += self._now() - began

        node.register_prehook(before)
        node.register_hook(after)

    def _now(self) -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return self._clock()
