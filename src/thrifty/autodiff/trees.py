"""Arguments and results as flat lists of tensors, with the checks that a derivative makes of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from thrifty.core.errors import UsageError

Argnums = int | tuple[int, ...]


class Call:
    """A call of the user's function with the differentiated tensors taken out.

    Attributes:
        leaves: the differentiated tensors, in order.
    """

    def __init__(
        self, name: str, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], argnums: Argnums
    ) -> None:
        if not callable(function):
            raise UsageError(f"{name} needs a function, not a {type(function).__name__}")
        self.name, self.function, self.args, self.kwargs = name, function, list(args), kwargs
        numbers = (argnums,) if isinstance(argnums, int) else tuple(argnums)
        self.single = isinstance(argnums, int)
        for number in numbers:
            if not isinstance(number, int) or not -len(args) <= number < len(args):
                raise UsageError(f"{name}: argnums={argnums}, but the call has {len(args)} positional arguments")
        self.numbers = tuple(number % len(args) for number in numbers)
        if not numbers or len(set(self.numbers)) != len(numbers):
            raise UsageError(f"{name}: argnums={argnums} must name each argument once, and one at least")
        self.leaves: list[Tensor] = []
        self.specs = []
        for number in self.numbers:
            leaves, spec = pytree.tree_flatten(args[number])
            for leaf in leaves:
                check_differentiable(leaf, f"{name}: argument {number}")
            self.leaves += leaves
            self.specs.append(spec)

    def run(self, leaves: Sequence[Tensor]) -> Any:
        """Call the user's function with these in place of the differentiated tensors."""
        return self.function(*self.put(leaves), **self.kwargs)

    def put(self, leaves: Sequence[Any]) -> list[Any]:
        """The arguments with these leaves."""
        args = list(self.args)
        for number, tree in zip(self.numbers, self.trees(leaves), strict=True):
            args[number] = tree
        return args

    def trees(self, leaves: Sequence[Any]) -> list[Any]:
        """Leaves -> one tree per differentiated argument."""
        trees, at = [], 0
        for spec in self.specs:
            trees.append(pytree.tree_unflatten(list(leaves[at : at + spec.num_leaves]), spec))
            at += spec.num_leaves
        return trees

    def answer(self, leaves: Sequence[Any]) -> Any:
        """Leaves -> what the caller gets: one tree, or a tuple of trees where argnums is a tuple."""
        trees = self.trees(leaves)
        return trees[0] if self.single else tuple(trees)


def check_differentiable(leaf: Any, where: str) -> None:
    """Raise UsageError unless `leaf` is a dense floating or complex tensor."""
    if not isinstance(leaf, Tensor):
        raise UsageError(f"{where} holds a {type(leaf).__name__}; derivatives need tensors: torch.tensor(...)")
    if not (leaf.is_floating_point() or leaf.is_complex()):
        raise UsageError(f"{where} holds a tensor of {leaf.dtype}; derivatives need floating point: .double()")
    if leaf.layout != torch.strided:
        raise UsageError(f"{where} holds a {leaf.layout} tensor; derivatives need dense ones: .to_dense()")


def split_aux(name: str, result: Any, has_aux: bool) -> tuple[Any, Any]:
    """(output, aux) of what the user's function returned; aux is None without `has_aux`."""
    if not has_aux:
        return result, None
    if not isinstance(result, tuple) or len(result) != 2:
        raise UsageError(f"{name}: with has_aux=True the function must return (output, aux)")
    return result


def output_leaves(name: str, output: Any) -> tuple[list[Tensor], Any]:
    """The tensors of an output and its structure. Raises UsageError for anything that is not a tensor."""
    leaves, spec = pytree.tree_flatten(output)
    for leaf in leaves:
        if not isinstance(leaf, Tensor):
            kind = "a function" if callable(leaf) else f"a {type(leaf).__name__}"
            raise UsageError(f"{name}: the function returned {kind} where a tensor is needed; return it as aux")
    return leaves, spec


def check_scalar(name: str, output: Any) -> None:
    """Raise UsageError unless the output is one real number."""
    if not isinstance(output, Tensor):
        raise UsageError(f"{name}: the function must return one tensor, not a {type(output).__name__}")
    if output.numel() != 1 or output.dim() != 0:
        raise UsageError(
            f"{name}: the function must return a scalar, not shape {tuple(output.shape)}: sum it, or take jacrev"
        )
    if not output.is_floating_point():
        raise UsageError(f"{name}: the function must return a real floating-point number, not {output.dtype}")


def detached(tree: Any) -> Any:
    """The tree with every tensor cut loose from the derivative call that made it."""
    return pytree.tree_map_only(Tensor, lambda tensor: tensor.detach(), tree)
