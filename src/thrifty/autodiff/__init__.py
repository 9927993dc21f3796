"""Derivative operators that nest in any order, and reverse mode in little memory. See README.md here."""

from thrifty.autodiff.operators import grad, jvp, value_and_grad, vjp

__all__ = ["grad", "jvp", "value_and_grad", "vjp"]
