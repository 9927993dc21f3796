"""Whole matrices of derivatives, and products with them: jacfwd, jacrev, hessian, hvp.

A row or a column at a time, with the first-order operators: any program that they take will do, control flow on values
included, at the price of one run (jacfwd, hessian) or one reversal (jacrev) for each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from thrifty.autodiff.budget import Memory, parse_memory
from thrifty.autodiff.checkpointed import Lengths
from thrifty.autodiff.operators import detached_value, grad, jvp, start_run
from thrifty.autodiff.trees import Argnums, Call, output_leaves, split_aux
from thrifty.core.errors import UsageError


def basis(tensor: Tensor) -> Iterator[Tensor]:
    """Unit tensors, one for each element of `tensor`."""
    for at in range(tensor.numel()):
        unit = torch.zeros(tensor.numel(), dtype=tensor.dtype, device=tensor.device)
        unit[at] = 1
        yield unit.view(tensor.shape)


def jacfwd(f: Callable[..., Any], argnums: Argnums = 0, has_aux: bool = False) -> Callable[..., Any]:
    """Make a function that returns the Jacobian of f by forward mode: one run for each input element.

    Args:
        f: returns a tree of tensors; with `has_aux`, (output, aux).
        argnums: position or positions of the arguments to differentiate: trees of floating-point tensors.

    Returns:
        A function of f's arguments. For an output of shape `out` and an argument of shape `in`, a tensor of shape
        `out + in`, in the output's tree of the argument's trees; with `has_aux` (Jacobian, aux).

    Raises:
        UsageError: integer inputs, outputs that are not tensors, a bad `argnums`.
    """

    def jacobian(*args: Any, **kwargs: Any) -> Any:
        call = Call("jacfwd", f, args, kwargs, argnums)
        aux: Any = None
        spec: Any = None

        def run(*leaves: Tensor) -> Any:
            nonlocal spec
            output, extra = split_aux("jacfwd", call.run(leaves), has_aux)
            tensors, spec = output_leaves("jacfwd", output)
            return tensors, extra

        columns: list[list[list[Tensor]]] = []  # by input leaf, by its element, by output leaf
        zeros = [torch.zeros_like(leaf) for leaf in call.leaves]
        for at, leaf in enumerate(call.leaves):
            found = []
            for unit in basis(leaf):
                tangents = (*zeros[:at], unit, *zeros[at + 1 :])
                _, pushed, aux = jvp(run, tuple(call.leaves), tangents, has_aux=True)
                found.append(pushed)
            columns.append(found)
        by_output = []
        for out in range(spec.num_leaves):
            blocks = [
                _stack([column[out] for column in found], leaf)
                for found, leaf in zip(columns, call.leaves, strict=True)
            ]
            by_output.append(call.answer(blocks))
        answer = pytree.tree_unflatten(by_output, spec)
        return (answer, aux) if has_aux else answer

    return jacobian


def _stack(columns: list[Tensor], leaf: Tensor) -> Tensor:
    if not columns:
        raise UsageError("jacfwd: an input has no elements")
    return torch.stack(columns, -1).reshape(*columns[0].shape, *leaf.shape)


def jacrev(
    f: Callable[..., Any], argnums: Argnums = 0, has_aux: bool = False, *, memory: Memory = None
) -> Callable[..., Any]:
    """Make a function that returns the Jacobian of f by reverse mode: one run, one reversal for each output element.

    Args, returns, raises: as `jacfwd`, and `memory` as in `thrifty.grad`.
    """
    budget = parse_memory(memory)

    def jacobian(*args: Any, **kwargs: Any) -> Any:
        call = Call("jacrev", f, args, kwargs, argnums)

        def run(leaves: list[Tensor]) -> Any:
            output, aux = split_aux("jacrev", call.run(leaves), has_aux)
            output_leaves("jacrev", output)
            return output, aux

        started = start_run(run, call.leaves, budget, Lengths())
        output, aux = started.result
        outputs, spec = output_leaves("jacrev", output)
        by_output = []
        for one in outputs:
            rows: list[list[Tensor]] = [[] for _ in call.leaves]
            for unit in basis(one):
                found = started.pull_back([one], [unit])
                for row, gradient, leaf in zip(rows, found, call.leaves, strict=True):
                    row.append(torch.zeros_like(leaf) if gradient is None else gradient)
            blocks = [
                torch.stack(row).reshape(*one.shape, *leaf.shape) for row, leaf in zip(rows, call.leaves, strict=True)
            ]
            by_output.append(call.answer(blocks))
        answer = pytree.tree_unflatten(by_output, spec)
        return (answer, detached_value(aux)) if has_aux else answer

    return jacobian


def hessian(f: Callable[..., Any], argnums: Argnums = 0, *, memory: Memory = None) -> Callable[..., Any]:
    """Make a function that returns the matrix of second derivatives of a scalar f, forward over reverse.

    Args:
        f: returns a real scalar tensor.
        argnums, memory: as in `thrifty.grad`.

    Returns:
        A function of f's arguments: the argument's tree of the argument's trees, shapes `in + in`.
    """
    return jacfwd(grad(f, argnums, memory=memory), argnums)


def hvp(f: Callable[[Any], Any], x: Any, v: Any, *, memory: Memory = None) -> Any:
    """The Hessian of a scalar f at x times v, forward over reverse, without the matrix.

    Args:
        f: function of one tree of floating-point tensors; returns a real scalar tensor.
        x, v: trees of the same structure and shapes.
        memory: as in `thrifty.grad`; the tangents take as much again.

    Returns:
        A tree like x.
    """
    return jvp(grad(f, memory=memory), (x,), (v,))[1]
