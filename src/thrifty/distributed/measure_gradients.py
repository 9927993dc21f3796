"""When the gradients of a live model become ready: some real forward and backward passes, timed by hooks.

Hooks fire as each gradient is complete (`register_post_accumulate_grad_hook`) and as each module begins its forward
pass. On a CPU they read the clock; on a GPU they record events, which are read after the pass, so that nothing waits
for the device in between. Buffers, gradients and random state are afterwards what they were.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from thrifty.core.errors import DistributedError, ModelError, UsageError
from thrifty.core.inspection import refuse_wrapped
from thrifty.distributed.agreement import check_same, exchange, from_first, members, reached
from thrifty.distributed.profile import GradientProfile

Loss = Callable[[], Tensor]
"""A forward pass on one batch and its loss, one number: for example `lambda: criterion(model(images), labels)`."""


def profile_gradients(
    model: nn.Module,
    loss: Loss,
    *,
    steps: int = 5,
    warmup: int = 2,
    group: ProcessGroup | None = None,
    timeout_s: float = 60.0,
) -> GradientProfile:
    """Time the gradients of `model` on all processes of the group, and agree on one profile.

    Order is that of the first rank, as in DistributedDataParallel; each time is the median of the steps on the slowest
    rank, since a transfer begins when all are ready.

    Args:
        model: not yet wrapped or compiled.
        loss: forward pass and loss of one batch; called `warmup + steps` times, its gradients are thrown away.
        steps: timed passes.
        warmup: passes before.
        group: the processes; all of the world where None.
        timeout_s: seconds after which a process that does not answer is given up.

    Raises:
        ModelError: a wrapped or compiled model.
        UsageError: no process group, a world of one, or a loss that is not one number.
        DistributedError: processes with different models, without a gradient somewhere, or gone.
    """
    refuse_wrapped(model, "thrifty.distributed.profile_gradients")
    ranks = members(group)
    check_same("the model's parameters", specification(model), group, timeout_s)
    failure: Exception | None = None
    mine = None
    try:
        mine = local_profile(model, loss, steps=steps, warmup=warmup)
    except Exception as error:
        failure = error
    # The others must hear of a failure here before they wait for numbers of this process.
    answers = exchange("whether the steps went well", str(failure) if failure else "", group, timeout_s)
    if mine is None:
        assert failure is not None
        raise failure
    failed = {rank: text for rank, text in zip(ranks, answers, strict=True) if text}
    if failed:
        rank, text = next(iter(failed.items()))
        raise DistributedError(f"rank {rank}: {text}")
    order = from_first("the order of gradients", lambda: "\n".join(mine.names), group, timeout_s).split("\n")
    place = {name: i for i, name in enumerate(mine.names)}
    rows = [[mine.ready_s[place[name]], mine.needed_s[place[name]]] for name in order]
    device = next(model.parameters()).device if dist.get_backend(group) == "nccl" else "cpu"
    times = torch.tensor([*rows, [mine.backward_s, mine.forward_s]], dtype=torch.float64, device=device)
    reached(lambda: dist.all_reduce(times, op=dist.ReduceOp.MAX, group=group), "the times of gradients")
    ready, needed = times.cpu().T.tolist()
    return _in_order(order, [mine.sizes_bytes[place[name]] for name in order], ready, needed)


def specification(model: nn.Module) -> list[str]:
    """One line for each trained parameter: name, shape and dtype. Raises ModelError where there is none."""
    lines = [
        f"{name} {tuple(parameter.shape)} {parameter.dtype}"
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    ]
    if not lines:
        raise ModelError("the model has no parameter that is trained, so there are no gradients to send")
    return lines


def local_profile(model: nn.Module, loss: Loss, *, steps: int = 5, warmup: int = 2) -> GradientProfile:
    """The profile of this process alone; see `profile_gradients`.

    Raises:
        UsageError: no step to time, a loss that is not one number, or a parameter without a gradient.
    """
    if steps < 1 or warmup < 0:
        raise UsageError(f"a profile needs at least one timed step, got steps={steps}, warmup={warmup}")
    specification(model)
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    runs = []
    with kept(model), _Watch(model, parameters) as watch:
        for step in range(warmup + steps):
            found = watch.step(loss)
            if step >= warmup:
                runs.append(found)
    missing = [name for name in parameters if any(name not in run.ready_s for run in runs)]
    if missing:
        raise UsageError(
            f"{missing[0]} got no gradient{f' (and {len(missing) - 1} more)' if missing[1:] else ''}: a plan needs "
            "every trained parameter in every step; freeze what is not used with requires_grad_(False)"
        )
    ready_s = {name: statistics.median(run.ready_s[name] for run in runs) for name in parameters}
    needed_s = {name: statistics.median(run.needed_s.get(name, 0.0) for run in runs) for name in parameters}
    order = sorted(parameters, key=lambda name: (ready_s[name], runs[-1].ready_s[name]))
    return _in_order(
        order,
        [parameters[name].numel() * parameters[name].element_size() for name in order],
        [*(ready_s[name] for name in order), statistics.median(run.backward_s for run in runs)],
        [*(needed_s[name] for name in order), statistics.median(run.forward_s for run in runs)],
    )


def _in_order(order: list[str], sizes: list[int], ready: list[float], needed: list[float]) -> GradientProfile:
    """Build the profile; the last of `ready` and `needed` is the length of the pass. Medians may cross a little."""
    *at, backward_s = ready
    rising = torch.tensor(at, dtype=torch.float64).cummax(0).values.tolist()
    *first_use, forward_s = needed
    return GradientProfile(
        names=tuple(order),
        sizes_bytes=tuple(sizes),
        ready_s=tuple(rising),
        backward_s=max(backward_s, rising[-1]),
        forward_s=max(forward_s, *first_use),
        needed_s=tuple(first_use),
    )


class _Run:
    """Marks of one step, and seconds from them when the device is done."""

    def __init__(self, clock: _Clock) -> None:
        self.clock = clock
        self.ready: dict[str, Any] = {}
        self.needed: dict[str, Any] = {}
        self.begun = clock.mark()
        self.turned: Any = self.begun
        self.over: Any = self.begun

    def read(self) -> None:
        self.clock.wait()
        self.ready_s = {name: self.clock.between(self.turned, mark) for name, mark in self.ready.items()}
        self.needed_s = {name: self.clock.between(self.begun, mark) for name, mark in self.needed.items()}
        self.backward_s = self.clock.between(self.turned, self.over)
        self.forward_s = self.clock.between(self.begun, self.turned)


class _Watch:
    """Hooks on a model's parameters and modules while it is entered."""

    def __init__(self, model: nn.Module, parameters: dict[str, nn.Parameter]) -> None:
        self._model, self._parameters = model, parameters
        self._clock = _Clock(next(iter(parameters.values())).device)
        self._handles: list[Any] = []
        self._run: _Run | None = None

    def __enter__(self) -> _Watch:
        names = {id(parameter): name for name, parameter in self._parameters.items()}
        for name, parameter in self._parameters.items():
            self._handles.append(parameter.register_post_accumulate_grad_hook(self._on_gradient(name)))
        for module in self._model.modules():
            own = [names[id(p)] for p in module.parameters(recurse=False) if id(p) in names]
            if own:
                self._handles.append(module.register_forward_pre_hook(self._on_forward(own)))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def step(self, loss: Loss) -> _Run:
        for parameter in self._parameters.values():
            parameter.grad = None
        self._run = run = _Run(self._clock)
        value = loss()
        if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
            shown = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise UsageError(f"loss() must return one number to call backward() on, got {shown}")
        run.turned = self._clock.mark()
        value.backward()
        run.over = self._clock.mark()
        run.read()
        return run

    def _on_gradient(self, name: str) -> Callable[[Tensor], None]:
        def mark(_: Tensor) -> None:
            if self._run is not None:
                self._run.ready[name] = self._clock.mark()

        return mark

    def _on_forward(self, names: list[str]) -> Callable[..., None]:
        def mark(*_: object) -> None:
            for name in names:
                if self._run is not None and name not in self._run.needed:
                    self._run.needed[name] = self._clock.mark()

        return mark


class _Clock:
    """Marks in time: of the process on a CPU, of the device's stream on a GPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device if device.type == "cuda" else None

    def mark(self) -> Any:
        if self._device is None:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def wait(self) -> None:
        if self._device is not None:
            torch.cuda.synchronize(self._device)

    def between(self, first: Any, second: Any) -> float:
        if self._device is None:
            return float(second - first)
        return float(first.elapsed_time(second)) / 1e3


@contextmanager
def kept(model: nn.Module) -> Iterator[None]:
    """Begin without gradients, and put these, buffers and torch's random state back at the end."""
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    for parameter in model.parameters():
        parameter.grad = None  # or passes in between would be added to what was there
    devices = sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, value in buffers:
                    buffer.copy_(value)
            for parameter, gradient in gradients:
                parameter.grad = gradient
