"""Wide layers whose cost does not grow with their width: hashing finds the classes that count. See README.md here."""

from thrifty.lsh.hashing import Hashing
from thrifty.lsh.lazy import LazyOptimizer
from thrifty.lsh.lazy_adagrad import LazyAdagrad
from thrifty.lsh.lazy_adam import LazyAdam, LazyAdamW
from thrifty.lsh.lazy_sgd import LazySGD
from thrifty.lsh.multilabel import LSHMultiLabelLoss
from thrifty.lsh.sampled import SampledSoftmaxLoss
from thrifty.lsh.softmax import LSHSoftmaxLoss

__all__ = [
    "Hashing",
    "LSHMultiLabelLoss",
    "LSHSoftmaxLoss",
    "LazyAdagrad",
    "LazyAdam",
    "LazyAdamW",
    "LazyOptimizer",
    "LazySGD",
    "SampledSoftmaxLoss",
]
