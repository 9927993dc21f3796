"""ReuseLSTM and ReuseGRU: stock answers where only equal rows are shared, the oracle's where similar ones are."""

import copy

import pytest
import torch
import torch.nn.functional as F
from reuse_oracle import quantise
from sequences import answers, both, changed, fixed, flat
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence
from torch.testing import assert_close

import thrifty
from thrifty.ops import recurrence
from thrifty.reuse import ReuseGRU, ReuseLSTM
from thrifty.reuse.parts import REST_STEPS

DOUBLE = {"dtype": torch.float64}
EXACT = {"rtol": 1e-9, "atol": 1e-11}
KINDS = (nn.LSTM, nn.GRU)
OPTIONS = {
    "plain": {},
    "no bias": {"bias": False},
    "batch first": {"batch_first": True},
    "both ways": {"bidirectional": True},
    "two layers, dropout": {"num_layers": 2, "dropout": 0.4},
    "three layers, both ways": {"num_layers": 3, "bidirectional": True, "batch_first": True, "bias": False},
}


class Reader(nn.Module):
    """Embedded tokens into a recurrent layer: the rows of equal tokens are equal."""

    def __init__(self, kind, tokens=4, width=6, **options):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(tokens, width, **DOUBLE)
        self.rnn = kind(width, 3, **options, **DOUBLE)

    def forward(self, tokens, lengths=None, state=None):
        steps = self.embedding(tokens)
        if lengths is not None:
            steps = pack_padded_sequence(steps, lengths, batch_first=self.rnn.batch_first, enforce_sorted=False)
        return self.rnn(steps, state)


def tokens_of(*shape, values=4):
    return torch.randint(values, shape, generator=torch.Generator().manual_seed(1))


def state_of(rnn, *batch):
    layers = rnn.num_layers * (2 if rnn.bidirectional else 1)
    parts = tuple(
        torch.linspace(-1, 1, layers * 3 * (batch or (1,))[0], **DOUBLE).view(layers, *batch, 3) for _ in "hc"
    )
    return parts if isinstance(rnn, nn.LSTM) else parts[0]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", KINDS)
class TestEqualRows:
    @pytest.fixture
    def pair(self, kind, options):
        return both(Reader(kind, **OPTIONS[options]), sequences="exact")

    def check(self, pair, run):
        stock, ours = pair
        assert_close(answers(ours, run), answers(stock, run), **EXACT)
        assert ours.rnn.counters.remaining_ratio < 0.5, "nothing was shared"
        assert ours.rnn.counters.macs < ours.rnn.counters.dense_macs

    def test_a_batch(self, pair):
        tokens = tokens_of(7, 5)
        self.check(pair, lambda model: model(tokens))

    def test_a_batch_of_one_and_none_at_all(self, pair):
        batch = pair[0].rnn.batch_first
        self.check(pair, lambda model: model(tokens_of(1, 20) if batch else tokens_of(20, 1)))
        self.check(pair, lambda model: model(tokens_of(20)))

    def test_a_first_state(self, pair):
        batch = 5 if pair[0].rnn.batch_first else 7
        self.check(pair, lambda model: model(tokens_of(5, 7), state=state_of(model.rnn, batch)))
        self.check(pair, lambda model: model(tokens_of(20), state=state_of(model.rnn)))

    @pytest.mark.parametrize("lengths", [[4, 9, 1, 6], [9, 9, 9, 9]])
    @pytest.mark.parametrize("with_state", [False, True])
    def test_packed_sequences(self, pair, lengths, with_state):
        tokens = tokens_of(4, 9) if pair[0].rnn.batch_first else tokens_of(9, 4)
        lengths = torch.tensor(lengths)

        def run(model):
            packed, last = model(tokens, lengths, state_of(model.rnn, 4) if with_state else None)
            assert isinstance(packed, PackedSequence) and torch.equal(packed.sorted_indices, order)
            return packed, last

        order = model_order(lengths)
        self.check(pair, run)


def model_order(lengths):
    return torch.sort(lengths, descending=True)[1]


