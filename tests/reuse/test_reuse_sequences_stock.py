"""Off means identical, a state travels and resumes, and bad input gets the stock layer's answer or a clear refusal."""

import copy
import io
import pickle
import re

import pytest
import torch
from sequences import changed, fixed, flat
from torch import nn
from torch.nn.utils.rnn import pack_sequence

import thrifty
from thrifty.core.errors import CheckpointError, UsageError
from thrifty.reuse import Reuse, Stage

WAYS = {
    "exact": {"sequences": "exact"},
    "clusters": {"sequences": "clusters", "attention": "queries"},
    "all": {"sequences": "clusters", "recurrent": True, "attention": "keys"},
}


class Net(nn.Module):
    def __init__(self, dropout=0.1):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(5, 8)
        self.lstm = nn.LSTM(8, 8, batch_first=True)
        self.gru = nn.GRU(8, 8, bidirectional=True, batch_first=True)
        layer = nn.TransformerEncoderLayer(16, 2, 12, dropout, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head = nn.Linear(16, 3)

    def forward(self, tokens):
        rows = self.embedding(tokens)
        return self.head(self.encoder(self.gru(rows)[0] + self.lstm(rows)[0].repeat(1, 1, 2)).mean(1))


def train(model, applied=None, steps=4, seed=0, first=0):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for step in range(first, first + steps):
        source = torch.Generator().manual_seed(100 * seed + step)
        tokens, labels = torch.randint(5, (4, 7), generator=source), torch.randint(3, (4,), generator=source)
        torch.manual_seed(step)
        loss = nn.functional.cross_entropy(model(tokens), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if applied is not None:
            applied.step(loss)
        losses.append(loss.item())
    return losses


def test_the_default_leaves_them_dense():
    model = Net()
    with pytest.warns(thrifty.NoEffectWarning):
        applied = thrifty.apply_(model, [Reuse()])
    reasons = {report.kind: report.reason for report in applied.layers}
    assert "sequences='exact'" in reasons["LSTM"] and "sequences='exact'" in reasons["GRU"]
    assert "attention='queries'" in reasons["MultiheadAttention"]
    assert train(model) == train(Net())


@pytest.mark.parametrize("way", [way for way in WAYS if way != "exact"])
def test_the_dense_stage_and_eval_mode_are_the_stock_bits(way):
    stock, model = Net(), Net()
    config = Reuse(stages=(Stage(4, 3),), total_steps=100, dense_share=1.0, **WAYS[way])
    applied = thrifty.apply_(model, [config])
    assert torch.equal(model.eval()(torch.ones(2, 3, dtype=torch.int64)), stock.eval()(torch.ones(2, 3).long()))
    assert all(counters.steps == 0 for counters in applied.counters().values())
    applied.step(1.0)  # the controller has no time for any stage
    assert train(stock.train()) == train(model.train(), applied)
    assert all(torch.equal(a, b) for a, b in zip(stock.parameters(), model.parameters(), strict=True))


@pytest.mark.parametrize("way", WAYS)
def test_under_reuse_it_is_no_longer_the_stock_model_and_every_step_leaves_a_row(way):
    model, stock = Net(dropout=0.0), Net(dropout=0.0)
    applied = thrifty.apply_(model, [fixed(**WAYS[way])])
    losses = train(model, applied, steps=6)
    same = losses == pytest.approx(train(stock, steps=6), rel=1e-4)
    assert same == (way == "exact")
    rows = applied.trace()
    assert {row["layer"] for row in rows} >= {"lstm", "gru"}
    assert all(0 < row["remaining_ratio"] <= 1 and row["error"] >= 0 for row in rows)
    assert sum(row["layer"] == "lstm" for row in rows) == 6


@pytest.mark.parametrize("way", WAYS)
def test_state_dict_is_a_stock_one_and_removal_leaves_the_stock_model(way):
    model, stock = Net(), Net()
    parameters = list(model.parameters())
    thrifty.apply_(model, [fixed(**WAYS[way])])
    assert list(model.state_dict()) == list(stock.state_dict())
    train(model)
    stock.load_state_dict(model.state_dict())
    thrifty.remove_(model)
    assert [type(m) for m in model.modules()] == [type(m) for m in stock.modules()]
    assert repr(model) == repr(stock)
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    own = {"reuse", "sequences", "recurrent", "attention", "attention_bits"}
    assert not any(own & set(vars(module)) for module in model.modules())
    assert train(model) == train(stock)


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch.save"])
@pytest.mark.parametrize("way", WAYS)
def test_a_model_travels(way, how):
    model = Net()
    applied = thrifty.apply_(model, [fixed(**WAYS[way])])
    train(model, applied, steps=3)
    if how == "deepcopy":
        other = copy.deepcopy(model)
    elif how == "pickle":
        other = pickle.loads(pickle.dumps(model))
    else:
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        other = torch.load(file, weights_only=False)
    assert other.lstm.weight_ih_l0 is not model.lstm.weight_ih_l0
    assert other.lstm._flat_weights[0] is other.lstm.weight_ih_l0
    assert other.gru.counters == model.gru.counters
    assert train(other) == train(model)


@pytest.mark.parametrize("way", WAYS)
def test_training_resumes_bit_for_bit(way):
    config = Reuse(stages=(Stage(4, 3), Stage(2, 4)), total_steps=12, dense_share=0.25, **WAYS[way])
    whole = Net()
    applied = thrifty.apply_(whole, [config])
    train(whole, applied, steps=4)
    file = io.BytesIO()
    torch.save({"model": whole.state_dict(), "applied": applied.state_dict()}, file)
    wanted = train(whole, applied, steps=8, first=4)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed = Net()
    again = thrifty.apply_(resumed, [config])
    resumed.load_state_dict(saved["model"])
    again.load_state_dict(saved["applied"])
    assert train(resumed, again, steps=8, first=4) == wanted
    assert [event.what for event in again.events] == [event.what for event in applied.events] != []


def test_parts_follow_the_controller():
    model = Net()
    applied = thrifty.apply_(model, [Reuse(stages=(Stage(4, 3), Stage(2, 4)), total_steps=8, **WAYS["all"])])
    train(model, applied, steps=4)
    assert model.lstm.reuse.stage_index == 1
    train(model, steps=1)
    parts = model.lstm.reuse._parts
    assert set(parts) == {"input_l0", "state_l0"} and all(part.stage_index == 1 for part in parts.values())


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"rest": 3, "parts": {}},
        {"rest": {"input": 0}, "parts": {}},
        {"rest": {"input": "1"}, "parts": {}},
        {"rest": {}, "parts": []},
        {"rest": {}, "parts": {"in": {"4,3": {}}}},
    ],
)
def test_a_damaged_state_is_refused(state):
    layer = changed(nn.GRU(6, 3), sequences="clusters")
    with pytest.raises(CheckpointError, match="start"):
        layer.reuse.load_state_dict(state)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize(
    "call",
    [
        lambda rnn: rnn(torch.randn(5, 2, 7)),
        lambda rnn: rnn(torch.randn(5)),
        lambda rnn: rnn(torch.randn(2, 5, 2, 6)),
        lambda rnn: rnn(torch.randint(3, (5, 2, 6))),
        lambda rnn: rnn(torch.randn(5, 2, 6).double()),
        lambda rnn: rnn(torch.randn(5, 2, 6), torch.zeros(1, 3, 3)),
        lambda rnn: rnn(torch.randn(5, 2, 6), (torch.zeros(1, 3, 3),) * 2),
        lambda rnn: rnn(torch.randn(5, 6), torch.zeros(1, 1, 3)),
        lambda rnn: rnn(torch.randn(0, 2, 6)),
        lambda rnn: rnn(torch.randn(5, 0, 6)),
        lambda rnn: rnn(pack_sequence([torch.randn(3, 7), torch.randn(2, 7)])),
        lambda rnn: rnn([torch.randn(5, 2, 6)]),
    ],
)
@pytest.mark.parametrize("sequences", ["exact", "clusters"])
def test_what_the_stock_recurrent_layer_refuses_is_refused_with_its_words(kind, call, sequences):
    stock = kind(6, 3)
    same(call, stock, changed(copy.deepcopy(stock), sequences=sequences))


