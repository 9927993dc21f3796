"""Losses over wide outputs: right gradients, unbiased sums, checkpoints, and bad input."""

import copy
import math
import pickle

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import thrifty.lsh.index as index_module
from thrifty.core.errors import CheckpointError, NonFiniteError, UsageError
from thrifty.lsh import (
    Hashing,
    LazyAdam,
    LSHMultiLabelLoss,
    LSHSoftmaxLoss,
    SampledSoftmaxLoss,
    SlowerThanDenseWarning,
)
from thrifty.lsh.hashing import sizes_for

pytestmark = pytest.mark.filterwarnings("ignore::thrifty.lsh.SlowerThanDenseWarning")
FEATURES, CLASSES = 16, 600


def hashed(active=40, tail=60, classes=CLASSES, features=FEATURES, **more):
    torch.manual_seed(0)
    return LSHSoftmaxLoss(features, classes, active=active, tail=tail, when="hashed", **more)


def some_batch(rows=8, seed=1, classes=CLASSES, features=FEATURES):
    source = torch.Generator().manual_seed(seed)
    return torch.randn(rows, features, generator=source), torch.randint(classes, (rows,), generator=source)


def exact(loss, x, y):
    return nn.functional.cross_entropy(nn.functional.linear(x, loss.weight, loss.bias), y)


@pytest.mark.parametrize("family", ["sim", "fitted", "sparse", "wta"])
@pytest.mark.parametrize("bias", [True, False])
def test_with_every_class_chosen_it_is_cross_entropy_to_the_gradient(family, bias):
    torch.manual_seed(0)
    loss = LSHSoftmaxLoss(FEATURES, 200, bias, active=150, tail=200, when="hashed", sparse=False,
                          hashing=Hashing(family=family))  # fmt: skip
    x, y = some_batch(classes=200)
    x.requires_grad_()
    parameters = [x, *loss.parameters()]
    mine = torch.autograd.grad(loss(x, y), parameters)
    theirs = torch.autograd.grad(exact(loss, x, y), parameters)
    assert loss.last.head + loss.last.tail == 200 and not loss.log_weights.any()
    for a, b in zip(mine, theirs, strict=True):
        assert_close(a, b)


@pytest.mark.parametrize("distribution", ["uniform", "log-uniform", "given"])
def test_the_estimated_sum_is_unbiased_whatever_the_tables_find(distribution):
    by = torch.rand(CLASSES, generator=torch.Generator().manual_seed(4)) if distribution == "given" else distribution
    loss = hashed(active=30, tail=25, distribution=by)
    with torch.no_grad():
        loss.weight *= 8  # uneven scores
    x, y = some_batch(rows=3)
    with torch.no_grad():
        scores = nn.functional.linear(x, loss.weight, loss.bias)
        total = torch.logsumexp(scores.double(), 1).exp()
        sums = []
        for _ in range(3000):
            chosen = loss.choose(x, y)
            sums.append(torch.logsumexp(chosen.scores.double(), 1).exp())
    sums = torch.stack(sums)
    error = (sums.mean(0) - total).abs()
    assert (error < 5 * sums.std(0) / math.sqrt(len(sums))).all()
    assert (sums.std(0) > 0).all()


def test_without_a_tail_the_loss_is_too_small():
    """What SLIDE and its kin do: the normaliser lacks what was not found."""
    loss = hashed(active=30, tail=0)
    x, y = some_batch()
    assert loss(x, y) < exact(loss, x, y) - 0.5


@pytest.mark.parametrize("shift", [-500.0, 500.0])
def test_scores_far_from_zero_are_no_danger(shift):
    """A predecessor took the largest score to be 0 at least, so that where all are small nothing is left."""
    loss = hashed()
    x, y = some_batch()
    wanted = loss.train(False)(x, y)
    with torch.no_grad():
        loss.bias.add_(shift)
    assert_close(loss(x, y), wanted, rtol=1e-3, atol=1e-3)
    far = loss.train()(x, y)
    assert bool(far.isfinite())
    far.backward()
    assert bool(loss.bias.grad.coalesce().values().isfinite().all())


def test_labels_are_always_active_and_only_active_rows_get_gradients():
    loss = hashed()
    x, y = some_batch()
    loss(x, y).backward()
    gradient = loss.weight.grad
    assert gradient.is_sparse
    ids = gradient._indices()[0]
    assert torch.equal(ids, loss.last.ids) and set(y.tolist()) <= set(ids[~loss.last.drawn].tolist())
    assert loss.bias.grad.is_sparse and torch.equal(loss.bias.grad._indices()[0], ids)
    assert (ids.diff() > 0).all() and len(ids) <= 40 + 60 + 8
    dense = hashed(sparse=False)
    dense.load_state_dict(loss.state_dict())
    dense(x, y).backward()
    assert_close(dense.weight.grad, gradient.to_dense())


