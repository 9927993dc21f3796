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
    Paper("spring2017scalable", "inproceedings", {
        "author": "Spring, Ryan and Shrivastava, Anshumali",
        "title": "Scalable and Sustainable Deep Learning via Randomized Hashing",
        "booktitle": "ACM SIGKDD International Conference on Knowledge Discovery and Data Mining (KDD)",
        "year": "2017",
    }),
    Paper("chen2020slide", "inproceedings", {
        "author": "Chen, Beidi and Medini, Tharun and Farwell, James and Gobriel, Sameh and Tai, Charlie "
                  "and Shrivastava, Anshumali",
        "title": "{SLIDE}: In Defense of Smart Algorithms over Hardware Acceleration for Large-Scale Deep Learning "
                 "Systems",
        "booktitle": "Machine Learning and Systems (MLSys)",
        "year": "2020",
    }),
    Paper("shi2019mgwfbp", "inproceedings", {
        "author": "Shi, Shaohuai and Chu, Xiaowen and Li, Bo",
        "title": "{MG-WFBP}: Efficient Data Communication for Distributed Synchronous {SGD} Algorithms",
        "booktitle": "IEEE Conference on Computer Communications (INFOCOM)",
        "year": "2019",
    }),
    Paper("jia2018highly", "misc", {
        "author": "Jia, Xianyan and Song, Shutao and He, Wei and Wang, Yangzihao and Rong, Haidong and Zhou, Feihu "
                  "and Xie, Liqiang and Guo, Zhenyu and Yang, Yuanzhou and Yu, Liwei and Chen, Tiegang "
                  "and Hu, Guangxiao and Shi, Shaohuai and Chu, Xiaowen",
        "title": "Highly Scalable Deep Learning Training System with Mixed-Precision: Training {ImageNet} in Four "
                 "Minutes",
        "eprint": "1807.11205",
        "archiveprefix": "arXiv",
        "year": "2018",
    }),
    Paper("siskind2018divide", "article", {
        "author": "Siskind, Jeffrey Mark and Pearlmutter, Barak A.",
        "title": "Divide-and-Conquer Checkpointing for Arbitrary Programs with No User Annotation",
        "journal": "Optimization Methods and Software",
        "volume": "33",
        "number": "4-6",
        "year": "2018",
    }),
)  # fmt: skip

USES = (
    Use("reuse", "ning2019adaptive", "clusters that grow finer while training goes on", _clusters),
    Use("reuse", "ning2019deep", "products shared by similar pieces of activations", _clusters),
    Use("reuse", "gong2020sparsetrain", "products that leave out zeros in training",
        lambda config: bool(config.get("skip_zeros", True))),
    Use("reuse", "vyas2020fast", "attention of clustered queries",
        lambda config: config.get("attention", "off") != "off"),
    Use("lsh", "spring2017scalable", "hash tables that pick the neurons of a layer"),
    Use("lsh", "chen2020slide", "wide output layers trained on the classes in their buckets"),
    Use("merge", "shi2019mgwfbp", "gradients merged before the all-reduce"),
    Use("merge", "jia2018highly", "all-reduce of merged, half-precision gradients"),
    Use("checkpointing", "siskind2018divide", "reverse mode in memory that does not grow with a program's length"),
)  # fmt: skip
