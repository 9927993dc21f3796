"""A state of the recorded run between two steps: the registers that are alive, from which later steps can be replayed.

A snapshot holds the tensors themselves, not copies; see `marks` for how they are kept as they were.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from thrifty.autodiff.context import library_code
from thrifty.autodiff.errors import ReplayError


def version_of(tensor: Tensor) -> int:
    """How often the tensor was written to; 0 for inference tensors, which are not counted."""
    return 0 if tensor.is_inference() else tensor._version


def same_place(tensor: Tensor, storage_of: Tensor) -> Tensor:
    """The part of `storage_of`'s storage that `tensor` covers of its own."""
    return storage_of.as_strided(tensor.size(), tensor.stride(), tensor.storage_offset())


def whole_copy(tensor: Tensor) -> Tensor:
    """A copy of the whole storage of `tensor`, laid out as `tensor` is."""
    with library_code():
        plain = tensor.detach()
        size = plain.untyped_storage().nbytes() // plain.element_size()
        return same_place(plain, plain.as_strided((size,), (1,), 0).clone())


class Snapshot:
    """Registers at the start of a step.

    Attributes:
        step: the step that starts here.
        values: register -> tensor.
        roots: register of a view -> register of the tensor whose storage it shares.
        inactive: registers that do not depend on the differentiated inputs.
        random: generator -> its state, for those that were drawn from.
    """

    __slots__ = ("_versions", "inactive", "random", "roots", "step", "values")

    def __init__(
        self,
        step: int,
        values: dict[int, Tensor],
        roots: dict[int, int],
        inactive: set[int],
        random: dict[Any, Any],
    ) -> None:
        self.step, self.values, self.roots, self.inactive, self.random = step, values, roots, inactive, random
        self._versions = {register: version_of(tensor) for register, tensor in values.items()}

    def check(self) -> None:
        """Raise ReplayError if a tensor held here was written to without the record's knowledge."""
        for register, tensor in self.values.items():
            if version_of(tensor) != self._versions[register]:
                raise changed_behind(tensor)

    def storages(self) -> dict[int, int]:
        """Storage -> its bytes, of all that is held here."""
        found = {}
        for tensor in self.values.values():
            storage = tensor.untyped_storage()
            found[id(storage)] = storage.nbytes()
        return found


def changed_behind(tensor: Tensor, line: str = "") -> ReplayError:
    """The error for a tensor that was written to outside the recorded run."""
    where = f" (read at {line})" if line else ""
    return ReplayError(
        f"a tensor of shape {tuple(tensor.shape)} that the recorded run needs again{where} was changed in place after "
        "it was read: change it after the derivative is taken, or give the call a clone of it"
    )


def generator_of(tensor_device: torch.device, given: Any) -> Any:
    """The generator an operation draws from: the one given, or its device's default."""
    if given is not None:
        return given
    if tensor_device.type == "cuda":
        index = tensor_device.index if tensor_device.index is not None else torch.cuda.current_device()
        return torch.cuda.default_generators[index]
    return torch.default_generator
