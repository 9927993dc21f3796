"""Derivative operators that nest in any order, and reverse mode in little memory. See README.md here."""

from thrifty.autodiff.errors import EscapedValueError, MemoryLimitError, ReplayError
from thrifty.autodiff.explain import Explanation, explain
from thrifty.autodiff.explain_step import StepExplanation
from thrifty.autodiff.fields import curl, derivative, divergence, laplacian
from thrifty.autodiff.jacobians import hessian, hvp, jacfwd, jacrev
from thrifty.autodiff.limit import MemoryLimit
from thrifty.autodiff.operators import grad, jvp, value_and_grad, vjp
from thrifty.autodiff.training import Checkpointing, checkpointing

__all__ = [
    "Checkpointing",
    "EscapedValueError",
    "Explanation",
    "MemoryLimit",
    "MemoryLimitError",
    "ReplayError",
    "StepExplanation",
    "checkpointing",
    "curl",
    "derivative",
    "divergence",
    "explain",
    "grad",
    "hessian",
    "hvp",
    "jacfwd",
    "jacrev",
    "jvp",
    "laplacian",
    "value_and_grad",
    "vjp",
]
