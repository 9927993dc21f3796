"""The loop behind `thrifty train`: arms of one network side by side, from one seed on one schedule."""

from thrifty.train.config import TrainConfig
from thrifty.train.folder import load_weights
from thrifty.train.run import Outcome, run

__all__ = ["Outcome", "TrainConfig", "load_weights", "run"]
