"""Which methods go together, and in which order they act on a model: one table.

The order of the rows is the order of application, whatever order the caller lists the methods in. Methods that are
not in the table, such as a user's own, act after those that are, in the caller's order. No method is applied twice,
and no layer is changed by two methods; what else cannot be combined stands in `conflicts`.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from thrifty.core.errors import UsageError


@dataclass(frozen=True)
class Rule:
    """One method's place among the others.

    Attributes:
        method: the method's short name.
        place: why it stands at this place of the order.
        conflicts: other method -> why the two cannot be on one model; one of the two rows is enough.
    """

    method: str
    place: str
    conflicts: Mapping[str, str] = field(default_factory=dict)


RULES: tuple[Rule, ...] = (
    Rule("reuse", place="exchanges layers one for one: before whatever wraps the model or records what it computes"),
    Rule("lsh", place="exchanges layers one for one, as reuse does; no layer can be changed by both"),
    Rule("merge", place="wraps the model for data parallelism: after whatever exchanges layers"),
)


def in_order(methods: Sequence[str], rules: Sequence[Rule] = RULES) -> list[int]:
    """Return the positions of `methods` in the order in which they have to be applied."""
    rank = {rule.method: i for i, rule in enumerate(rules)}
    return sorted(range(len(methods)), key=lambda i: rank.get(methods[i], len(rank)))


def check(methods: Sequence[str], present: Collection[str] = (), rules: Sequence[Rule] = RULES) -> None:
    """Make sure that `methods` can be applied together to a model that `present` have been applied to.

    Raises:
        UsageError: naming the two methods and the reason.
    """
    for i, method in enumerate(methods):
        if method in methods[:i]:
            raise UsageError(f"{method} is listed twice: one config speaks for all layers of a model")
    together = {*methods, *present}
    for rule in rules:
        for other, reason in rule.conflicts.items():
            if rule.method in together and other in together:
                raise UsageError(f"{rule.method} and {other} cannot be on one model: {reason}")
