"""Tables as files: the same answers, shared by processes, and everything refused that does not belong."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import thrifty.lsh.table_file as table_file
from thrifty.core.errors import CheckpointError, UsageError
from thrifty.lsh import Hashing, LazyAdam, LSHSoftmaxLoss, SampledSoftmaxLoss, load_tables, save_tables

pytestmark = pytest.mark.filterwarnings("ignore::thrifty.lsh.SlowerThanDenseWarning")
CLASSES, FEATURES = 900, 12
NAMES = ("tables.pt", "tables.safetensors")


def made(seed=0, classes=CLASSES, features=FEATURES, **settings):
    torch.manual_seed(seed)
    return LSHSoftmaxLoss(features, classes, active=60, tail=60, when="hashed", **settings)


def trained(**settings):
    """A head some steps into its training: rows of the tail have moved without the tables noticing."""
    head = made(**settings)
    optimizer = LazyAdam(head.parameters(), lr=0.05)
    optimizer.watch(head)
    for _ in range(5):
        optimizer.zero_grad()
        head(torch.randn(16, head.in_features), torch.randint(head.n_classes, (16,))).backward()
        optimizer.step()
    return head


@pytest.fixture(params=NAMES)
def name(request):
    if request.param.endswith(".safetensors"):
        pytest.importorskip("safetensors")
    return request.param


@pytest.mark.parametrize("family", ["sim", "fitted", "sparse", "wta"])
def test_a_file_gives_the_same_answers_as_the_tables_it_was_made_of(tmp_path, name, family):
    head = trained(hashing=Hashing(family=family))
    save_tables(head, tmp_path / name)
    other = made(seed=1, hashing=Hashing(family=family)).eval()
    other.load_state_dict(head.state_dict())
    load_tables(other, tmp_path / name)
    assert other.index.rebuilds == head.index.rebuilds
    x = torch.randn(30, FEATURES)
    for mine, theirs in zip(other.topk(x, 7), head.eval().topk(x, 7), strict=True):
        assert torch.equal(mine, theirs)
    assert os.listdir(tmp_path) == [name]


def test_what_is_saved_follows_every_row_of_the_weights(tmp_path):
    head = trained()
    save_tables(head, tmp_path / "t.pt")
    assert head.index.drift(head.weight, head.bias, 0) == 0


def test_training_goes_on_from_loaded_tables_and_leaves_the_file_alone(tmp_path, name):
    head = trained(hashing=Hashing(refresh_every=1))
    save_tables(head, tmp_path / name)
    before = (tmp_path / name).read_bytes()
    other = made(hashing=Hashing(refresh_every=1))
    other.load_state_dict(head.state_dict())
    load_tables(other, tmp_path / name)
    codes = other.index.tables.codes.clone()
    optimizer = LazyAdam(other.parameters(), lr=0.5)
    optimizer.watch(other)
    for _ in range(4):
        optimizer.zero_grad()
        other(torch.randn(16, FEATURES), torch.arange(16)).backward()
        optimizer.step()
    assert not torch.equal(other.index.tables.codes, codes)
    assert (tmp_path / name).read_bytes() == before


OTHERS = {
    "classes": lambda: made(classes=CLASSES + 1),
    "features": lambda: made(features=FEATURES + 1),
    "bias": lambda: made(bias=False),
    "family": lambda: made(hashing=Hashing(family="wta")),
    "seed": lambda: made(hashing=Hashing(seed=1)),
    "tables": lambda: made(hashing=Hashing(tables=2)),
    "bits": lambda: made(hashing=Hashing(bits=3)),
    "capacity": lambda: made(hashing=Hashing(capacity=7)),
}


@pytest.mark.parametrize("other", OTHERS)
def test_tables_of_another_layer_are_refused(tmp_path, name, other):
    save_tables(made(), tmp_path / name)
    head = OTHERS[other]()
    with pytest.raises(CheckpointError, match=f"tables of another layer: its {other} is "):
        load_tables(head, tmp_path / name)
    assert head.index is None


def test_tables_of_other_weights_are_refused(tmp_path, name):
    head = made()
    save_tables(head, tmp_path / name)
    for parameter in (head.weight, head.bias):
        kept = parameter.detach().clone()
        with torch.no_grad():
            parameter.view(-1)[5] += 1e-3
        index = head.index
        with pytest.raises(CheckpointError, match="tables of other weights"):
            load_tables(head, tmp_path / name)
        assert head.index is index
        with torch.no_grad():
            parameter.copy_(kept)
    load_tables(head, tmp_path / name)


def test_files_that_are_damaged_cut_off_or_something_else_are_refused(tmp_path, name):
    head = made()
    save_tables(head, tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    half = len(whole) // 2
    broken = [whole[:half], whole[:-1], b"", b"no tables at all", whole[:20] + b"\xff" * 40 + whole[60:]]
    if name.endswith(".pt"):  # a zip has checksums
        broken.append(whole[:half] + bytes([whole[half] ^ 1]) + whole[half + 1 :])
    for data in broken:
        (tmp_path / name).write_bytes(data)
        index = head.index
        with pytest.raises(CheckpointError, match="save the tables again"):
            load_tables(head, tmp_path / name)
        assert head.index is index
    with pytest.raises(CheckpointError, match="does not exist"):
        load_tables(head, tmp_path / f"none-{name}")


def test_tables_that_no_kernel_could_trust_are_refused(tmp_path):
    head = made()
    save_tables(head, tmp_path / "t.pt")
    for key in ("slots", "sizes", "codes"):
        content = torch.load(tmp_path / "t.pt")
        content["tensors"][key] += 10**6
        torch.save(content, tmp_path / "bad.pt")
        with pytest.raises(CheckpointError, match=f"damaged \\({key} holds values out of range"):
            load_tables(head, tmp_path / "bad.pt")


def spread(tensor):
    return torch.zeros((1,) * tensor.dim(), dtype=tensor.dtype).expand(tensor.shape)


DAMAGES = {
    "seen holds values out of range": lambda c: c["tensors"]["seen"].fill_(-5),  # a kernel would write before a bucket
    "slots does not lie in memory": lambda c: c["tensors"].update(slots=spread(c["tensors"]["slots"])),
    "two of the tables lie in the same memory": lambda c: c["tensors"].update(seen=c["tensors"]["sizes"]),
    "slots does not lie": lambda c: c["tensors"].update(slots=c["tensors"]["slots"].to("meta")),
    "mean holds values that are no finite": lambda c: c["tensors"]["mean"].fill_(float("nan")),
    "bias and square are no finite": lambda c: c["about"]["numbers"].update(square=float("inf")),
    "bias and square": lambda c: c["about"]["numbers"].update(bias=torch.ones(2)),
    "count its rebuilds": lambda c: c["about"]["numbers"].update(rebuilds=float("inf")),
    "mean is torch.float64": lambda c: c["tensors"].update(mean=c["tensors"]["mean"].double()),
    "does not name its layer": lambda c: c["about"].update(layer="none"),
    "not name its layer": lambda c: c["about"].update(layer={"classes": torch.ones(2)}),
    "name its layer": lambda c: c["about"].update(weights=torch.ones(2, 2)),
    "holds no tables of this version": lambda c: c["about"].update(format=torch.ones(2)),
}


@pytest.mark.parametrize("message", DAMAGES)
def test_what_a_stranger_may_write_is_refused_in_a_line(tmp_path, message):
    head = made()
    save_tables(head, tmp_path / "t.pt")
    content = torch.load(tmp_path / "t.pt")
    DAMAGES[message](content)
    torch.save(content, tmp_path / "t.pt")
    index = head.index
    with pytest.raises(CheckpointError, match=message) as caught:
        load_tables(head, tmp_path / "t.pt")
    assert head.index is index and "\n" not in str(caught.value)
    torch.save(torch.ones(3), tmp_path / "t.pt")
    with pytest.raises(CheckpointError, match="holds no tables"):
        load_tables(head, tmp_path / "t.pt")


@pytest.mark.parametrize("rows", [torch.tensor([CLASSES]), torch.tensor([-1]), torch.ones(2), torch.ones(1, 1).long()])
def test_a_state_whose_changed_classes_are_none_is_refused(rows):
    head = trained()
    for state in ({**head.index_state(), "changed": [rows]}, torch.ones(3)):
        index = head.index
        with pytest.raises(CheckpointError, match="the tables' state is damaged"):
            head.load_index_state(state)
        assert head.index is index


def test_a_crash_while_saving_leaves_the_older_file(tmp_path, name, monkeypatch):
    head = made()
    save_tables(head, tmp_path / name)
    before = (tmp_path / name).read_bytes()

    def crash(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        save_tables(head, tmp_path / name)
    assert (tmp_path / name).read_bytes() == before and os.listdir(tmp_path) == [name]


def test_heads_without_tables_have_nothing_to_save(tmp_path):
    for head in (LSHSoftmaxLoss(4, 9, when="dense"), SampledSoftmaxLoss(4, 9)):
        with pytest.raises(UsageError, match="no tables"):
            save_tables(head, tmp_path / "t.pt")


def test_without_safetensors_its_files_are_refused_with_a_way_out(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(UsageError, match=r"pip install safetensors, or use \.pt"):
        save_tables(made(), tmp_path / "t.safetensors")


READER = """
import pathlib, sys, time, warnings
import torch
warnings.simplefilter("ignore")
from thrifty.lsh import Hashing, LazyAdam, LSHSoftmaxLoss, load_tables
folder, who = pathlib.Path(sys.argv[1]), sys.argv[2]
def meet(other):  # until the other process is there as well; it may take its time
    (folder / ("is " + who)).touch()
    while not (folder / other).exists():
        time.sleep(0.01)
