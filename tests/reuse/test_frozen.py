"""Frozen models: near the stock one, chosen layer by layer, the same after export, and refused in plain words."""

import itertools
import threading
import time
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.testing import assert_close

import thrifty.models
from thrifty._load_native import native
from thrifty.core.errors import CheckpointError, ModelError, UsageError
from thrifty.reuse import FrozenConv2d, Setting, frozen_report, frozen_trial, load_frozen, save_frozen
from thrifty.reuse.frozen import freeze as freeze_in
from thrifty.reuse.frozen_chains import Chain, find_chains, fold_norms
from thrifty.reuse.frozen_exact import ExactConv2d
from thrifty.reuse.frozen_fit import fit, watch
from thrifty.reuse.frozen_levels import fit_levels, quantised, table_of

FINE = (Setting(1, 6),)
freeze = partial(freeze_in, dtype=torch.float32)  # whatever is faster on the machine of the test


class Net(nn.Module):
    """Two blocks and a head; whatever the machine, lookups of so few channels are never certain to be faster."""

    def __init__(self, classes=5):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(16, 24, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.head = nn.Linear(24, classes)

    def forward(self, x):
        return self.head(self.second(self.first(x)).mean((2, 3)))


def make(seed=0):
    torch.manual_seed(seed)
    model = Net()
    model.first[1].running_mean.normal_()
    model.first[1].running_var.uniform_(0.5, 2)
    return model.eval(), [torch.randn(8, 3, 10, 9) for _ in range(4)]


@pytest.fixture
def slow_dense(monkeypatch):
    """Let every lookup win the race, so that what is chosen hangs on errors alone."""
    monkeypatch.setattr("thrifty.reuse.frozen_trial.race", lambda models, batch, **how: (2.0, 1.0))


def frozen_layers(model):
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, FrozenConv2d)}


@pytest.mark.parametrize("length, bits", [(1, 1), (1, 4), (2, 3), (3, 2), (8, 1)])
@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(
    "conv, pool",
    [
        (lambda: nn.Conv2d(10, 12, 3, padding=1), None),
        (lambda: nn.Conv2d(10, 33, (2, 3), (2, 1), (0, 2), bias=False), nn.MaxPool2d(2)),
        (lambda: nn.Conv2d(10, 5, 3, dilation=2, padding="same"), nn.MaxPool2d(3, 2, 1)),
        (lambda: nn.Conv2d(10, 5, 1, padding="valid"), nn.MaxPool2d((1, 2))),
    ],
)
def test_a_frozen_layer_is_the_stock_one_on_the_levels_of_its_input(conv, pool, length, bits, skip, relu):
    torch.manual_seed(0)
    stock = conv()
    x = torch.randn(3, 10, 9, 8).relu()
    seen = watch(nn.Sequential(stock), [Chain("0")], [x])["0"]
    layer = fit(stock, seen, Setting(length, bits, skip), relu=relu, pool=pool)
    rows = x.permute(0, 2, 3, 1).reshape(-1, 10)
    x_levels = quantised(rows, fit_levels(seen.rows_PC, bits)).view(3, 9, 8, 10).permute(0, 3, 1, 2)
    y = stock(x_levels)
    y = y.relu() if relu else y
    y = y if pool is None else pool(y)
    assert_close(layer(x), y, rtol=1e-3, atol=4e-3)  # a row is rounded to 1 / 32767 of the largest sum
    assert_close(layer(x[0]), layer(x)[0], rtol=0, atol=0)
    assert layer(x.bfloat16()).dtype == torch.bfloat16


def test_more_bits_are_nearer():
    torch.manual_seed(0)
    x = torch.randn(4000, 3).relu()
    errors = [float((quantised(x, fit_levels(x, bits)) - x).square().mean()) for bits in range(1, 8)]
    assert all(fine < coarse / 2 for coarse, fine in itertools.pairwise(errors))


