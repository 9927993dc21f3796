"""The code of the method card, run as it stands in two processes."""

import re
from pathlib import Path

import merging
import pytest
from ranks import run_ranks

CARD = Path(__file__).parents[2] / "src" / "thrifty" / "distributed" / "README.md"
BLOCKS = [block for block in re.findall(r"^```python\n(.*?)^```", CARD.read_text(), re.DOTALL | re.MULTILINE)
          if "distributed.join" in block]  # fmt: skip


@pytest.mark.parametrize("block", BLOCKS)
def test_it_runs_and_leaves_equal_models_everywhere(block, free_port):
    first, second = run_ranks(2, merging.page, block, free_port, join=False)
    assert first["kind"] == "DistributedDataParallel"
    assert first == second


def test_there_is_a_block():
    assert BLOCKS
