import pytest
import torch

from thrifty.core.errors import OutOfMemoryError
from thrifty.core.exhaustion import is_exhaustion, told_as_exhaustion


def test_torch_says_it_in_words_that_are_known():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50)
    assert is_exhaustion(caught.value)


@pytest.mark.parametrize("error", [
    MemoryError(), torch.OutOfMemoryError("x"), OSError(12, "Cannot allocate memory"),
    RuntimeError("could not create a primitive"), ImportError("x.so: failed to map segment from shared object"),
])  # fmt: skip
def test_other_ways_of_saying_it(error):
    assert is_exhaustion(error)


@pytest.mark.parametrize("error", [
    ValueError("out of memory"), RuntimeError("size mismatch"), OSError(28, "No space"),
    RuntimeError("could not create a primitive descriptor for a convolution"),
])  # fmt: skip
def test_mistakes_are_not_taken_for_it(error):
    assert not is_exhaustion(error)
    with pytest.raises(type(error)), told_as_exhaustion("take less"):
        raise error


def test_it_is_told_with_the_advice_once():
    expected = pytest.raises(OutOfMemoryError, match=r"^out of memory: take less$")
    with expected as caught, told_as_exhaustion("take more"), told_as_exhaustion("take less"):
        raise MemoryError
    assert isinstance(caught.value.__cause__, MemoryError)


def test_a_cause_counts():
    outer = ValueError("it failed")
    outer.__cause__ = MemoryError()
    assert is_exhaustion(outer)
