"""The papers behind the methods: what each is, and which setting of which method makes use of it. Two tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Paper:
    """One entry of a bibliography.

    Attributes:
        key: its name in BibTeX.
        kind: `article`, `inproceedings` or `misc`.
        fields: BibTeX fields, in the order in which they are printed.
    """

    key: str
    kind: str
    fields: Mapping[str, str]


@dataclass(frozen=True)
class Use:
    """A method's debt to a paper.

    Attributes:
        method: the short name of the method.
        paper: the key of the paper.
        what: what is taken from it, in a few words.
        holds: whether a config with these fields makes use of it.
    """

    method: str
    paper: str
    what: str
    holds: Callable[[Mapping[str, Any]], bool] = lambda config: True


def _clusters(config: Mapping[str, Any]) -> bool:
    return bool(config.get("stages"))


PAPERS = (
    Paper("ning2019adaptive", "inproceedings", {
        "author": "Ning, Lin and Guan, Hui and Shen, Xipeng",
        "title": "Adaptive Deep Reuse: Accelerating {CNN} Training on the Fly",
        "booktitle": "IEEE 35th International Conference on Data Engineering (ICDE)",
        "year": "2019",
    }),
    Paper("ning2019deep", "inproceedings", {
        "author": "Ning, Lin and Shen, Xipeng",
        "title": "Deep Reuse: Streamline {CNN} Inference on the Fly via Coarse-Grained Computation Reuse",
        "booktitle": "ACM International Conference on Supercomputing (ICS)",
        "year": "2019",
    }),
    Paper("gong2020sparsetrain", "inproceedings", {
        "author": "Gong, Zhangxiaowen and Ji, Houxiang and Fletcher, Christopher W. and Hughes, Christopher J. "
                  "and Torrellas, Josep",
        "title": "{SparseTrain}: Leveraging Dynamic Sparsity in Software for Training {DNNs} on General-Purpose "
                 "{SIMD} Processors",
        "booktitle": "International Conference on Parallel Architectures and Compilation Techniques (PACT)",
        "year": "2020",
    }),
    Paper("vyas2020fast", "inproceedings", {
        "author": "Vyas, Apoorv and Katharopoulos, Angelos and Fleuret, Fran{\\c{c}}ois",
        "title": "Fast Transformers with Clustered Attention",
        "booktitle": "Advances in Neural Information Processing Systems (NeurIPS)",
        "year": "2020",
    }),
)  # fmt: skip

USES = (
    Use("reuse", "ning2019adaptive", "clusters that grow finer while training goes on", _clusters),
    Use("reuse", "ning2019deep", "products shared by similar pieces of activations", _clusters),
    Use("reuse", "gong2020sparsetrain", "products that leave out zeros in training",
        lambda config: bool(config.get("skip_zeros", True))),
    Use("reuse", "vyas2020fast", "attention of clustered queries",
        lambda config: config.get("attention", "off") != "off"),
)  # fmt: skip