head = LSHSoftmaxLoss(12, 900, active=60, tail=60, when="hashed", hashing=Hashing(refresh_every=1))
head.load_state_dict(torch.load(folder / "weights.pt"))
load_tables(head, folder / "tables.pt")
x = torch.linspace(-1, 1, 120).view(10, 12)
if who == "trains":
    meet("is asks")
    optimizer = LazyAdam(head.parameters(), lr=0.5)
    optimizer.watch(head)
    for _ in range(6):
        optimizer.zero_grad()
        head(x, torch.arange(10)).backward()
        optimizer.step()
    head.rebuild()
    (folder / "has trained").touch()
else:
    meet("has trained")
    torch.save(head.eval().topk(x, 5)[1], folder / "answers.pt")
"""


def test_processes_share_one_file_and_do_not_meet_in_it(tmp_path):
    """One trains on what both have loaded; then the other's answers are still those of the file."""
    head = made(hashing=Hashing(refresh_every=1))
    torch.save(head.state_dict(), tmp_path / "weights.pt")
    save_tables(head, tmp_path / "tables.pt")
    before = (tmp_path / "tables.pt").read_bytes()
    (tmp_path / "reader.py").write_text(READER)
    start = [sys.executable, str(tmp_path / "reader.py"), str(tmp_path)]
    runs = [subprocess.Popen([*start, who], env={**os.environ, "OMP_NUM_THREADS": "1"}) for who in ("trains", "asks")]
    try:
        assert [run.wait(timeout=600) for run in runs] == [0, 0]
    finally:
        for run in runs:
            run.kill()
    wanted = head.eval().topk(torch.linspace(-1, 1, 120).view(10, 12), 5)[1]
    assert torch.equal(torch.load(tmp_path / "answers.pt"), wanted)
    assert (tmp_path / "tables.pt").read_bytes() == before


@pytest.mark.skipif(os.name == "nt", reason="a file in use cannot be replaced there")
def test_a_file_that_is_replaced_stays_what_it_was_for_those_who_use_it(tmp_path, name):
    head, other = made(), made(seed=1)
    save_tables(head, tmp_path / name)
    user = made()
    load_tables(user, tmp_path / name)
    save_tables(other, tmp_path / name)
    x = torch.randn(20, FEATURES)
    for mine, theirs in zip(user.eval().topk(x, 5), head.eval().topk(x, 5), strict=True):
        assert torch.equal(mine, theirs)
    with pytest.raises(CheckpointError, match="tables of other weights"):
        load_tables(made(), tmp_path / name)


def test_the_fingerprint_tells_weights_apart_and_nothing_else():
    one, same, other = made(), made(), made(seed=1)
    assert table_file.fingerprint(one) == table_file.fingerprint(same) != table_file.fingerprint(other)
    assert len(table_file.fingerprint(one)) == 32
