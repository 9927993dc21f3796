"""MemoryLimit: checkpointing among the methods: around each training step, changing no layer."""

from dataclasses import dataclass
from typing import ClassVar

from thrifty.autodiff.budget import parse_memory
from thrifty.core.config import MethodConfig
from thrifty.core.errors import UsageError
from thrifty.core.registry import Method, register_method


@dataclass(frozen=True)
class MemoryLimit(MethodConfig):
    """Training steps that keep within a limit: what does not fit is let go, and made again in the backward pass.

    Attributes:
        memory: bytes with their unit ("512MiB"), a number of saved activations, or "log"; see `checkpointing`.
    """

    method: ClassVar[str] = "checkpointing"

    memory: int | str

    def validate(self) -> None:
        """Check the field; see `MethodConfig.validate`."""
        if parse_memory(self.memory) is None:
            raise UsageError("MemoryLimit.memory is None: give bytes as '512MiB', 'log' or a number")


register_method(
    MemoryLimit,
    Method(
        handlers={},
        instead="apply_ changes layers, and checkpointing is around each step: "
        "write `with thrifty.checkpointing(memory):` around forward and backward, or use thrifty.together",
    ),
)
