"""What `freeze` chose for each layer, and what it expects of the whole."""

from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from thrifty.core.errors import ModelError


@dataclass(frozen=True)
class LayerChoice:
    """What became of one convolution: seconds on some calibration images, `error` of its output; why it is stock."""

    layer: str
    setting: str | None
    dense_s: float
    frozen_s: float | None
    error: float | None
    table_bytes: int
    reason: str


@dataclass(frozen=True)
class FrozenReport:
    """What `freeze` did.

    Attributes:
        layers: one choice for each convolution.
        dtype: of what is not looked up, `float32` or `bfloat16`.
        expected_loss: the share of right answers that is expected to be lost, from the calibration images.
        dense_s, frozen_s: one calibration batch through the whole model, in `dtype` and BatchNorm folded in both.
    """

    layers: tuple[LayerChoice, ...]
    dtype: str
    expected_loss: float
    dense_s: float
    frozen_s: float

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data."""
        return {**asdict(self), "layers": [asdict(layer) for layer in self.layers]}


def frozen_report(model: nn.Module) -> FrozenReport:
    """What `freeze` did to make this model. Raises ModelError for a model that it did not make."""
    report = getattr(model, "frozen_report", None)
    if not isinstance(report, FrozenReport):
        raise ModelError("this model was not made by thrifty.reuse.freeze: there is no report")
    return report
