"""How an op comes into being: one schema, one implementation, and every transform of torch.

An op is registered under `torch.ops.thrifty` with a fake implementation (compile, export) and, at the autograd key,
with an `autograd.Function` that knows its backward, its forward-mode rule and its vmap rule. Calling the op object in
eager mode goes to that Function directly, which is what `torch.func` needs; under `torch.compile` it goes to the
registered op. A registered op called raw under `torch.func` raises: it never answers with zeros.

Rules are written with op objects, so they can be differentiated again, to any order.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from thrifty.ops import _stages

_library = torch.library.Library("thrifty", "DEF")

Args = Sequence[Any]


class Op:
    """A registered op. Call it like a function; `raw` is the `torch.ops.thrifty` packet.

    schema: torch schema without the name, e.g. `(Tensor x, int n) -> Tensor`.
    stage: the stage of `_stages.STAGES` that its seconds are booked under.
    implementation, fake: functions of the schema's arguments.
    saves: positions of the tensor arguments that the rules read; the others are None in `args`.
    backward(args, needed, gradient): one gradient, or None, per position in `linear`.
    jvp(args, tangents): the output's tangent from one tangent, or None, per position in `linear`.
    linear: positions of the differentiable tensor arguments; empty for an op whose result is integral.
    """

    def __init__(
        self,
        name: str,
        schema: str,
        *,
        stage: str,
        implementation: Callable[..., Any],
        fake: Callable[..., Any],
        linear: tuple[int, ...] = (),
        saves: tuple[int, ...] = (),
        backward: Callable[[Args, Sequence[bool], Tensor], Sequence[Tensor | None]] | None = None,
        jvp: Callable[[Args, Sequence[Tensor | None]], Tensor] | None = None,
    ) -> None:
        self.name, self.stage, self.linear, self.saves = name, stage, linear, saves
        self.implementation, self.backward_rule, self.jvp_rule = implementation, backward, jvp
        _library.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
        _library.impl(name, self._timed, "CompositeExplicitAutograd")
        torch.library.register_fake(f"thrifty::{name}", fake, lib=_library)
        self.raw = getattr(torch.ops.thrifty, name)
        self._function = _make_function(self)
        _library.impl(name, self._function.apply, "Autograd")

    def __call__(self, *args: Any) -> Any:
        if torch.compiler.is_compiling():
            return self.raw(*args)
        return self._function.apply(*args)

    def _timed(self, *args: Any) -> Any:
        sink = _stages.current()
        if sink is None:
            return self.implementation(*args)
        start = time.perf_counter()
        result = self.implementation(*args)
        sink.add(self.stage, time.perf_counter() - start)
        return result


def _make_function(op: Op) -> type[torch.autograd.Function]:
    class OpFunction(torch.autograd.Function):
        is_registered_op = True  # its forward is one registered op, whose rules every transform finds

        @staticmethod
        def forward(*args: Any) -> Any:
            with torch._C._AutoDispatchBelowAutograd():
                return op.raw(*args)

        @staticmethod
        def setup_context(ctx: Any, inputs: Args, output: Any) -> None:
            if not op.linear:
                outputs = output if isinstance(output, tuple) else (output,)
                ctx.mark_non_differentiable(*outputs)
                return
            saved = [inputs[i] for i in op.saves]
            ctx.save_for_backward(*saved)
            ctx.save_for_forward(*saved)
            ctx.constants = [None if isinstance(value, Tensor) else value for value in inputs]
            ctx.sink = _stages.current()

        @staticmethod
        def backward(ctx: Any, *gradients: Any) -> Any:
            if op.backward_rule is None:
                return (None,) * len(ctx.needs_input_grad)
            needed = [ctx.needs_input_grad[i] for i in op.linear]
            with _stages.report_to(ctx.sink):
                answers = op.backward_rule(_arguments(op, ctx), needed, gradients[0])
            return _place(op, answers, len(ctx.constants))

        @staticmethod
        def jvp(ctx: Any, *tangents: Any) -> Any:
            if op.jvp_rule is None:
                return None
            return op.jvp_rule(_arguments(op, ctx), [tangents[i] for i in op.linear])

        @staticmethod
        def vmap(info: Any, in_dims: Sequence[Any], *args: Any) -> Any:
            return _loop_over_batch(op, info.batch_size, in_dims, args)

    OpFunction.__name__ = OpFunction.__qualname__ = op.name
    return OpFunction


def _arguments(op: Op, ctx: Any) -> Args:
    args = list(ctx.constants)
    for position, tensor in zip(op.saves, ctx.saved_tensors, strict=True):
        args[position] = tensor
    return args


def _place(op: Op, answers: Sequence[Tensor | None], count: int) -> tuple[Tensor | None, ...]:
    """Gradients of the differentiable arguments at their places among all the arguments."""
    placed: list[Tensor | None] = [None] * count
    for position, answer in zip(op.linear, answers, strict=True):
        placed[position] = answer
    return tuple(placed)


def product_rule(op: Op, args: Args, tangents: Sequence[Tensor | None]) -> Tensor:
    """The tangent of an op that is linear in each of its first two arguments, at least one of which has a tangent."""
    first, second, *rest = args
    first_t, second_t = tangents
    if first_t is None:
        moved: Tensor = op(first, second_t, *rest)
    elif second_t is None:
        moved = op(first_t, second, *rest)
    else:
        moved = op(first_t, second, *rest) + op(first, second_t, *rest)
    return moved


def _loop_over_batch(op: Op, batch_size: int, in_dims: Sequence[Any], args: Args) -> tuple[Any, int]:
    """vmap by one call a sample: right for a batch of tangents or cotangents on the same clusters."""
    batched = [i for i, dim in enumerate(in_dims) if isinstance(dim, int)]
    if not set(batched) <= set(op.linear):
        raise RuntimeError(
            f"thrifty::{op.name} cannot be vmapped over the values that choose its clusters: "
            "the number of clusters differs from sample to sample; call thrifty.remove_(model) first, or loop"
        )
    results = []
    for sample in range(batch_size):
        picked = list(args)
        for i in batched:
            picked[i] = args[i].select(in_dims[i], sample)
        results.append(op(*picked))
    return torch.stack(results), 0
