"""Every cell of the table of what goes together, by a test of its own on the method's own little network."""

import pytest
import torch.distributed as dist
from ranks import run_ranks
from support_cells import WAYS
from support_checks import CHECKS, on_rank, verdict

from thrifty.compose import support
from thrifty.compose.catalog import method_names

pytestmark = pytest.mark.filterwarnings(  # what torch's own modules and its compiler do, and a layer that is forced
    "ignore:layer .*hashing would take",
    "ignore:The .grad attribute of a Tensor that is not a leaf",  # the compiler looks at it
    "ignore:.torch.jit.script_method. is deprecated:DeprecationWarning",  # by torch's own modules
)
SEVERAL = {"merge"}
"""Methods that need more than one process."""


@pytest.fixture
def world(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/world", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("feature", support.FEATURES)
@pytest.mark.parametrize("method", [method for method in support.CELLS if method not in SEVERAL])
def test_the_cell_tells_the_truth(method, feature, world):
    assert verdict(method, feature) == support.CELLS[method][feature].verdict


@pytest.mark.parametrize("feature", support.FEATURES)
@pytest.mark.parametrize("method", sorted(SEVERAL))
def test_the_cell_tells_the_truth_on_every_rank(method, feature):
    assert run_ranks(2, on_rank, method, feature) == 2 * [support.CELLS[method][feature].verdict]


def test_every_method_has_every_cell():
    assert set(support.CELLS) == set(WAYS) == {*method_names(), "precision", "merge", "checkpointing"}
    assert set(CHECKS) == set(support.FEATURES)
    for cells in support.CELLS.values():
        assert set(cells) == set(support.FEATURES)
        assert all(cell.verdict in support.VERDICTS and cell.says for cell in cells.values())


def test_refusals_say_what_to_do():
    for cells in support.CELLS.values():
        assert all("`" in cell.says for cell in cells.values() if cell.verdict == support.REFUSES)


def test_the_table_has_a_line_a_feature():
    lines = support.markdown().splitlines()
    assert len(lines) == 2 + len(support.FEATURES)
    assert all(line.count("|") == 2 + len(support.CELLS) for line in lines)
