"""Merged gradients among the methods: a method of the whole model, which changes no layer."""

from thrifty.core.registry import Method, register_method
from thrifty.distributed.config import MergedGradients

register_method(
    MergedGradients,
    Method(
        handlers={},
        instead="apply_ changes layers, and merged gradients wrap the whole model: "
        "call thrifty.distributed.data_parallel(model, loss, MergedGradients()) after apply_",
    ),
)
