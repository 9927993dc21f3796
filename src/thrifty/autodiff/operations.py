"""What the record must know of an operator: does it write to its arguments, draw random numbers, can it be replayed.

One table of refusals; all else is read from the operator's schema once and kept.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor

# operator (its name or its namespace) -> why it cannot be recorded
REFUSED = {
    "aten::set_": "it gives a tensor another storage",
    "aten::resize_": "it changes the size of a tensor's storage",
    "aten::resize_as_": "it changes the size of a tensor's storage",
    "aten::record_stream": "it acts on the allocator",
    "aten::_assert_async": "it stops the program",
    "aten::from_file": "it reads a file",
    "c10d": "it sends messages to other processes",
    "_c10d_functional": "it sends messages to other processes",
    "c10d_functional": "it sends messages to other processes",
}
# operators that write to arguments although their schema does not say so -> positions
UNDECLARED_WRITES = {
    "aten::native_batch_norm": (3, 4),
    "aten::cudnn_batch_norm": (3, 4),
    "aten::miopen_batch_norm": (3, 4),
}
_VARIANT = "torch takes this variant, which has no derivative, where nothing requires one, as in a recorded run"
# operators that cannot be recorded where a derivative is wanted -> why
UNDERIVED = {
    "aten::_embedding_bag_forward_only": f"{_VARIANT}: look rows up with index_select",
    "aten::_transformer_encoder_layer_fwd": f"{_VARIANT}: set enable_nested_tensor=False and call train(), dropout 0",
    "aten::_native_multi_head_attention": f"{_VARIANT}: call train(), with dropout 0",
    "torch_nn::_linear_cross_entropy_batch_chunked": f"{_VARIANT}: give cross_entropy the product itself",
}
# operators whose results do not depend on the values of their arguments
FRESH = {
    "aten::empty_like", "aten::zeros_like", "aten::ones_like", "aten::full_like", "aten::rand_like",
    "aten::randn_like", "aten::randint_like", "aten::new_empty", "aten::new_empty_strided", "aten::new_zeros",
    "aten::new_ones", "aten::new_full",
}  # fmt: skip
# operators that yield memory which nobody has written to yet
UNSET = {
    "aten::empty", "aten::empty_like", "aten::empty_strided", "aten::empty_permuted", "aten::new_empty",
    "aten::new_empty_strided",
}  # fmt: skip

# operators in place that read nothing of what they write to
OVERWRITES = {
    "aten::copy_", "aten::fill_", "aten::zero_", "aten::normal_", "aten::uniform_", "aten::random_", "aten::bernoulli_",
    "aten::exponential_", "aten::geometric_", "aten::log_normal_", "aten::cauchy_",
}  # fmt: skip

_COMPOSITE = "CompositeImplicitAutograd"


class Operation:
    """An operator as the record sees it.

    Attributes:
        function: the OpOverload. call: what to call for it: the same without a Python frame.
        name: as the dispatcher spells it, for messages.
        silent: yields no tensor and changes none, so there is nothing to replay.
        writes: positions of the arguments that it writes to; `writes_by_name` those given by keyword.
        changes: it writes to some argument. overwrites: and reads nothing of what it writes to.
        random: draws from a generator.
        refusal: why it cannot be recorded, or None.
        is_detach: it is `detach`, which stops derivatives when the user calls it.
        unset: yields memory that is still to be written. views: yields a view, reading nothing.
        fresh: its results do not depend on the values of its arguments.
        underived: why it cannot be recorded where a derivative is wanted, or None.
        checked: somebody's own operator: a replay makes sure that it does have a derivative.
        one_tensor: its result is a tensor. flat: its result is a row of tensors, or a list of them.
        moves: changes where in its storage its argument lies.
        simple: it has none of the peculiarities above, but that it may yield a view.
        number: unlike that of any other; octal digits that are not 0 may follow it.
    """

    __slots__ = (
        "call",
        "changes",
        "checked",
        "flat",
        "fresh",
        "function",
        "is_detach",
        "moves",
        "name",
        "number",
        "one_tensor",
        "overwrites",
        "random",
        "refusal",
        "silent",
        "simple",
        "underived",
        "unset",
        "views",
        "writes",
        "writes_by_name",
    )  # fmt: skip

    def __init__(self, function: Any) -> None:
        self.function = function
        schema = function._schema
        self.name = schema.name
        self.refusal = REFUSED.get(self.name) or REFUSED.get(self.name.split("::")[0])
        written = [i for i, a in enumerate(schema.arguments) if a.alias_info is not None and a.alias_info.is_write]
        self.writes = tuple(i for i in written if not schema.arguments[i].kwarg_only)
        self.writes_by_name = tuple(schema.arguments[i].name for i in written)
        self.writes += UNDECLARED_WRITES.get(self.name, ())
        self.changes = bool(self.writes or self.writes_by_name)
        self.overwrites = self.changes and (self.name in OVERWRITES or not self.writes)
        self.random = torch.Tag.nondeterministic_seeded in function.tags
        self.is_detach = function is torch.ops.aten.detach.default
        self.unset = self.name in UNSET
        self.fresh = self.name in FRESH
        self.underived = UNDERIVED.get(self.name)
        self.checked = "::" in self.name and not self.name.startswith("aten::")
        aliases = not written and any(r.alias_info is not None for r in schema.returns)
        # What torch takes apart itself, like aten::to, may copy all the same.
        self.views = aliases and not torch._C._dispatch_has_kernel_for_dispatch_key(self.name_of(function), _COMPOSITE)
        yields = any("Tensor" in str(r.type) for r in schema.returns)
        self.silent = not yields and not written and self.refusal is None
        kinds = [str(r.type) for r in schema.returns]
        self.one_tensor = kinds == ["Tensor"]
        self.flat = kinds == ["List[Tensor]"] or (len(kinds) > 1 and all(kind == "Tensor" for kind in kinds))
        self.call = function._op if type(function) is torch._ops.OpOverload else function
        peculiar = self.changes or self.random or self.is_detach or self.unset or self.fresh or self.silent
        self.simple = not peculiar and self.refusal is None and self.underived is None
        self.moves = torch.Tag.inplace_view in function.tags
        self.number = (len(known_operations) + 1) << 48

    @staticmethod
    def name_of(function: Any) -> str:
        """The dispatcher's name of an OpOverload, with that of the overload."""
        schema = function._schema
        return f"{schema.name}.{schema.overload_name}" if schema.overload_name else str(schema.name)