@pytest.mark.parametrize(
    "sample", [torch.zeros(5, 2), torch.full((5, 2), 3.0), torch.full((5, 2), -3.0), torch.tensor([[1.0, -2.0]])]
)
def test_levels_of_next_to_nothing(sample):
    levels = fit_levels(sample, 3)
    assert levels.thresholds.diff(dim=0).ge(0).all() and levels.values.isfinite().all()
    assert_close(quantised(sample, levels), sample)


def test_level_zero_is_exactly_zero_behind_a_relu():
    levels = fit_levels(torch.randn(100, 4).relu(), 2)
    assert levels.zero and (levels.values[0] == 0).all() and (levels.thresholds[0] >= 0).all()
    assert not fit_levels(torch.randn(100, 4), 2).zero


def test_the_table_holds_products_of_levels_and_weights():
    weight, values = torch.randn(4, 3, 2), torch.randn(4, 3)
    table = table_of(weight, values, 2)
    assert table.shape == (2, 2, 16, 4)
    for code in range(16):
        low, high = values[code % 4], values[code // 4]
        assert_close(table[1, 0, code], weight[:, 0, 1] * low[0] + weight[:, 1, 1] * high[1])
        assert_close(table[1, 1, code], weight[:, 2, 1] * low[2])


def test_chains_are_followed_and_norms_folded():
    model, batches = make()
    chains = find_chains(model)
    assert chains == [
        Chain("first.0", norm="first.1", relu="first.2"), Chain("second.0", relu="second.1", pool="second.2"),
    ]  # fmt: skip
    before = model(batches[0])
    fold_norms(model, chains)
    assert isinstance(model.first[1], nn.Identity)
    assert_close(model(batches[0]), before, rtol=1e-4, atol=1e-5)


def test_layers_that_others_read_too_are_not_taken_over():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.twice, self.relu = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.ReLU()

        def forward(self, x):
            y = self.conv(x)
            return self.relu(y) + self.relu(self.twice(self.twice(y)))

    assert find_chains(Shared()) == [Chain("conv")]


def test_a_model_that_cannot_be_traced_keeps_its_layers_apart(slow_dense):
    class Branching(Net):
        def forward(self, x):
            return super().forward(x) if x.sum() < 1e9 else x

    torch.manual_seed(0)
    model, batches = Branching().eval(), make()[1]
    frozen = freeze(model, batches, settings=FINE, max_loss=0.5)
    assert set(frozen_layers(frozen)) == {"first.0", "second.0"} and isinstance(frozen.first[1], nn.BatchNorm2d)
    assert_close(frozen(batches[0]), model(batches[0]), rtol=0.05, atol=0.05)


def test_a_frozen_model_is_near_the_stock_one_and_leaves_it_alone(slow_dense):
    model, batches = make()
    model.train()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    frozen = freeze(model, batches, settings=FINE, max_loss=0.05)
    assert model.training and not frozen.training
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert set(frozen_layers(frozen)) == {"first.0", "second.0"}
    assert not any(isinstance(layer, nn.Conv2d | nn.BatchNorm2d | nn.ReLU | nn.MaxPool2d) for layer in frozen.modules())
    y, expected = frozen(batches[1]), model.eval()(batches[1])
    assert (y - expected).square().mean() < 0.005 * expected.var()
    report = frozen_report(frozen)
    assert [row.layer for row in report.layers] == ["first.0", "second.0"] and 0 <= report.expected_loss <= 0.05
    assert all(row.setting == "L=1 B=6" and row.table_bytes > 0 and 0 < row.error < 0.01 for row in report.layers)


def test_no_loss_allowed_keeps_every_answer(slow_dense):
    model, batches = make()
    coarse = (Setting(2, 1), Setting(1, 2), *FINE)
    frozen = freeze(model, batches, settings=coarse, max_loss=0.0)
    judged = torch.cat(batches[1::2])
    assert torch.equal(frozen(judged).argmax(1), model(judged).argmax(1))
    assert frozen_report(frozen).expected_loss == 0


def test_a_layer_whose_every_setting_is_too_coarse_stays_stock(slow_dense, monkeypatch):
    monkeypatch.setattr("thrifty.reuse.frozen.BOUNDS", (1e-6,))
    monkeypatch.setattr("thrifty.reuse.frozen_trial.native", None)  # nor are the exact ways there
    model, batches = make()
    frozen = freeze(model, batches, settings=(Setting(1, 1),), max_loss=0.5)
    assert not frozen_layers(frozen)
    assert {row.reason for row in frozen_report(frozen).layers} == {"no setting is exact enough"}
    assert_close(frozen(batches[0]), model(batches[0]), rtol=1e-4, atol=1e-5)


def test_the_fastest_setting_within_the_bound_is_chosen_for_each_layer(monkeypatch):
    model, batches = make()
    prefers = {16: Setting(1, 5), 24: Setting(1, 7)}

    def race(models, batch, **how):
        layer = models[1]
        if not isinstance(layer, FrozenConv2d):
            return 2.0, 1.0
        wanted = prefers[layer.scale.shape[0]]
        return 2.0, 0.5 if (layer.length, layer.bits) == (wanted.length, wanted.bits) else 1.0

    monkeypatch.setattr("thrifty.reuse.frozen_trial.race", race)
    frozen = freeze(model, batches, settings=(Setting(1, 5), Setting(1, 6), Setting(1, 7)), max_loss=0.5)
    assert [row.setting for row in frozen_report(frozen).layers] == ["L=1 B=5", "L=1 B=7"]


def test_nothing_is_frozen_where_nothing_is_faster(monkeypatch):
    model, batches = make()
    monkeypatch.setattr("thrifty.reuse.frozen_trial.race", lambda models, batch, **how: (1.0, 2.0))
    frozen = freeze(model, batches)
    assert not frozen_layers(frozen)
    assert {row.reason for row in frozen_report(frozen).layers} == {"no setting is faster"}


def test_a_whole_that_is_slower_than_dense_falls_back_to_dense(monkeypatch):
    model, batches = make()
    monkeypatch.setattr(
        "thrifty.reuse.frozen_trial.race",
        lambda models, batch, **how: (2.0, 1.0) if isinstance(models[1], FrozenConv2d) else (1.0, 2.0),
    )
    frozen = freeze(model, batches, settings=FINE, max_loss=0.5)
    assert not frozen_layers(frozen) and frozen_report(frozen).frozen_s == 1.0


@pytest.mark.parametrize("images, size", [(1, (10, 9)), (3, (10, 9)), (5, (17, 6)), (0, (10, 9))])
def test_other_batch_and_image_sizes(slow_dense, images, size):
    model, batches = make()
    frozen = freeze(model, batches, settings=FINE, max_loss=0.05)
    x = torch.randn(images, 3, *size)
    assert_close(frozen(x), model(x), rtol=0.2, atol=0.1)


def test_an_image_with_nan_is_told_by_nan_and_the_others_are_not_touched(slow_dense):
    model, batches = make()
    frozen = freeze(model, batches, settings=FINE, max_loss=0.05)
    x = batches[0].clone()
    x[3, 1, 2, 2] = torch.nan
    y = frozen(x)
    assert y[3].isnan().all()
    others = [0, 1, 2, 4, 5, 6, 7]
    assert_close(y[others], frozen(batches[0])[others])


def test_threads_may_call_one_model_at_once(slow_dense):
    model, batches = make()
    frozen = freeze(model, batches, settings=FINE, max_loss=0.05)
    expected = [frozen(batch) for batch in batches]
    got = {}

    def call(i):
        got[i] = [frozen(batches[i % 4]) for _ in range(10)]

    threads = [threading.Thread(target=call, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(y, expected[i % 4]) for i in range(8) for y in got[i])


def test_a_frozen_layer_refuses_gradients_and_wrong_inputs(slow_dense):
    model, batches = make()
    layer = frozen_layers(freeze(model, batches, settings=FINE, max_loss=0.05))["second.0"]
    with pytest.raises(ModelError, match="no gradient"):
        layer(torch.randn(1, 16, 8, 8, requires_grad=True))
    with torch.no_grad():
        layer(torch.randn(1, 16, 8, 8, requires_grad=True))
    with pytest.raises(ModelError, match="of 16 channels got an input of"):
        layer(torch.randn(1, 15, 8, 8))
    with pytest.raises(ModelError, match="floating-point"):
        layer(torch.ones(1, 16, 8, 8, dtype=torch.int64))
    with pytest.raises(ModelError, match="too small"):
        layer(torch.randn(1, 16, 1, 1))


@pytest.mark.parametrize(
    "batches, message",
    [
        ([], "at least 2"), ([torch.randn(1, 3, 10, 9)], "at least 2"), (["images"], "got str"),
        ([torch.ones(4, 3, 10, 9, dtype=torch.uint8)], "got torch.uint8"),
        ([torch.randn(3, 10, 9)] * 2, "float images"), ([torch.full((4, 3, 10, 9), torch.nan)], "NaN or infinity"),
    ],
)  # fmt: skip
def test_calibration_batches_that_cannot_serve(batches, message):
    with pytest.raises(UsageError, match=message):
        freeze(make()[0], batches)


@pytest.mark.parametrize("loss", [-0.1, 1.5, float("nan")])
def test_a_max_loss_that_is_no_share(loss):
    with pytest.raises(UsageError, match="max_loss is"):
        freeze(*make(), max_loss=loss)


def test_models_without_logits_are_refused():
    with pytest.raises(ModelError, match="finite logits"):
        freeze(nn.Conv2d(3, 4, 3), make()[1])
    with pytest.raises(ModelError, match="was not made by"):
        frozen_report(nn.Linear(2, 2))


def test_convolutions_that_are_not_plain_stay_and_say_why(slow_dense):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, padding_mode="reflect"), nn.Conv2d(6, 6, 3, groups=2), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )  # fmt: skip
    frozen = freeze(model, make()[1])
    assert [row.reason for row in frozen_report(frozen).layers] == ["padding_mode reflect", "grouped convolution"]


