"""Wide layers whose cost does not grow with their width: hashing finds the classes that count. See README.md here."""

import thrifty.lsh.method  # noqa: F401  (the import registers the method)
from thrifty.lsh.config import LSH
from thrifty.lsh.cost import SlowerThanDenseWarning, calibrate
from thrifty.lsh.hashing import Hashing
from thrifty.lsh.lazy import LazyOptimizer
from thrifty.lsh.lazy_adagrad import LazyAdagrad
from thrifty.lsh.lazy_adam import LazyAdam, LazyAdamW
from thrifty.lsh.lazy_sgd import LazySGD
from thrifty.lsh.linear import LSHLinear
from thrifty.lsh.multilabel import LSHMultiLabelLoss
from thrifty.lsh.report import HashReport, hash_report
from thrifty.lsh.sampled import SampledSoftmaxLoss
from thrifty.lsh.sizing import Sized, best_angle, size_tables
from thrifty.lsh.softmax import LSHSoftmaxLoss
from thrifty.lsh.table_file import load_tables, save_tables
from thrifty.lsh.tuning import Tuned, tune_search

__all__ = [
    "LSH",
    "HashReport",
    "Hashing",
    "LSHLinear",
    "LSHMultiLabelLoss",
    "LSHSoftmaxLoss",
    "LazyAdagrad",
    "LazyAdam",
    "LazyAdamW",
    "LazyOptimizer",
    "LazySGD",
    "SampledSoftmaxLoss",
    "Sized",
    "SlowerThanDenseWarning",
    "Tuned",
    "best_angle",
    "calibrate",
    "hash_report",
    "load_tables",
    "save_tables",
    "size_tables",
    "tune_search",
]