@pytest.mark.parametrize(
    "call",
    [
        lambda layer, x: layer(x[..., :7], x, x, need_weights=False),
        lambda layer, x: layer(x, x[:1], x, need_weights=False),
        lambda layer, x: layer(x, x.double(), x, need_weights=False),
        lambda layer, x: layer(x, x, x, need_weights=False, is_causal=True),
        lambda layer, x: layer(x, x, x, need_weights=False, attn_mask=torch.zeros(2, 2)),
        lambda layer, x: layer(x, x, x, need_weights=False, key_padding_mask=torch.zeros(2, 2, dtype=torch.bool)),
        lambda layer, x: layer(x, x, x, need_weights=False, key_padding_mask=torch.zeros(3, 4, dtype=torch.int64)),
        lambda layer, x: layer(x[0, 0], x, x, need_weights=False),
    ],
)
def test_what_the_stock_attention_refuses_is_refused_with_its_words(call):
    stock = nn.MultiheadAttention(8, 2, batch_first=True)
    ours = changed(copy.deepcopy(stock), sequences="clusters", attention="queries")
    same(lambda layer: call(layer, torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(0))), stock, ours)


def same(call, stock, ours):
    try:
        wanted = flat(call(stock))
    except Exception as error:
        with pytest.raises(type(error), match=re.escape(str(error))):
            call(ours)
    else:
        found = flat(call(ours))
        assert [t.shape for t in found] == [t.shape for t in wanted]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_runs_dense_and_is_told_once(value):
    stock, ours = nn.LSTM(6, 3), None
    ours = changed(copy.deepcopy(stock), sequences="clusters")
    x = torch.randn(5, 2, 6)
    x[2, 1, 0] = value
    with pytest.warns(RuntimeWarning, match="NaN or infinity"):
        y, _ = ours(x)
    torch.testing.assert_close(y, stock(x)[0], equal_nan=True)
    ours(x)  # a second warning would be an error
    exact = changed(copy.deepcopy(stock), sequences="exact")
    torch.testing.assert_close(exact(x.repeat(4, 1, 1))[0], stock(x.repeat(4, 1, 1))[0], equal_nan=True)