known_operations: dict[int, Operation] = {}  # by the id of the OpOverload


def operation(function: Any) -> Operation:
    """The Operation of an OpOverload, made on first use."""
    found = known_operations.get(id(function))
    if found is None:
        found = known_operations[id(function)] = Operation(function)
    return found


def user_line() -> str:
    """`file:line` of the innermost frame that is neither torch's nor this library's."""
    frame = sys._getframe(1)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if not module.startswith(("torch.", "thrifty.autodiff")) and module != "torch":
            return f"{frame.f_code.co_filename}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return "an unknown line"


def written_positions(op: Operation, args: Any, kwargs: Any) -> tuple[int, ...]:
    """Positions among the tensors of the arguments of those that the operation writes to."""
    found: list[int] = []
    count = 0
    for at, value in enumerate(args):
        items = value if isinstance(value, (list, tuple)) else (value,)
        for item in items:
            if isinstance(item, Tensor):
                if at in op.writes:
                    found.append(count)
                count += 1
    for name, value in (kwargs or {}).items():
        items = value if isinstance(value, (list, tuple)) else (value,)
        for item in items:
            if isinstance(item, Tensor):
                if name in op.writes_by_name:
                    found.append(count)
                count += 1
    return tuple(found)


def flat_outputs(result: Any) -> tuple[Any, ...]:
    """The outputs of an operation in one row: some return lists of tensors among others."""
    if not isinstance(result, (list, tuple)):
        return (result,)
    flat: list[Any] = []
    for item in result:
        if isinstance(item, (list, tuple)):
            flat += item
        else:
            flat.append(item)
    return tuple(flat)
