"""The networks of the papers and small real ones, with stock torch layers only: one file a network."""

from thrifty.models.registry import build, names

__all__ = ["build", "names"]