@pytest.mark.parametrize("way", WAYS)
def test_autocast_runs_stock(way):
    stock, model = Net(), Net()
    thrifty.apply_(model, [fixed(**WAYS[way])])
    tokens = torch.randint(5, (2, 7))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.manual_seed(1)
        wanted = stock(tokens)
        torch.manual_seed(1)
        assert torch.equal(model(tokens), wanted)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sequences": "on"}, "choose one of off, exact, clusters"),
        ({"attention": "values"}, "choose one of off, queries, keys"),
        ({"recurrent": True}, "set sequences='clusters' too"),
        ({"attention_bits": 0}, "must be 1 to 12"),
        ({"attention_bits": 2.0}, "must be 1 to 12"),
        ({"attention_bits": 13}, "must be 1 to 12"),
    ],
)
def test_settings_that_cannot_be_meant(settings, words):
    with pytest.raises(UsageError, match=words):
        Reuse(**settings)


def test_settings_travel_as_plain_data():
    config = Reuse(stages=(Stage(4, 3),), sequences="clusters", recurrent=True, attention="keys", attention_bits=5)
    assert Reuse.from_dict(config.to_dict()) == config


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")
def test_a_weight_made_by_a_hook_leaves_the_layer_dense():
    model = nn.Sequential(nn.utils.weight_norm(nn.LSTM(6, 3), "weight_hh_l0"))
    with pytest.warns(thrifty.NoEffectWarning, match="weight_hh_l0 is made by a hook"):
        thrifty.apply_(model, [fixed(sequences="exact")])


def test_nothing_is_taken_from_the_global_generators():
    model = nn.ModuleList([nn.GRU(6, 3), nn.MultiheadAttention(6, 2)])
    thrifty.apply_(model, [fixed(sequences="clusters", attention="queries")])
    before, x = torch.get_rng_state(), torch.ones(4, 2, 6).cumsum(0)
    model[0](x)
    model[1](x, x, x, need_weights=False)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # the compiler looks at it
def test_compiled_it_gives_the_same():
    torch._dynamo.reset()
    layer = changed(nn.MultiheadAttention(8, 2, batch_first=True), attention="queries", sequences="clusters")
    x = torch.randn(2, 5, 8)
    wanted = layer(x, x, x, need_weights=False)[0]
    torch.testing.assert_close(torch.compile(layer, backend="eager")(x, x, x, need_weights=False)[0], wanted)
    torch._dynamo.reset()
