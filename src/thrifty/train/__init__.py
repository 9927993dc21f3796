"""The loop behind `thrifty train`: arms of one network side by side, from one seed on one schedule."""

from thrifty.train.config import TrainConfig
from thrifty.train.folder import load_weights
from thrifty.train.run import Outcome, Turn, run

__all__ = ["Outcome", "TrainConfig", "Turn", "load_weights", "run"]