def test_sparse_gradients_can_be_differentiated_again():
    loss = hashed()
    x, y = some_batch()
    x.requires_grad_()
    value = loss(x, y)
    (first,) = torch.autograd.grad(value, x, create_graph=True)
    second = torch.autograd.grad(first.square().sum(), loss.weight)[0]
    assert second.to_dense().abs().sum() > 0


def test_in_eval_mode_the_loss_is_exact():
    loss = hashed().eval()
    x, y = some_batch()
    assert_close(loss(x, y), exact(loss, x, y))


def test_ignored_labels_and_more_dimensions():
    loss = hashed().eval()
    x, y = some_batch(rows=12)
    y[::3] = -100
    shaped = loss(x.view(3, 4, FEATURES), y.view(3, 4))
    assert_close(shaped, nn.functional.cross_entropy(x @ loss.weight.T + loss.bias, y))


def test_the_same_seed_gives_the_same_training_and_another_seed_another():
    def train(seed):
        loss = hashed(hashing=Hashing(seed=seed, refresh_every=2))
        optimizer = LazyAdam(loss.parameters(), lr=0.01)
        optimizer.watch(loss)
        values = []
        for step in range(12):
            optimizer.zero_grad()
            value = loss(*some_batch(seed=step))
            value.backward()
            optimizer.step()
            values.append(value.item())
        return values

    assert train(3) == train(3)
    assert train(3) != train(4)


def clusters(classes=2000, features=24, groups=40):
    source = torch.Generator().manual_seed(5)
    centres = torch.randn(groups, features, generator=source)
    return centres, torch.arange(classes) % groups


def test_training_by_hashing_reaches_what_the_full_softmax_reaches():
    centres, group = clusters()

    def train(loss, optimizer):
        source = torch.Generator().manual_seed(6)
        for _ in range(300):
            y = torch.randint(2000, (64,), generator=source)
            x = centres[group[y]] + 0.3 * torch.randn(64, 24, generator=source)
            optimizer.zero_grad()
            loss(x, y).backward()
            optimizer.step()
        loss.eval()
        y = torch.arange(2000)
        with torch.no_grad():
            return float(loss(centres[group], y))

    torch.manual_seed(0)
    mine = LSHSoftmaxLoss(24, 2000, active=200, tail=300, when="hashed")
    full = LSHSoftmaxLoss(24, 2000, when="dense")
    full.load_state_dict(mine.state_dict())
    lazy = LazyAdam(mine.parameters(), lr=0.01)
    lazy.watch(mine)
    reached, wanted = train(mine, lazy), train(full, torch.optim.Adam(full.parameters(), lr=0.01))
    assert math.log(50) - 0.1 < wanted < 5  # 50 classes a group: nothing better than their logarithm can be had
    assert reached < wanted + 0.15


def test_tables_take_a_quarter_of_the_weights_at_most():
    for classes in (1000, 12_824, 54_542, 670_091, 1_000_000):
        for features in (64, 128, 256):
            for family in ("sim", "wta"):
                size = sizes_for(Hashing(family=family), classes, features)
                assert size.bytes <= 0.25 * 4 * classes * features, (classes, features, family, size)
                assert size.buckets * size.capacity >= classes
    loss = hashed(classes=20_000, features=64)
    loss(*some_batch(classes=20_000, features=64))
    assert loss.extra_bytes <= 0.28 * loss.weight.numel() * 4  # with the scratch of four bytes a class


def test_weights_load_into_a_plain_layer_and_back():
    loss = hashed()
    plain = nn.Linear(FEATURES, CLASSES)
    plain.load_state_dict(loss.state_dict())
    x, y = some_batch()
    loss(x, y)
    tables = loss.index
    other = nn.Linear(FEATURES, CLASSES)
    loss.load_state_dict(other.state_dict())
    assert loss.index is None and tables is not None  # tables of the old weights are gone
    shared = LSHSoftmaxLoss.from_linear(plain, active=10, tail=10, when="hashed")
    assert shared.weight is plain.weight and shared.bias is plain.bias
    shared(x, y).backward()
    assert plain.weight.grad is not None
    assert LSHSoftmaxLoss.from_linear(nn.Linear(4, 9, bias=False)).bias is None


