"""Which methods go together, and in which order they act on a training: one table.

The order of the rows is the order of application, whatever order the caller lists the methods in. Methods that are
not in the table, such as a user's own, act after those that are, in the caller's order. No method is applied twice,
and no layer is changed by two methods; what else cannot be combined stands in `conflicts`. Rows that are no method
stand for what of torch's takes part: `together` looks for it, so that a conflict is told before anything is changed.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from thrifty.core.errors import UsageError


@dataclass(frozen=True)
class Rule:
    """The place of a method, or of a part of torch's, among the others.

    Attributes:
        method: the method's short name, or what of torch's it is.
        place: why it stands at this place of the order.
        conflicts: other row -> why the two cannot be in one training, and what to do; one of the two rows is enough.
    """

    method: str
    place: str
    conflicts: Mapping[str, str] = field(default_factory=dict)


OPTIMIZER, LAZY, SPARSE = "optimizer", "lazy optimizer", "sparse gradients"
HALF_WEIGHTS, COMPILE = "16-bit weights", "torch.compile"

RULES: tuple[Rule, ...] = (
    Rule("reuse", place="exchanges layers one for one: before whatever wraps the model or records what it computes"),
    Rule("lsh", place="exchanges layers one for one, as reuse does; no layer can be changed by both"),
    Rule(
        OPTIMIZER,
        place="before or after layers are exchanged, whose parameters stay the same objects; before precision, "
        "which may hand it fp32 masters in place of the weights",
    ),
    Rule(
        LAZY,
        place="as other optimizers; `watch(model)` after layers are exchanged, since it looks for layers that name "
        "their rows",
        conflicts={
            HALF_WEIGHTS: "rows are brought up to date where they are read, and 16-bit weights are copies that the "
            'optimizer does not know; keep fp32 weights, Precision("bf16")',
        },
    ),
    Rule(SPARSE, place="made by layers built with sparse=True, for lazy optimizers"),
    Rule(
        "precision",
        place="after the optimizer, before data parallelism: buckets are laid out by the weights' format, and 16-bit "
        "weights change it in place",
    ),
    Rule(HALF_WEIGHTS, place="a setting of precision"),
    Rule(
        "merge",
        place="wraps the model for data parallelism: after whatever exchanges layers or weights, and before "
        "torch.compile, which then sees where buckets end",
        conflicts={
            SPARSE: "DistributedDataParallel packs dense gradients into its buckets; build the layer with sparse=False",
        },
    ),
    Rule(
        COMPILE,
        place="last of what wraps the model: what is exchanged or wrapped later would not be in the compiled code",
    ),
    Rule(
        "checkpointing",
        place="around forward and backward pass of each step, outside of everything that computes in it",
        conflicts={
            COMPILE: "compiled code saves what it likes, unseen; its own min-cut recomputation is the way there, "
            "or train uncompiled",
        },
    ),
)


def in_order(methods: Sequence[str], rules: Sequence[Rule] = RULES) -> list[int]:
    """Return the positions of `methods` in the order in which they have to be applied."""
    rank = {rule.method: i for i, rule in enumerate(rules)}
    return sorted(range(len(methods)), key=lambda i: rank.get(methods[i], len(rank)))


def check(methods: Sequence[str], present: Collection[str] = (), rules: Sequence[Rule] = RULES) -> None:
    """Make sure that `methods` can be applied together, where `present` rows take part already.

    Raises:
        UsageError: naming the two and the reason.
    """
    for i, method in enumerate(methods):
        if method in methods[:i]:
            raise UsageError(f"{method} is listed twice: one config speaks for all layers of a model")
    together = {*methods, *present}
    for rule in rules:
        for other, reason in rule.conflicts.items():
            if rule.method in together and other in together:
                raise UsageError(f"{rule.method} and {other} cannot be on one model: {reason}")
