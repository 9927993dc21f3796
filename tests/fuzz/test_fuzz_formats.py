"""A short run of every fuzz target; `python tools/fuzz.py TARGET` goes on for as long as it is let."""

import random
import zlib

import pytest
from fuzz_targets import TARGETS, check
from hypothesis import given, settings
from hypothesis import strategies as st
from mutate import mutated

ROUNDS = {"cifar archive": 60, "image zip": 60, "any set": 60, "frozen file": 60}
# A damaged PNG may make Pillow warn before it fails, and a damaged batch torch.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("name", TARGETS)
def test_the_seed_is_taken(name: str) -> None:
    assert check(name, TARGETS[name].seed()) or name == "any set"


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_files_end_in_a_message(name: str) -> None:
    seed, draw = TARGETS[name].seed(), random.Random(zlib.crc32(name.encode()))
    refused = sum(not check(name, mutated(seed, draw)) for _ in range(ROUNDS.get(name, 200)))
    assert refused, "no damage was noticed: the target reads nothing"


@pytest.mark.parametrize("name", TARGETS)
def test_any_bytes_end_in_a_message(name: str) -> None:
    @settings(max_examples=30, deadline=None)
    @given(st.binary(max_size=300))
    def run(content: bytes) -> None:
        check(name, content)

    run()
