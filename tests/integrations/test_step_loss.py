import torch

from thrifty.integrations.step_loss import StepLoss


def test_sums_means_and_begins_anew():
    losses = StepLoss()
    assert losses.take(mean=True) is None
    for value in (1.0, 2.0, 6.0):
        losses.add(torch.tensor(value, requires_grad=True))
    assert losses.take(mean=True) == 3.0
    assert losses.take(mean=False) is None
    losses.add(torch.tensor(1.0, dtype=torch.bfloat16))
    losses.add(torch.tensor(2.0))
    total = losses.take(mean=False)
    assert total == 3.0 and not total.requires_grad
