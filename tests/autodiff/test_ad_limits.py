"""A limit in bytes is kept to a tenth, or refused with one that would do."""

import pytest
import torch
from torch import nn

import thrifty
from thrifty.autodiff import MemoryLimitError
from thrifty.bench.ad_model_zoo import Plain, UNet

ROWS = {"unet": (UNet, (2, 3, 16, 16)), "cnn": (Plain, (4, 3, 16, 16))}


def peaks(name, limit, steps=5):
    """Peak of each step."""
    make, shape = ROWS[name]
    torch.manual_seed(0)
    model, images = make(8), torch.randn(shape)
    found = []
    for _ in range(steps):
        with thrifty.checkpointing(f"{limit}B") as used:
            model(images, lambda block, x: block(x)).square().mean().backward()
        model.zero_grad()
        found.append(used.peak_bytes)
    return found, sum(parameter.nbytes for parameter in model.parameters())


@pytest.mark.parametrize("name", ROWS)
def test_every_step_keeps_the_limit(name):
    (plain, *_), parameters = peaks(name, 1 << 30, 1)
    limit = parameters + int(0.35 * (plain - parameters))
    assert max(peaks(name, limit)[0]) <= 1.1 * limit


@pytest.mark.parametrize("name", ROWS)
def test_a_refusal_leads_to_a_limit_that_is_kept(name):
    (plain, *_), _ = peaks(name, 1 << 30, 1)
    limit = plain // 20
    for _ in range(8):
        try:
            found, _ = peaks(name, limit)
            break
        except MemoryLimitError as error:
            assert error.needed_bytes > limit
            known, limit = "at least" not in str(error), error.needed_bytes
            assert not known or max(peaks(name, limit)[0]) <= 1.1 * limit
    assert max(found) <= 1.1 * limit < plain


def test_a_step_with_a_larger_batch_is_seen_though_the_plan_needs_nothing_noted():
    model = nn.Sequential(*(layer for _ in range(6) for layer in (nn.Linear(64, 64), nn.Tanh())))
    used = thrifty.checkpointing("400KiB")
    for rows in (64, 64, 64, 64, 512):
        with used:
            model(torch.randn(rows, 64)).sum().backward()
        model.zero_grad()
    assert used.recomputed_ops > 0 and used.peak_bytes <= 3 * used.limit_bytes