@pytest.mark.parametrize("kind", KINDS)
class TestGradientsOfEqualRows:
    """Equal rows share a gradient only where that cannot be seen."""

    def test_rows_of_a_leaf_keep_theirs(self, kind):
        stock, ours = pair_of(kind)
        gradients = []
        for layer in (stock, ours):
            x = torch.zeros(9, 2, 6, **DOUBLE, requires_grad=True)  # a learned input before its first step
            y, _ = layer(x)
            (gradient,) = torch.autograd.grad((y * torch.arange(54.0, **DOUBLE).view(9, 2, 3)).sum(), x)
            gradients.append(gradient)
        assert_close(*gradients, **EXACT)
        assert ours.counters.remaining_ratio == 1 / 18
        assert len(gradients[1].flatten(0, 1).unique(dim=0)) == 18

    def test_an_embedding_of_equal_rows_keeps_theirs(self, kind):
        stock, ours = both(Reader(kind), sequences="exact")
        tokens = tokens_of(8, 3)
        for model in (stock, ours):
            nn.init.ones_(model.embedding.weight)
        assert_close(answers(ours, lambda m: m(tokens)), answers(stock, lambda m: m(tokens)), **EXACT)
        assert len(answers(ours, lambda m: m(tokens))[-5].unique(dim=0)) > 1

    @pytest.mark.parametrize("look", ["hook", "retain_grad"])
    def test_one_who_looks_at_the_gradient_sees_it_by_row(self, kind, look):
        model = both(Reader(kind), sequences="exact")[1]
        seen = []
        embedded = model.embedding(tokens_of(8, 3))
        if look == "hook":
            embedded.register_hook(seen.append)
        else:
            embedded.retain_grad()
        y, _ = model.rnn(embedded)
        (y * torch.arange(72.0, **DOUBLE).view(8, 3, 3)).sum().backward()
        gradient = seen[0] if look == "hook" else embedded.grad
        assert len(gradient.flatten(0, 1).unique(dim=0)) == 24

    def test_a_turned_embedding_is_no_embedding(self, kind):
        """Six tokens of width six, turned: a row is then one channel of all tokens."""
        stock, ours = both(Reader(kind, tokens=6), sequences="exact")
        for model in (stock, ours):
            model.embedding.weight.data[:, 1:] = model.embedding.weight.data[:, :1].clone()

        def run(model):
            return model.rnn(model.embedding(torch.arange(6).expand(4, 6)).transpose(1, 2))

        assert_close(answers(ours, run), answers(stock, run), **EXACT)
        assert ours.rnn.counters.remaining_ratio < 0.5

    def test_gradcheck_by_row(self, kind):
        layer = changed(kind(6, 2, **DOUBLE), sequences="exact")
        torch.manual_seed(0)
        x = torch.randn(2, 6, **DOUBLE)[tokens_of(3, 3, values=2)].requires_grad_()

        def run(x):
            return layer(x)[0]

        # The probes move one row at a time; what was equal then shares no longer, and the answer must not care.
        assert torch.autograd.gradcheck(run, x)


def pair_of(kind, **options):
    torch.manual_seed(0)
    stock = kind(6, 3, **options, **DOUBLE)
    return stock, changed(copy.deepcopy(stock), sequences="exact")


@pytest.mark.parametrize("kind", KINDS)
def test_too_few_equal_rows_is_the_stock_layer_and_a_rest(kind):
    stock, ours = pair_of(kind)
    x = torch.randn(5, 4, 6, **DOUBLE)
    for step in range(REST_STEPS + 1):
        assert all(torch.equal(a, b) for a, b in zip(flat(ours(x)), flat(stock(x)), strict=True))
        assert ours.reuse.rest.get("input", 0) == REST_STEPS - step
    assert ours.counters.remaining_ratio is None and ours.counters.macs == ours.counters.dense_macs > 0
    y, _ = ours(torch.ones(5, 4, 6, **DOUBLE))
    assert ours.counters.remaining_ratio == 1 / 20
    assert_close(y, stock(torch.ones(5, 4, 6, **DOUBLE))[0], **EXACT)


