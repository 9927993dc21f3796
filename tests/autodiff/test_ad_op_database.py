"""torch's own database of operators: each recorded and replayed gives the gradient that autograd gives.

Every tenth operator is tried; all of them with THRIFTY_EVERY_OPERATOR=1. `REFUSED` names those that are not followed.
"""

import os
import warnings

import pytest
import torch
from torch.utils import _pytree as pytree

import thrifty
from thrifty.core.errors import ThriftyError

common = pytest.importorskip("torch.testing._internal.common_methods_invocations")
D = torch.float64

# operator -> why it is refused
REFUSED = {
    "sparse.sampled_addmm": "derivatives of sparse inputs",
    "sparse.mm.reduce": "derivatives of sparse inputs",
    "to_sparse": "sparse tensors have no plain storage",
    "nn.functional.embedding_bag": "torch takes a variant without a derivative in a recorded run",
    "nn.functional.linear_cross_entropy.chunked": "torch takes a variant without a derivative in a recorded run",
}
# sums of cotangents are added in another order
ROUNDED = {"svd_lowrank"}


def tensors_of(sample):
    leaves, spec = pytree.tree_flatten((sample.input, sample.args, sample.kwargs))
    at = [i for i, one in enumerate(leaves) if isinstance(one, torch.Tensor) and one.requires_grad]
    return leaves, spec, at


def scalar(output):
    total = 0.0
    for one in pytree.tree_leaves(output):
        if isinstance(one, torch.Tensor) and (one.is_floating_point() or one.is_complex()):
            value = one.to_dense() if one.layout != torch.strided else one
            value = torch.view_as_real(value.resolve_conj()) if value.is_complex() else value
            total = total + (value * torch.linspace(0.5, 1.5, value.numel(), dtype=D).view_as(value)).sum()
    return total


def compare(info):
    """'same', or why there is nothing to compare. Raises AssertionError where the gradients differ."""
    samples = list(info.sample_inputs("cpu", D, requires_grad=True))
    compared = 0
    for sample in samples[:2]:
        leaves, spec, at = tensors_of(sample)
        if not at:
            continue

        def f(*given, leaves=leaves, spec=spec, at=at):
            filled = list(leaves)
            for place, one in zip(at, given, strict=True):
                filled[place] = one
            source, args, kwargs = pytree.tree_unflatten(filled, spec)
            torch.manual_seed(0)
            return scalar(info.op(source, *args, **kwargs))

        own = [leaves[place].detach().clone().requires_grad_() for place in at]
        try:
            value = f(*own)
            if not isinstance(value, torch.Tensor) or not value.requires_grad:
                continue
            expected = torch.autograd.grad(value, own, allow_unused=True)
        except (RuntimeError, NotImplementedError):
            continue  # autograd cannot either
        found = thrifty.grad(f, argnums=tuple(range(len(at))), memory=1)(*(one.detach() for one in own))
        for one, other in zip(expected, found, strict=True):
            one = torch.zeros_like(other) if one is None else one
            one, other = torch.nan_to_num(one), torch.nan_to_num(other)
            same = torch.allclose(one, other, rtol=1e-12) if info.name in ROUNDED else torch.equal(one, other)
            assert same, info.full_name
        compared += 1
    return "same" if compared else "nothing to compare"


EVERY = [info for info in common.op_db if info.supports_autograd and D in info.supported_dtypes("cpu")]


@pytest.mark.parametrize(
    "info",
    [
        one
        for at, one in enumerate(EVERY)
        if at % 10 == 0 or one.full_name in REFUSED or os.environ.get("THRIFTY_EVERY_OPERATOR")
    ],
    ids=lambda info: info.full_name.replace(".", "_"),
)
def test_an_operator_of_the_database(info):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if info.full_name in REFUSED:
            with pytest.raises(ThriftyError):
                compare(info)
        else:
            compare(info)
