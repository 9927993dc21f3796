"""A process that is killed in the middle of a rebuild: what is on the disk is whole, and training goes on from it.

Processes meet by files. The killed one tells that it is inside a rebuild by a file, and never gets out of it.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from thrifty.lsh import Hashing, LazyAdam, LSHSoftmaxLoss, load_tables, save_tables

pytestmark = [
    pytest.mark.filterwarnings("ignore::thrifty.lsh.SlowerThanDenseWarning"),
    pytest.mark.skipif(os.name == "nt", reason="no SIGKILL there"),
]
CLASSES, FEATURES, SAVED, STEPS = 900, 12, 4, 9
LIMIT_S = 600
TRAINER = """
import pathlib, sys, time, warnings
import torch
warnings.simplefilter("ignore")
folder, how = pathlib.Path(sys.argv[1]), sys.argv[2]
sys.path.insert(0, sys.argv[3])
torch.set_num_threads(int(sys.argv[4]))
import test_tables_killed as training
from thrifty.lsh import index, save_tables

def tell():
    (folder / "is inside").touch()

head, optimizer = training.begun(folder)
training.steps(head, optimizer, 0, training.SAVED)
training.save(head, optimizer, folder)
training.steps(head, optimizer, training.SAVED, training.SAVED + 2)
index.CHUNK = 100
if how == "between two writings":
    update, count = index.table_update, 0
    def stop(*arguments):
        global count
        count += 1
        if count == 4:
            tell()
            time.sleep(10**6)
        update(*arguments)
    index.table_update = stop
    head.rebuild()
else:
    save_tables(head, folder / "newer.pt")
    tell()
    while True:
        head.rebuild()
        if how == "saving":
            save_tables(head, folder / "newer.pt")
"""


def made():
    torch.manual_seed(0)
    hashing = Hashing(refresh_every=2, rebuild_first=3)
    return LSHSoftmaxLoss(FEATURES, CLASSES, active=60, tail=60, when="hashed", hashing=hashing)


def begun(folder):
    """A head with the weights and the tables of the folder, and its optimizer."""
    head = made()
    head.load_state_dict(torch.load(folder / "weights.pt"))
    load_tables(head, folder / "tables.pt")
    optimizer = LazyAdam(head.parameters(), lr=0.05)
    optimizer.watch(head)
    return head, optimizer


def steps(head, optimizer, first, last):
    losses = []
    for step in range(first, last):
        source = torch.Generator().manual_seed(step)
        x, y = torch.randn(16, FEATURES, generator=source), torch.randint(CLASSES, (16,), generator=source)
        optimizer.zero_grad()
        loss = head(x, y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def save(head, optimizer, folder):
    state = {"model": head.state_dict(), "index": head.index_state(), "optimizer": optimizer.state_dict()}
    torch.save(state, folder / "checkpoint.part")
    (folder / "checkpoint.part").replace(folder / "checkpoint.pt")


def killed(folder, how, wait_s):
    """Start a training, and kill it so long after it has told that it is inside a rebuild."""
    words = [sys.executable, str(folder / "trainer.py"), str(folder), how, str(Path(__file__).parent),
             str(torch.get_num_threads())]  # fmt: skip
    (folder / "trainer.py").write_text(TRAINER)
    process = subprocess.Popen(words)
    try:
        until = time.monotonic() + LIMIT_S
        while not (folder / "is inside").exists():
            assert process.poll() is None and time.monotonic() < until, "it ended before it could be killed"
            time.sleep(0.01)
        time.sleep(wait_s)
        os.kill(process.pid, signal.SIGKILL)
        return process.wait(timeout=LIMIT_S)
    finally:
        process.kill()


@pytest.fixture
def folder(tmp_path):
    head = made()
    torch.save(head.state_dict(), tmp_path / "weights.pt")
    save_tables(head, tmp_path / "tables.pt")
    return tmp_path


@pytest.mark.parametrize(("how", "wait_s"), [("between two writings", 0.0), ("rebuilding", 0.0213), ("saving", 0.0371)])
def test_nothing_is_lost_when_a_process_is_killed_in_a_rebuild(folder, how, wait_s):
    before = (folder / "tables.pt").read_bytes()
    assert killed(folder, how, wait_s) == -signal.SIGKILL
    assert (folder / "tables.pt").read_bytes() == before  # the killed one had it mapped, and moved classes in it
    unbroken, optimizer = begun(folder)
    steps(unbroken, optimizer, 0, SAVED)
    went_on = steps(unbroken, optimizer, SAVED, STEPS)

    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    head = made()
    head.load_state_dict(state["model"])
    head.load_index_state(state["index"])
    optimizer = LazyAdam(head.parameters(), lr=0.05)
    optimizer.watch(head)
    optimizer.load_state_dict(state["optimizer"])
    assert steps(head, optimizer, SAVED, STEPS) == went_on
    optimizer.flush()

    from_weights = made()  # without the tables' state they are built from the weights
    from_weights.load_state_dict(state["model"])
    from_weights.eval().topk(torch.randn(4, FEATURES), 5)
    fresh = made()
    fresh.load_state_dict(state["model"])
    fresh.rebuild()
    for name in ("slots", "sizes", "seen", "codes"):
        assert torch.equal(getattr(from_weights.index.tables, name), getattr(fresh.index.tables, name))
    assert from_weights.index.drift(from_weights.weight, from_weights.bias, 0) == 0


def test_a_table_file_is_whole_whenever_the_process_that_writes_it_dies(folder):
    """What is half written lies beside under another name; a later writing is not in its way."""
    assert killed(folder, "saving", 0.0457) == -signal.SIGKILL
    head, optimizer = begun(folder)
    steps(head, optimizer, 0, SAVED)
    optimizer.flush()  # as saving did: rows that are caught up in two parts are rounded twice
    steps(head, optimizer, SAVED, SAVED + 2)
    optimizer.flush()
    user = as_saved(head, folder)
    assert user.index.drift(user.weight, user.bias, 0) == 0
    save_tables(user, folder / "newer.pt")
    x = torch.randn(20, FEATURES)
    for mine, theirs in zip(as_saved(head, folder).topk(x, 5), user.topk(x, 5), strict=True):
        assert torch.equal(mine, theirs)


def as_saved(head, folder):
    other = made().eval()
    other.load_state_dict(head.state_dict())
    load_tables(other, folder / "newer.pt")
    return other