def test_a_narrow_input_stays_with_the_stock_kernels():
    layer = changed(nn.LSTM(4, 64), sequences="exact")
    layer(torch.ones(5, 4, 4))
    assert layer.counters.remaining_ratio is None


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("both_ways", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_clusters_agree_with_the_oracle(kind, both_ways, packed, recurrent):
    """Every product's rows replaced by cluster means, then the plain recurrence."""
    torch.manual_seed(0)
    layer = changed(kind(6, 4, bidirectional=both_ways, **DOUBLE), sequences="clusters", recurrent=recurrent, length=3)
    x = torch.randn(5, 4, 6, **DOUBLE)
    input = pack_padded_sequence(x, [5, 4, 2, 1]) if packed else x
    layer(input)  # makes the codebooks
    data, sizes = (input.data, input.batch_sizes.tolist()) if packed else (x.flatten(0, 1), [4] * 5)
    data = data.requires_grad_()
    ours = layer(PackedSequence(data, input.batch_sizes) if packed else data.view(5, 4, 6))
    wanted = oracle(layer, data, sizes, recurrent)
    found = [ours[0].data if packed else ours[0].flatten(0, 1), *flat(ours[1])]
    leaves = [data, *layer.parameters()]
    assert_close(found, wanted, **EXACT)
    cotangents = [torch.randn_like(part) for part in wanted]
    assert_close(
        torch.autograd.grad(found, leaves, cotangents), torch.autograd.grad(wanted, leaves, cotangents), **EXACT
    )
    assert layer.counters.error > 0


def oracle(layer, data, sizes, recurrent):
    state = copy.deepcopy(layer.reuse)
    cell = recurrence.lstm_cell if isinstance(layer, nn.LSTM) else recurrence.gru_cell
    parts = 2 if isinstance(layer, nn.LSTM) else 1
    outputs, ended = [], []

    def means(part, rows):
        stage = state.stage
        clusters = state.part(part).quantise(rows.detach(), stage, len(rows))[1]
        return quantise(rows, clusters.ids, min(stage.length, rows.shape[1]))

    for end in ("_l0", "_l0_reverse")[: 2 if layer.bidirectional else 1]:
        w_ih, w_hh, b_ih, b_hh = (getattr(layer, n + end) for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))

        def product(h, w_hh=w_hh, b_hh=b_hh, end=end):
            return F.linear(means(f"state{end}", h) if recurrent else h, w_hh, b_hh)

        gates = F.linear(means(f"input{end}", data), w_ih, b_ih)
        first = tuple(torch.zeros(sizes[0], layer.hidden_size, **DOUBLE) for _ in range(parts))
        out, *last = recurrence.recur(gates, first, sizes, end.endswith("reverse"), product, cell)
        outputs.append(out)
        ended.append(last)
    return [torch.cat(outputs, 1), *(torch.stack(part) for part in zip(*ended, strict=True))]


@pytest.mark.parametrize("kind", KINDS)
def test_clusters_of_equals_only_are_the_stock_layer(kind):
    stock, ours = both(Reader(kind, tokens=2), sequences="clusters", length=6, bits=4, encoder="sign")
    tokens = tokens_of(6, 4, values=2)
    assert_close(answers(ours, lambda m: m(tokens)), answers(stock, lambda m: m(tokens)), **EXACT)
    assert ours.rnn.counters.remaining_ratio == 2 / 24


@pytest.mark.parametrize("sequences", ["exact", "clusters"])
@pytest.mark.parametrize("kind", KINDS)
def test_forward_mode_and_torch_func(kind, sequences):
    """Under transforms the plain recurrence runs; in reverse mode the fast one: they must agree."""
    torch.manual_seed(0)
    layer = changed(kind(6, 3, **DOUBLE), sequences=sequences, encoder="sign")
    x = torch.randn(2, 6, **DOUBLE)[tokens_of(4, 3, values=2)]
    parameters = {name: p.detach() for name, p in layer.named_parameters()}
    tangents = {name: torch.randn_like(p) for name, p in parameters.items()}

    def run(parameters):
        return torch.func.functional_call(layer, parameters, (x,))[0]

    y, y_t = torch.func.jvp(run, (parameters,), (tangents,))
    wanted = layer(x)[0]
    cotangent = torch.randn_like(y)
    gradients = torch.autograd.grad(wanted, list(layer.parameters()), cotangent)
    inner = sum((g * t).sum() for g, t in zip(gradients, tangents.values(), strict=True))
    assert_close(y, wanted, **EXACT)
    assert_close((y_t * cotangent).sum(), inner, **EXACT)
    by_func = torch.func.grad(lambda p: (run(p) * cotangent).sum())(parameters)
    assert_close(list(by_func.values()), list(gradients), **EXACT)


@pytest.mark.parametrize("sequences", ["exact", "clusters"])
def test_inputs_that_change_in_size_from_step_to_step(sequences):
    stock, ours = both(Reader(nn.GRU), sequences=sequences)
    for shape in ((7, 5), (1, 1), (3, 9), (20, 1)):
        found, wanted = (flat(model(tokens_of(*shape))) for model in (ours, stock))
        assert [t.shape for t in found] == [t.shape for t in wanted]
        if sequences == "exact":
            assert_close(found, wanted, **EXACT)


def test_the_layers_are_named_and_reported():
    model = nn.ModuleDict({"a": nn.LSTM(6, 3), "b": nn.GRU(6, 3), "c": nn.LSTM(6, 4, proj_size=2)})
    applied = thrifty.apply_(model, [fixed(sequences="exact")])
    assert [type(model[name]) for name in "abc"] == [ReuseLSTM, ReuseGRU, nn.LSTM]
    assert [report.action for report in applied.layers] == ["reuse", "reuse", "dense"]
    assert "proj_size=2" in applied.layers[2].reason
