"""LSH: the settings of hashed hidden layers, for `thrifty.apply_`."""

from dataclasses import dataclass
from typing import ClassVar

from thrifty.core.config import MethodConfig
from thrifty.core.errors import UsageError
from thrifty.lsh.hashing import Hashing

MODES = ("each", "shared")


@dataclass(frozen=True)
class LSH(MethodConfig):
    """Hidden layers that compute only the neurons that hashing finds for their input; the others answer zero.

    For a wide OUTPUT layer this is wrong, since its loss needs the scores that are left out: use `LSHSoftmaxLoss` or
    `LSHMultiLabelLoss` in place of layer and loss. So layers have to be named here.

    Attributes:
        layers: names of the hidden `nn.Linear` layers to change, as in `model.named_modules()`. Each should be followed
            by an activation that leaves zero at zero (ReLU, GELU, tanh).
        active: share of the neurons that are computed, at most.
        mode: `each`, every row its own neurons; `shared`, one set for the batch (a matrix product: faster from a few
        rows
            on, and coarser).
        batch: rows that a step is expected to have, for the prediction whether hashing pays.
        force: change layers that are predicted to become slower, with a warning, instead of leaving them dense.
        hashing: settings of the tables.
    """

    method: ClassVar[str] = "lsh"

    layers: tuple[str, ...] = ()
    active: float = 0.05
    mode: str = "each"
    batch: int = 64
    force: bool = False
    hashing: Hashing = Hashing(family="sparse", tables=48, bits=4, refresh_every=16)  # noqa: RUF009  (it is frozen)

    def validate(self) -> None:
        """Raise UsageError for a field out of range."""
        if not 0 < self.active <= 1:
            raise UsageError(f"LSH.active must be above 0 and at most 1, got {self.active}")
        if self.mode not in MODES:
            raise UsageError(f"LSH.mode is {self.mode!r}: choose one of {', '.join(MODES)}")
        if self.batch < 1:
            raise UsageError(f"LSH.batch must be at least 1 row, got {self.batch}")