@pytest.mark.skipif(native is None, reason="the native kernels are not built here")
def test_the_exact_ways_lose_nothing_and_travel(slow_dense, monkeypatch, tmp_path):
    monkeypatch.setattr("thrifty.reuse.frozen.BOUNDS", ())
    model, batches = make()
    frozen = freeze(model, batches, max_loss=0.0)
    exact = {name for name, layer in frozen.named_modules() if isinstance(layer, ExactConv2d)}
    assert exact == {"second.0"} and frozen_report(frozen).layers[1].setting == "exact, zeros skipped"
    for x in (batches[0], batches[0][:1], torch.randn(2, 3, 6, 21), torch.randn(0, 3, 10, 9)):
        assert_close(frozen(x), model(x), rtol=1e-4, atol=1e-5)
    save_frozen(frozen, tmp_path / "exact")
    again = load_frozen(tmp_path / "exact", make(seed=5)[0])
    assert torch.equal(again(batches[0]), frozen(batches[0]))


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("pool", [None, nn.MaxPool2d(3, 2, 1)])
def test_an_exact_layer_is_the_stock_layers_in_turn(skip, relu, pool):
    torch.manual_seed(0)
    conv, x = nn.Conv2d(6, 7, 3, padding=1), torch.randn(2, 6, 9, 8).relu()
    layer = ExactConv2d.of(conv, x, skip=skip, relu=relu, pool=pool)
    stock = nn.Sequential(conv, *([nn.ReLU()] if relu else []), *([pool] if pool else []))
    with torch.no_grad():
        assert_close(layer(x), stock(x), rtol=1e-5, atol=1e-5)
        assert_close(layer(x[0]), stock(x[0]), rtol=1e-5, atol=1e-5)
    for gradients in zip(
        *(torch.autograd.grad(each(x).square().sum(), conv.parameters()) for each in (layer, stock)), strict=True
    ):
        assert_close(*gradients, rtol=1e-4, atol=1e-4)


