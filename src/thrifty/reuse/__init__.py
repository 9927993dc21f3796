"""Adaptive deep reuse: similar pieces of activations share one product, forward and backward. See README.md here."""

import thrifty.reuse.method  # noqa: F401  (the import registers the method)
from thrifty.reuse.attention import ReuseMultiheadAttention
from thrifty.reuse.config import PAPER_STAGES, Reuse, Stage
from thrifty.reuse.layers import ReuseConv2d, ReuseLinear
from thrifty.reuse.recurrent import ReuseGRU, ReuseLSTM

__all__ = ["PAPER_STAGES", "Reuse", "ReuseConv2d", "ReuseGRU", "ReuseLSTM", "ReuseLinear", "ReuseMultiheadAttention", "Stage"]
