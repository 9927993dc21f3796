"""Derived seeds: fixed for ever, apart from each other."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from thrifty.core.errors import UsageError
from thrifty.core.seeds import derive_seed, generator

keys = st.lists(st.integers() | st.text(), max_size=4).map(tuple)


def test_values_are_fixed():
    assert derive_seed(0) == 5970667615949607468
    assert derive_seed(0, "hash", "conv1", 3) == 1687131201161624619
    assert derive_seed(-1, "ä") == 6771891740652879628


@given(st.integers(), keys, keys)
def test_other_keys_other_seeds(seed, a, b):
    assert 0 <= derive_seed(seed, *a) < 2**63
    assert (derive_seed(seed, *a) == derive_seed(seed, *b)) == (a == b)


def test_numbers_texts_and_boundaries_are_told_apart():
    assert len({derive_seed(0, 3), derive_seed(0, "3"), derive_seed(3), derive_seed(0, 3, "")}) == 4
    assert derive_seed(0, "ab", "c") != derive_seed(0, "a", "bc")
    assert derive_seed(0, True) == derive_seed(0, 1)


@pytest.mark.parametrize("key", [1.0, None, b"x"])
def test_other_keys_are_refused(key):
    with pytest.raises(UsageError, match=type(key).__name__):
        derive_seed(0, key)


def test_generators_repeat_and_leave_the_global_one_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = torch.randn(4, generator=generator(1, "a"))
    assert torch.equal(first, torch.randn(4, generator=generator(1, "a")))
    assert not torch.equal(first, torch.randn(4, generator=generator(1, "b")))
    assert torch.equal(before, torch.get_rng_state())