@pytest.fixture
def saved(slow_dense, tmp_path):
    model, batches = make()
    frozen = freeze(model, batches, settings=FINE, max_loss=0.05)
    path = tmp_path / "net.frozen"
    save_frozen(frozen, path)
    return frozen, path, batches[0]


def test_export_and_reload_give_the_same_answers(saved):
    frozen, path, x = saved
    stock = make(seed=7)[0]
    before = {key: value.clone() for key, value in stock.state_dict().items()}
    again = load_frozen(path, stock)
    assert torch.equal(again(x), frozen(x)) and not again.training
    assert frozen_report(again) == frozen_report(frozen)
    assert all(torch.equal(value, before[key]) for key, value in stock.state_dict().items())
    save_frozen(again, path)
    assert torch.equal(load_frozen(path, stock)(x), frozen(x))


def test_a_model_that_stayed_stock_travels_too(monkeypatch, tmp_path):
    model, batches = make()
    monkeypatch.setattr("thrifty.reuse.frozen_trial.race", lambda models, batch, **how: (1.0, 2.0))
    frozen = freeze(model, batches)
    save_frozen(frozen, tmp_path / "stock")
    assert torch.equal(load_frozen(tmp_path / "stock", make(seed=3)[0])(batches[0]), frozen(batches[0]))


