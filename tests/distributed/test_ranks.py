"""The tests' own local processes: answers of any size, errors with their text, and ranks that end without a word."""

import merging
import pytest
from ranks import DIED, run_ranks


def test_answers_larger_than_a_pipe_come_back_by_rank():
    assert run_ranks(2, merging.large_answer, 4_000_000) == [b"0" * 4_000_000, b"1" * 4_000_000]


def test_an_error_fails_with_its_text_and_a_death_only_where_it_may_be():
    with pytest.raises(AssertionError, match="rank 1 would not"):
        run_ranks(2, merging.unwilling)
    assert run_ranks(2, merging.silent, may_die=True) == ["still here", DIED]
    with pytest.raises(AssertionError, match="ended with 7 and no answer"):
        run_ranks(2, merging.silent)
