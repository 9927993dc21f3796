"""First derivatives: grad, value_and_grad, vjp, jvp. They nest in any order and depth.

Which machinery runs is chosen per call. Forward mode and checkpointed reverse mode are levels below torch.func, plain
reverse mode is torch.func's. Inside a transform of torch.func, plain reverse mode of ours among them, all nested ones
are torch.func's too, and `memory` has no effect there: the outer one keeps everything anyway.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from thrifty.autodiff.budget import Budget, Memory, parse_memory
from thrifty.autodiff.checkpointed import CheckpointedRun, Lengths
from thrifty.autodiff.forward import push_forward
from thrifty.autodiff.levels import inside_functorch
from thrifty.autodiff.plain import PlainRun
from thrifty.autodiff.trees import (
    Argnums,
    Call,
    check_differentiable,
    check_scalar,
    detached,
    output_leaves,
    split_aux,
)
from thrifty.core.errors import UsageError

Run = PlainRun | CheckpointedRun


def start_run(
    call: Callable[[list[Tensor]], Any], inputs: Sequence[Tensor], budget: Budget | None, lengths: Lengths
) -> Run:
    """Run a function for reverse mode, with the machinery that fits the place."""
    if budget is None or inside_functorch():
        return PlainRun(call, inputs)
    return CheckpointedRun(call, inputs, budget, lengths)


def value_and_grad(
    f: Callable[..., Any], argnums: Argnums = 0, has_aux: bool = False, *, memory: Memory = None
) -> Callable[..., Any]:
    """Make a function that returns (f(x), gradient of f at x).

    Args:
        f: returns a real scalar tensor; with `has_aux`, (scalar, aux).
        argnums: position or positions of the arguments to differentiate: trees of floating-point tensors.
        has_aux: f returns something besides, which is handed through: ((value, aux), gradient).
        memory: bytes ("512MiB"), "log", a number of snapshots, or None for plain reverse mode, which keeps everything.

    Returns:
        A function of f's arguments. Gradients have the structure, shapes and dtypes of the arguments; they carry no
        history for an outer `backward()`: nest these operators instead.

    Raises:
        UsageError: output not a scalar, integer inputs, a bad `argnums` or `memory`.
        MemoryLimitError: a limit in bytes that is too small; it names the least that would do.
        ReplayError: an operation that cannot be recorded, or a tensor changed in place meanwhile.
    """
    return _gradient("value_and_grad", f, argnums, has_aux, memory, with_value=True)


def grad(
    f: Callable[..., Any], argnums: Argnums = 0, has_aux: bool = False, *, memory: Memory = None
) -> Callable[..., Any]:
    """Make a function that returns the gradient of f; with `has_aux`, (gradient, aux). See `value_and_grad`."""
    return _gradient("grad", f, argnums, has_aux, memory, with_value=False)


def _gradient(
    name: str, f: Callable[..., Any], argnums: Argnums, has_aux: bool, memory: Memory, with_value: bool
) -> Callable[..., Any]:
    budget, lengths = parse_memory(memory), Lengths()

    def derivative(*args: Any, **kwargs: Any) -> Any:
        call = Call(name, f, args, kwargs, argnums)

        def run(leaves: list[Tensor]) -> Any:
            output, aux = split_aux(name, call.run(leaves), has_aux)
            check_scalar(name, output)
            return output, aux

        started = start_run(run, call.leaves, budget, lengths)
        output, aux = started.result
        found = started.pull_back([output], [torch.ones_like(output)])
        gradient = call.answer(_filled(found, call.leaves))
        derivative.account = getattr(started, "account", None)  # type: ignore[attr-defined]
        value = detached_value(output)
        if with_value:
            return ((value, detached_value(aux)), gradient) if has_aux else (value, gradient)
        return (gradient, detached_value(aux)) if has_aux else gradient

    if callable(f):
        functools.update_wrapper(derivative, f, assigned=("__doc__",), updated=())
    return derivative


def vjp(f: Callable[..., Any], *primals: Any, has_aux: bool = False, memory: Memory = None) -> tuple[Any, ...]:
    """Run f and return its output with the pullback there.

    Args:
        f: any function of trees of floating-point tensors that returns a tree of tensors.
        primals: its arguments; all are differentiated.
        has_aux, memory: as for `value_and_grad`.

    Returns:
        (output, pullback), with `has_aux` (output, pullback, aux). `pullback(cotangent)`, a tree like the output, gives
        a tuple of cotangents like `primals`; it may be called again.

    Raises:
        As `value_and_grad`; the pullback raises ReplayError if an input has changed in place since.
    """
    call = Call("vjp", f, primals, {}, tuple(range(len(primals))))

    def run(leaves: list[Tensor]) -> Any:
        output, aux = split_aux("vjp", call.run(leaves), has_aux)
        output_leaves("vjp", output)
        return output, aux

    started = start_run(run, call.leaves, parse_memory(memory), Lengths())
    output, aux = started.result
    leaves, spec = output_leaves("vjp", output)

    def pullback(cotangent: Any) -> tuple[Any, ...]:
        given, other = pytree.tree_flatten(cotangent)
        if other != spec:
            raise UsageError(f"vjp: the cotangent must have the output's structure {spec}, not {other}")
        _check_like("vjp: the cotangent", given, leaves)
        found = started.pull_back(leaves, given)
        return tuple(call.trees(_filled(found, call.leaves)))

    value = detached_value(output)
    return (value, pullback, detached_value(aux)) if has_aux else (value, pullback)


def jvp(
    f: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any], *, has_aux: bool = False
) -> tuple[Any, ...]:
    """Run f and push tangents through it: forward mode, whose memory is about twice that of f.

    Args:
        f: any function of trees of floating-point tensors that returns a tree of tensors.
        primals: its arguments, a tuple. tangents: trees like them.
        has_aux: f returns (output, aux).

    Returns:
        (output, tangent of the output), with `has_aux` also aux.

    Raises:
        UsageError: tangents that do not match the primals.
    """
    if not isinstance(primals, (tuple, list)) or not isinstance(tangents, (tuple, list)):
        raise UsageError("jvp: primals and tangents must be tuples: jvp(f, (x,), (v,))")
    call = Call("jvp", f, primals, {}, tuple(range(len(primals))))
    given, other = pytree.tree_flatten(tuple(tangents))
    if other != pytree.tree_structure(tuple(primals)):
        raise UsageError("jvp: tangents must have the structure of primals")
    for leaf in given:
        check_differentiable(leaf, "jvp: tangents")
    _check_like("jvp: a tangent", given, call.leaves)
    if inside_functorch():
        return _functorch_jvp(call, given, has_aux)
    result, tangent_of = push_forward(lambda leaves: split_aux("jvp", call.run(leaves), has_aux), call.leaves, given)
    output, aux = result
    leaves, spec = output_leaves("jvp", output)
    pushed = [tangent_of(leaf) for leaf in leaves]
    filled = [torch.zeros_like(o) if t is None else t for o, t in zip(leaves, pushed, strict=True)]
    answer = detached_value(output), pytree.tree_unflatten(filled, spec)
    return (*answer, detached_value(aux)) if has_aux else answer


def _functorch_jvp(call: Call, tangents: list[Tensor], has_aux: bool) -> tuple[Any, ...]:
    def run(*leaves: Tensor) -> Any:
        output, aux = split_aux("jvp", call.run(leaves), has_aux)
        output_leaves("jvp", output)
        return output, aux if has_aux else ()

    found: Any = torch.func.jvp(run, tuple(call.leaves), tuple(tangents), has_aux=True)
    output, tangent, aux = found
    return (output, tangent, aux) if has_aux else (output, tangent)


def detached_value(tree: Any) -> Any:
    """A result as the caller gets it: without history of a level that has ended, with that of the open ones."""
    return tree if inside_functorch() else _plain(tree)


def _plain(tree: Any) -> Any:
    return pytree.tree_map_only(Tensor, lambda t: detached(t) if t.requires_grad else t, tree)


def _filled(found: Sequence[Tensor | None], like: Sequence[Tensor]) -> list[Tensor]:
    return [torch.zeros_like(x) if g is None else g for g, x in zip(found, like, strict=True)]


def _check_like(where: str, given: Sequence[Any], leaves: Sequence[Tensor]) -> None:
    for one, leaf in zip(given, leaves, strict=True):
        if not isinstance(one, Tensor) or one.shape != leaf.shape or one.dtype != leaf.dtype:
            kind = f"shape {tuple(one.shape)} and {one.dtype}" if isinstance(one, Tensor) else type(one).__name__
            raise UsageError(f"{where} must have shape {tuple(leaf.shape)} and {leaf.dtype}, not {kind}")
