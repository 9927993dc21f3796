"""The loss of one optimizer step, out of the losses of the batches that it is made of."""

from torch import Tensor


class StepLoss:
    """Adds up what the batches of a step lost; nothing is read from the device before the step is done."""

    def __init__(self) -> None:
        self._sum: Tensor | None = None
        self._count = 0

    def add(self, loss: Tensor) -> None:
        """Take notice of one batch's loss, a tensor with one element."""
        loss = loss.detach().float()
        self._sum = loss if self._sum is None else self._sum + loss
        self._count += 1

    def take(self, *, mean: bool) -> Tensor | None:
        """Return the sum, or with `mean` the mean, of the losses since the last call; None where there were none."""
        total, count = self._sum, self._count
        self._sum, self._count = None, 0
        return total / count if total is not None and mean else total