def test_resumed_training_goes_on_bit_for_bit(tmp_path):
    def steps(loss, optimizer, first, last):
        values = []
        for step in range(first, last):
            optimizer.zero_grad()
            value = loss(*some_batch(seed=step))
            value.backward()
            optimizer.step()
            values.append(value.item())
        return values

    loss = hashed(hashing=Hashing(refresh_every=3, rebuild_first=5))
    optimizer = LazyAdam(loss.parameters(), lr=0.01)
    steps(loss, optimizer, 0, 7)
    saved = {"model": loss.state_dict(), "index": loss.index_state(), "optimizer": optimizer.state_dict()}
    torch.save(saved, tmp_path / "run.pt")
    went_on = steps(loss, optimizer, 7, 20)
    state = torch.load(tmp_path / "run.pt", weights_only=True)
    again = hashed(hashing=Hashing(refresh_every=3, rebuild_first=5))
    again.load_state_dict(state["model"])
    again.load_index_state(state["index"])
    resumed = LazyAdam(again.parameters(), lr=0.01)
    resumed.load_state_dict(state["optimizer"])
    assert steps(again, resumed, 7, 20) == went_on


def test_tables_of_another_layer_or_damaged_ones_are_refused_and_change_nothing():
    loss = hashed()
    loss(*some_batch())
    before, state = loss.index, loss.index_state()
    others = [hashed(classes=CLASSES + 1), hashed(features=FEATURES + 1), hashed(hashing=Hashing(seed=1)),
              hashed(hashing=Hashing(family="wta"))]  # fmt: skip
    for other in others:
        with pytest.raises(CheckpointError, match="the tables are of another layer"):
            other.load_index_state(state)
        assert other.index is None
    for damage in ("slots", "sizes", "codes", "mean"):
        for change in (lambda t: t[:0], lambda t: t.double() if t.dtype == torch.int32 else t[:0], lambda t: t + 10**6):
            broken = copy.deepcopy(state)
            broken["tables"][damage] = change(broken["tables"][damage])
            if damage == "mean" and broken["tables"][damage].shape == state["tables"][damage].shape:
                continue  # another centre is still a centre
            with pytest.raises(CheckpointError, match="the tables' state is damaged"):
                loss.load_index_state(broken)
            assert loss.index is before
    with pytest.raises(CheckpointError, match="damaged"):
        loss.load_index_state({"classes": CLASSES})


