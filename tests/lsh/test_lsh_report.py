"""hash_report: its figures against those worked out the slow way, and what it refuses."""

import pytest
import torch
from torch import nn

import thrifty
from thrifty.core.errors import NonFiniteError, UsageError
from thrifty.lsh import LSH, Hashing, LazyAdam, LSHMultiLabelLoss, LSHSoftmaxLoss, SampledSoftmaxLoss, hash_report

pytestmark = pytest.mark.filterwarnings("ignore::thrifty.lsh.SlowerThanDenseWarning")
CLASSES, FEATURES = 3000, 16


def clustered(seed=0):
    source = torch.Generator().manual_seed(seed)
    centres = torch.randn(60, FEATURES, generator=source)
    weight = centres[torch.arange(CLASSES) % 60] + 0.3 * torch.randn(CLASSES, FEATURES, generator=source)
    return weight, centres[torch.randint(60, (40,), generator=source)] + 0.1


def head(**settings):
    given = {"active": 300, "tail": 100, "hashing": Hashing(tables=8), **settings}
    loss = LSHSoftmaxLoss(FEATURES, CLASSES, when="hashed", **given)
    weight, x = clustered()
    with torch.no_grad():
        loss.weight.copy_(weight)
    return loss, x


def test_recall_and_load_are_those_of_a_count_by_hand():
    loss, x = head()
    found = hash_report(loss, x, k=5)
    scores = nn.functional.linear(x, loss.weight, loss.bias)
    best = scores.topk(5).indices
    index = loss.index
    chosen = index.active(index.query_codes(x), torch.zeros(0, dtype=torch.int64), 300, 100, 0)
    by_hand = sum(i in set(chosen.ids.tolist()) for i in best.flatten().tolist()) / best.numel()
    assert found.recall == pytest.approx(by_hand) and 0.1 < by_hand < 1
    assert found.active_fraction == pytest.approx(400 / CLASSES)
    searched = zip(loss.topk(x, 5)[1].tolist(), best.tolist(), strict=True)
    assert found.search_recall == pytest.approx(
        sum(i in theirs for mine, theirs in searched for i in mine) / best.numel()
    )
    load = [min(int(n), index.size.capacity) for n in index.tables.sizes.flatten()]
    filled = [n for n in load if n]
    assert found.bucket_max == max(load) and found.bucket_mean == pytest.approx(sum(filled) / len(filled))
    assert found.bucket_empty == pytest.approx(1 - len(filled) / len(load))
    assert found.bucket_full == pytest.approx(sum(n == index.size.capacity for n in load) / len(load))
    assert found.weight_bytes == CLASSES * FEATURES * 4 and found.table_bytes > 0 and found.rebuilds == 1


def test_more_classes_find_more_of_the_best():
    recalls = [hash_report(head(active=active)[0], head()[1]).recall for active in (50, 400, 3000)]
    assert recalls[0] < recalls[1] < recalls[2]


def test_time_is_shared_out_among_the_parts_of_training():
    loss, x = head(hashing=Hashing(tables=8, refresh_every=2))
    assert hash_report(loss, x).time_shares.keys() == {"hashing", "rebuild", "products", "optimizer"}  # it was built
    optimizer = LazyAdam(loss.parameters())
    optimizer.watch(loss)
    for step in range(4):
        optimizer.zero_grad()
        loss(x.clone().requires_grad_(), torch.full((len(x),), step)).backward()
        optimizer.step()
    found = hash_report(loss, x)
    assert {"hash", "query", "gather", "gemm", "backward", "refresh", "rebuild", "optimizer"} <= set(found.seconds)
    assert all(seconds > 0 for seconds in found.seconds.values())
    shares = found.time_shares
    assert sum(shares.values()) == pytest.approx(1) and min(shares.values()) > 0
    assert found.to_dict()["time_shares"] == shares
    told = str(found)
    assert "classes active" in told and "buckets hold" in told and "optimizer" in told and len(told.splitlines()) == 4


def test_sampled_and_multi_label_losses_book_their_backward_pass_too():
    x = torch.randn(4, 8)
    sampled = SampledSoftmaxLoss(8, 50, samples=10)
    sampled(x, torch.arange(4)).backward()
    many = LSHMultiLabelLoss(8, 500, active=50, tail=50, when="hashed")
    many(x, torch.arange(4), torch.arange(5)).backward()
    assert sampled.stages["backward"] > 0 and many.stages["backward"] > 0


@pytest.mark.parametrize("mode", ["each", "shared"])
def test_hidden_layers_have_one_as_well(mode):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(FEATURES, 400), nn.ReLU(), nn.Linear(400, 3))
    thrifty.apply_(model, [LSH(layers=("0",), active=0.2, mode=mode, force=True)])
    x = torch.randn(5, 4, FEATURES)
    found = hash_report(model[0], x, k=20)
    assert found.search_recall is None and 0 < found.recall <= 1 and 0 < found.active_fraction <= 0.2
    computed = model[0](x.view(20, FEATURES)) != 0
    assert found.active_fraction == pytest.approx(float(computed.float().mean()), abs=1e-6)
    best = nn.functional.linear(x.view(20, FEATURES), model[0].weight, model[0].bias).topk(20).indices
    assert found.recall == pytest.approx(float(computed.gather(1, best).float().mean()))
    assert "by a search" not in str(found) and "group" in hash_report(model[0], x).seconds


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda loss, x: hash_report(nn.Linear(3, 4), x), UsageError, "takes a hashed layer, got Linear"),
        (lambda loss, x: hash_report(LSHSoftmaxLoss(FEATURES, 9, when="dense"), x), UsageError, "without tables"),
        (lambda loss, x: hash_report(loss, x[:, :-1]), UsageError, "expected \\(..., 16\\)"),
        (lambda loss, x: hash_report(loss, x[:0]), UsageError, "one at least"),
        (lambda loss, x: hash_report(loss, x, k=0), UsageError, "from 1 to the 3000 classes"),
        (lambda loss, x: hash_report(loss, x / 0), NonFiniteError, "NaN or infinity"),
    ],
)
def test_what_cannot_be_meant_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call(*head())