@pytest.mark.parametrize("where", [0.02, 0.3, 0.6, 0.99])
def test_a_damaged_or_cut_file_is_refused_and_kept(saved, where):
    _, path, _ = saved
    whole = path.read_bytes()
    at = int(len(whole) * where)
    for bad in (whole[:at], whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :]):
        path.write_bytes(bad)
        try:
            again = load_frozen(path, make()[0])
        except CheckpointError as error:
            assert str(path) in str(error) and "\n" not in str(error)
        else:  # a byte that nothing reads, between the entries
            assert bad != whole[:at] and torch.equal(again(saved[2]), saved[0](saved[2]))
        assert path.read_bytes() == bad


def test_foreign_files_are_refused(tmp_path):
    stock = make()[0]
    with pytest.raises(CheckpointError, match="does not exist"):
        load_frozen(tmp_path / "none", stock)
    text = tmp_path / "text"
    text.write_text("hello")
    with pytest.raises(CheckpointError, match="damaged or no frozen model"):
        load_frozen(text, stock)
    weights = tmp_path / "weights"
    torch.save(stock.state_dict(), weights)
    with pytest.raises(CheckpointError, match="no frozen model of this version"):
        load_frozen(weights, stock)


def test_another_network_is_refused(saved):
    _, path, _ = saved
    for other in (nn.Linear(3, 4), Net(classes=6), nn.Sequential()):
        with pytest.raises(CheckpointError, match="does not fit this model"):
            load_frozen(path, other)


@pytest.mark.parametrize("key, value", [("length", 9), ("stride", [0.5, 1]), ("padding", [1]), ("in_channels", 17)])
def test_settings_that_do_not_belong_to_the_tensors_are_refused(saved, key, value):
    _, path, _ = saved
    content = torch.load(path, weights_only=True)
    content["layers"]["second.0"]["settings"][key] = value
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="does not fit this model"):
        load_frozen(path, make()[0])


def faster(dtype, by=2.0):
    """A race in which models of this dtype, and every lookup, win."""

    def race(models, batch, **how):
        second = models[1]
        wins = isinstance(second, FrozenConv2d) or any(p.dtype == dtype for p in second.parameters())
        return (by, 1.0) if wins else (1.0, by)

    return race