def test_a_crash_in_the_middle_of_a_rebuild_leaves_whole_tables(monkeypatch):
    loss = hashed()
    x, y = some_batch()
    loss(x, y)
    whole = loss.index.tables
    monkeypatch.setattr(index_module, "CHUNK", 100)
    calls = []

    def crash(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(index_module, "table_update", crash)
        with pytest.raises(KeyboardInterrupt):
            loss.rebuild()
    assert loss.index.tables is whole and loss.index.rebuilds == 1
    loss(x, y)
    loss.rebuild()
    assert loss.index.rebuilds == 2
    assert torch.equal(loss.index.tables.codes, whole.codes)


def test_the_rebuild_schedule_backs_off():
    loss = hashed(hashing=Hashing(rebuild_first=4, rebuild_growth=2.0, drift=1.0))
    at = []
    for step in range(40):
        before = loss.index.rebuilds if loss.index else 0
        loss(*some_batch(seed=step))
        if loss.index.rebuilds > before:
            at.append(step)
    assert at == [0, 4, 12, 28]


def test_drift_is_measured_and_mended():
    loss = hashed(active=2, tail=2, hashing=Hashing(drift=0.3))
    x, y = some_batch()
    loss(x, y)
    assert loss.index.drift(loss.weight, loss.bias, 1) == 0
    with torch.no_grad():
        loss.weight.copy_(torch.randn(loss.weight.shape))
    assert loss.index.drift(loss.weight, loss.bias, 1) > 0.5
    for step in range(70):
        loss(*some_batch(rows=1, seed=step))
    assert loss.index.rebuilds == 2 and loss.index.drift(loss.weight, loss.bias, 1) == 0


def test_rows_that_changed_are_moved_to_their_new_buckets():
    loss = hashed(hashing=Hashing(refresh_every=1, drift=1.0))
    x, y = some_batch()
    loss(x, y)
    with torch.no_grad():
        loss.weight[y] = torch.randn(len(y), FEATURES) * loss.weight.norm(dim=1).mean() / 4
    loss(x, y)
    tables = loss.index.tables
    fresh = tables.family.class_codes(index_module.augment_classes(loss.weight[y], loss.bias[y], tables.centre))
    assert torch.equal(tables.codes[:, y].T, fresh)


def test_copies_and_pickles_work_on_their_own():
    loss = hashed()
    optimizer = LazyAdam(loss.parameters())
    optimizer.watch(loss)
    x, y = some_batch()
    loss(x, y)
    for other in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert not other.readers and loss.readers
        assert_close(other(x, y), copy.deepcopy(loss)(x, y))


@pytest.mark.parametrize("loss_name", ["softmax", "bce"])
def test_multi_label_losses_are_the_exact_ones_with_every_class_chosen(loss_name):
    torch.manual_seed(0)
    loss = LSHMultiLabelLoss(FEATURES, 80, loss=loss_name, active=80, tail=80, when="hashed", sparse=False)
    x = torch.randn(4, FEATURES, requires_grad=True)
    labels, offsets = torch.tensor([3, 9, 70, 9, 0]), torch.tensor([0, 3, 3, 4, 5])
    scores = nn.functional.linear(x, loss.weight, loss.bias)
    many = torch.zeros(4, 80)
    many[[0, 0, 0, 2, 3], labels] = 1
    if loss_name == "bce":
        wanted = nn.functional.binary_cross_entropy_with_logits(scores, many, reduction="none").sum(1).mean()
    else:
        share = many / many.sum(1, keepdim=True).clamp(min=1)
        wanted = -(scores.log_softmax(1) * share).sum() / 3  # the row without a label has no loss
    mine = loss(x, labels, offsets)
    assert_close(mine, wanted)
    assert_close(loss.eval()(x, labels, offsets), wanted)
    gradients = [torch.autograd.grad(value, [x, loss.weight]) for value in (mine, wanted)]
    for a, b in zip(*gradients, strict=True):
        assert_close(a, b)


def test_the_logistic_loss_is_estimated_without_bias():
    torch.manual_seed(0)
    loss = LSHMultiLabelLoss(FEATURES, CLASSES, loss="bce", active=30, tail=30, when="hashed")
    x, labels, offsets = torch.randn(2, FEATURES), torch.tensor([1, 2, 5]), torch.tensor([0, 2, 3])
    with torch.no_grad():
        loss.weight *= 6
        values = torch.stack([loss(x, labels, offsets) for _ in range(1500)]).double()
        wanted = loss.eval()(x, labels, offsets).double()
    assert abs(values.mean() - wanted) < 5 * values.std() / math.sqrt(len(values))


@pytest.mark.parametrize("distribution", ["uniform", "log-uniform", "given"])
def test_sampled_softmax_estimates_the_sum_without_bias(distribution):
    torch.manual_seed(0)
    q = torch.rand(50) if distribution == "given" else distribution
    loss = SampledSoftmaxLoss(FEATURES, 50, samples=30, distribution=q)
    x, y = some_batch(rows=3, classes=50)
    scores = (x @ loss.weight.T + loss.bias).double()
    with torch.no_grad():
        picked = scores.gather(1, y.unsqueeze(1)).squeeze(1)
        one = [(x[i : i + 1], y[i : i + 1], picked[i]) for i in range(3)]
        sums = torch.stack([(loss(a, label) + score).exp() for a, label, score in one for _ in range(2000)])
    total = torch.logsumexp(scores, 1).exp()
    sums = sums.view(3, 2000)
    assert ((sums.mean(1) - total).abs() < 5 * sums.std(1) / math.sqrt(2000)).all()
    assert_close(loss.eval()(x, y), exact(loss, x, y))
    assert torch.equal(loss.topk(x, 3)[1], scores.topk(3).indices)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda loss, x, y: loss(x, y + CLASSES), "expected 0 to 599 \\(600 classes\\)"),
        (lambda loss, x, y: loss(x, y - CLASSES), "a label is -"),
        (lambda loss, x, y: loss(x, y.float()), "labels must be whole numbers"),
        (lambda loss, x, y: loss(x[:, :-1], y), "do not fit"),
        (lambda loss, x, y: loss(x[:-1], y), "do not fit"),
        (lambda loss, x, y: loss(x, torch.full_like(y, -100)), "the batch has no label"),
        (lambda loss, x, y: loss(x[:0], y[:0]), "the batch has no label"),
        (lambda loss, x, y: loss.topk(x, 0), "k must be from 1 to the 600 classes"),
        (lambda loss, x, y: loss.topk(x, CLASSES + 1), "k must be from 1"),
    ],
)
def test_bad_batches_are_refused_and_leave_everything_as_it_was(call, message):
    loss = hashed()
    x, y = some_batch()
    loss(x, y)
    before = loss.index_state()
    with pytest.raises(UsageError, match=message):
        call(loss, x, y)
    after = loss.index_state()
    assert before["step"] == after["step"] and torch.equal(before["tables"]["codes"], after["tables"]["codes"])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_none_are_refused(value):
    loss = hashed()
    x, y = some_batch()
    loss(x, y)
    x[3, 2] = value
    with pytest.raises(NonFiniteError, match="a hash input holds NaN or infinity"):
        loss(x, y)
    tables = loss.index.tables
    with torch.no_grad():
        loss.weight[7, 1] = value
    with pytest.raises(NonFiniteError, match="a class has a weight that is NaN or infinite"):
        loss.rebuild()
    assert loss.index.tables is tables


