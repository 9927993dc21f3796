"""Adaptive deep reuse: similar pieces of activations share one product, forward and backward. See README.md here."""

import thrifty.reuse.method  # noqa: F401  (the import registers the method)
from thrifty.reuse.attention import ReuseMultiheadAttention
from thrifty.reuse.config import PAPER_STAGES, Reuse, Stage
from thrifty.reuse.frozen import freeze
from thrifty.reuse.frozen_choice import FrozenReport, LayerChoice, frozen_report
from thrifty.reuse.frozen_file import load_frozen, save_frozen
from thrifty.reuse.frozen_fit import Setting
from thrifty.reuse.frozen_layer import FrozenConv2d
from thrifty.reuse.layers import ReuseConv2d, ReuseLinear
from thrifty.reuse.recurrent import ReuseGRU, ReuseLSTM

__all__ = [
    "PAPER_STAGES",
    "FrozenConv2d",
    "FrozenReport",
    "LayerChoice",
    "Reuse",
    "ReuseConv2d",
    "ReuseGRU",
    "ReuseLSTM",
    "ReuseLinear",
    "ReuseMultiheadAttention",
    "Setting",
    "Stage",
    "freeze",
    "frozen_report",
    "load_frozen",
    "save_frozen",
]
