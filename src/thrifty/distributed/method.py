"""Merged gradients and precision among the methods: methods of the whole model, which change no layer."""

from thrifty.core.registry import Method, register_method
from thrifty.distributed.config import MergedGradients
from thrifty.distributed.precision import Precision

register_method(
    MergedGradients,
    Method(
        handlers={},
        instead="apply_ changes layers, and merged gradients wrap the whole model: "
        "call thrifty.distributed.data_parallel(model, loss, MergedGradients()) after apply_, or thrifty.together",
    ),
)
register_method(
    Precision,
    Method(
        handlers={},
        instead="apply_ changes layers, and a precision is one of the whole training: "
        "use thrifty.distributed.MixedPrecision after apply_, or thrifty.together",
    ),
)