def test_fewer_classes_than_the_active_set_and_empty_rows():
    loss = LSHSoftmaxLoss(4, 3, active=50, tail=50, when="hashed")
    x, y = torch.zeros(5, 4), torch.tensor([0, 1, 2, 1, 0])  # rows of zeros have a bucket like others
    assert_close(loss(x, y), exact(loss, x, y))
    assert loss.last.head + loss.last.tail == 3
    one = LSHSoftmaxLoss(4, 1, when="hashed")
    assert one(x, torch.zeros(5, dtype=torch.long)).item() == 0


def test_narrow_layers_stay_dense_by_themselves_and_say_so_when_forced():
    x, y = some_batch()
    loss = LSHSoftmaxLoss(FEATURES, CLASSES)
    assert_close(loss(x, y), exact(loss, x, y))
    assert loss.index is None and loss.last.tail == 0
    with pytest.warns(SlowerThanDenseWarning, match="when='auto' takes the faster one"):
        hashed()(x, y)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: LSHSoftmaxLoss(0, 5), "at least one feature"),
        (lambda: LSHSoftmaxLoss(5, 5, active=-1), "from 0 on"),
        (lambda: LSHSoftmaxLoss(5, 5, when="never"), "choose one of auto, hashed, dense"),
        (lambda: LSHMultiLabelLoss(5, 5, loss="hinge"), "choose one of softmax, bce"),
        (lambda: SampledSoftmaxLoss(5, 5, samples=0), "at least 1"),
        (lambda: SampledSoftmaxLoss(5, 5, distribution="zipf"), "choose one of uniform, log-uniform"),
        (lambda: SampledSoftmaxLoss(5, 5, distribution=torch.zeros(5)), "not all 0"),
        (lambda: Hashing(family="magic"), "choose one of sim"),
        (lambda: Hashing(family="wta", probes=2), "no neighbours to probe"),
        (lambda: Hashing(bits=25), "at most 24"),
        (lambda: Hashing(tables=0), "at least 1 or None"),
        (lambda: Hashing(replace="random"), "choose one of reservoir, fifo"),
        (lambda: Hashing(seed=-1), "seed must be from 0"),
    ],
)
def test_settings_that_cannot_be_meant(make, message):
    with pytest.raises(UsageError, match=message):
        make()


def test_multi_label_input_is_checked():
    loss = LSHMultiLabelLoss(4, 9)
    x = torch.randn(2, 4)
    wrong = [([9], [0, 1, 1]), ([-1], [0, 1, 1]), ([1], [0, 1]), ([1], [0, 0, 2]), ([1, 2], [0, 3, 2]), ([], [0, 0, 0])]
    for labels, offsets in wrong:
        with pytest.raises(UsageError):
            loss(x, torch.tensor(labels, dtype=torch.long), torch.tensor(offsets))


def test_topk_is_exact_where_candidates_suffice_and_falls_back_where_not():
    centres, group = clusters()
    loss = LSHSoftmaxLoss(24, 2000, when="hashed", hashing=Hashing(tables=12)).eval()
    with torch.no_grad():
        loss.weight.copy_(centres[group] + 0.3 * torch.randn(2000, 24))
    x = centres[:20]
    values, ids = loss.topk(x, 10, probes=16)
    wanted_values, wanted = loss.topk(x, 10, exact=True)
    shared = [len(set(a) & set(b)) for a, b in zip(ids.tolist(), wanted.tolist(), strict=True)]
    assert sum(shared) / 200 > 0.9
    assert_close(values, torch.gather(loss.scores(x).detach(), 1, ids))
    every_values, every = loss.topk(x.view(4, 5, 24), 2000)  # more than any bucket holds: answered exactly
    assert torch.equal(every.view(20, 2000)[:, :10], wanted)
    assert_close(every_values.view(20, 2000)[:, :10], wanted_values)


def test_any_number_of_rows_can_be_trained_on_and_asked_for():
    """A predecessor read a fixed number of batches of the test file, and crashed on a shorter one."""
    loss = hashed()
    for rows in (1, 2, 50, 333):
        loss(*some_batch(rows=rows))
        assert loss.topk(some_batch(rows=rows)[0], 3)[1].shape == (rows, 3)