def test_what_is_not_looked_up_is_in_the_faster_dtype(monkeypatch, tmp_path):
    model, batches = make()
    for dtype in (torch.bfloat16, torch.float32):
        monkeypatch.setattr("thrifty.reuse.frozen_trial.race", faster(dtype))
        frozen = freeze_in(model, batches, settings=FINE, max_loss=0.3)
        assert {p.dtype for p in frozen.parameters()} == {dtype} and frozen_report(frozen).dtype in str(dtype)
        y, expected = frozen(batches[1]), model(batches[1])
        assert y.dtype == torch.float32 and (y - expected).square().mean() < 0.005 * expected.var()
        save_frozen(frozen, tmp_path / "net")
        again = load_frozen(tmp_path / "net", make(seed=9)[0])
        assert torch.equal(again(batches[0]), frozen(batches[0])) and frozen_report(again) == frozen_report(frozen)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_sixteen_bits_that_lose_too_much_are_not_taken(monkeypatch):
    model, batches = make()
    monkeypatch.setattr("thrifty.reuse.frozen_trial.race", faster(torch.bfloat16))
    monkeypatch.setattr("thrifty.reuse.frozen._expected_loss", lambda *args: 0.01)
    assert frozen_report(freeze_in(model, batches, settings=FINE, max_loss=0.009)).dtype == "float32"
    assert frozen_report(freeze_in(model, batches, settings=FINE, max_loss=0.01)).dtype == "bfloat16"
    assert frozen_report(freeze_in(model, batches, dtype=torch.bfloat16, max_loss=0.0)).dtype == "bfloat16"
    with pytest.raises(UsageError, match=r"dtype is torch\.float16"):
        freeze_in(model, batches, dtype=torch.float16)


@pytest.mark.skipif(native is None, reason="the native kernels are not built here")
def test_an_exact_layer_in_sixteen_bits_is_the_stock_layers_in_turn():
    torch.manual_seed(0)
    conv, x = nn.Conv2d(6, 7, 3, padding=1).bfloat16(), torch.randn(2, 6, 9, 8).bfloat16()
    pool = nn.MaxPool2d(3, 2, 1)
    layer = ExactConv2d.of(conv, x, skip=False, relu=True, pool=pool)
    with torch.no_grad():
        assert_close(layer(x), pool(conv(x).relu()), rtol=0, atol=0)


def test_finer_tables_of_a_way_that_is_slow_are_not_tried(monkeypatch):
    model, batches = make()
    tried = []

    def race(models, batch, **how):
        layer = models[1]
        if isinstance(layer, FrozenConv2d):
            tried.append((layer.scale.shape[0], layer.length, layer.bits))
            return (1.0, 2.0) if layer.length == 1 else (2.0, 1.0)
        return 1.0, 2.0

    monkeypatch.setattr("thrifty.reuse.frozen_trial.race", race)
    freeze(model, batches, settings=(Setting(1, 6), Setting(1, 4), Setting(2, 2), Setting(2, 3)))
    assert tried == [(16, 2, 2), (16, 2, 3), (16, 1, 4), (24, 2, 2), (24, 2, 3), (24, 1, 4)]


def test_a_hopeless_rival_runs_once():
    calls = []

    def slow(batch):
        calls.append("slow")
        time.sleep(0.02)

    dense_s, frozen_s = frozen_trial.race((lambda batch: calls.append("fast"), slow), torch.zeros(1), give_up=2.0)
    assert calls == ["fast", "slow"] and dense_s < 0.02 and frozen_s == float("inf")
    assert frozen_trial.race((slow, slow), torch.zeros(1), rounds=3)[1] >= 0.02 and len(calls) == 8


def test_a_network_of_the_papers_end_to_end(slow_dense):
    torch.manual_seed(0)
    model = thrifty.models.build("cifarnet-bn", num_classes=4, in_channels=3, image_size=(16, 16)).eval()
    batches = [functional.interpolate(torch.randn(6, 3, 4, 4), (16, 16), mode="bilinear") for _ in range(2)]
    frozen = freeze(model, batches, max_loss=0.01)
    assert set(frozen_layers(frozen)) == {"features.0", "features.4"}
    y, expected = frozen(batches[1]), model(batches[1])
    assert (y - expected).square().mean() < 0.05 * expected.var()
