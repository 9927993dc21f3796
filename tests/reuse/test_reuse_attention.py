"""ReuseMultiheadAttention alone and in a Transformer encoder: the stock answers, or the oracle's."""

import copy

import pytest
import torch
import torch.nn.functional as F
from reuse_oracle import quantise
from sequences import answers, changed, fixed
from torch import nn
from torch.testing import assert_close

import thrifty
from thrifty.reuse import ReuseLinear, ReuseMultiheadAttention, Stage

DOUBLE = {"dtype": torch.float64}
EXACT = {"rtol": 1e-9, "atol": 1e-11}
WAYS = {
    "queries": {"attention": "queries"},
    "keys": {"attention": "keys"},
    "products": {"sequences": "clusters"},
    "products, queries": {"sequences": "clusters", "attention": "queries"},
    "products, keys": {"sequences": "clusters", "attention": "keys"},
}


def attention(**options):
    torch.manual_seed(0)
    return nn.MultiheadAttention(8, 2, **{"batch_first": True, **options}, **DOUBLE)


def encoder(batch_first=True, dropout=0.0):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 12, dropout, batch_first=batch_first, **DOUBLE)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def inputs(*shape):
    return torch.randn(*shape, **DOUBLE, generator=torch.Generator().manual_seed(1))


def padding(sequences=3, positions=6):
    mask = torch.zeros(sequences, positions, dtype=torch.bool)
    mask[0, 4:] = mask[2, 1:] = True
    return mask


def causal(positions=6):
    return nn.Transformer.generate_square_subsequent_mask(positions, **DOUBLE)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_self_attention_agrees_with_the_oracle(way, batch_first, masked):
    layer = changed(attention(batch_first=batch_first), length=4, attention_bits=2, **WAYS[way])
    x = inputs(3, 6, 8).requires_grad_()
    mask = padding() if masked else None
    given = x if batch_first else x.transpose(0, 1)
    for _ in range(2):  # the first step makes the codebooks
        state = copy.deepcopy(layer.reuse)
        y, weights = layer(given, given, given, key_padding_mask=mask, need_weights=False)
    assert weights is None and layer.counters.error > 0
    wanted = oracle(layer, state, x, mask)
    leaves, cotangent = [x, *layer.parameters()], torch.randn_like(wanted)
    y = y if batch_first else y.transpose(0, 1)
    assert_close(y, wanted, **EXACT)
    assert_close(torch.autograd.grad(y, leaves, cotangent), torch.autograd.grad(wanted, leaves, cotangent), **EXACT)


def oracle(layer, state, x, padding_mask):
    """Means in place of what is clustered, then dense projections and dense attention."""
    sequences, positions, width = x.shape

    def means(part, rows, stage, *others):
        clusters = state.part(part).quantise(rows.detach(), stage, positions)[1]
        return [quantise(r, clusters.ids, min(stage.length, width)) for r in (rows, *others)]

    def product(part, rows, weight, bias):
        rows = means(part, rows, state.stage)[0] if layer.sequences == "clusters" else rows
        return F.linear(rows, weight, bias)

    q, k, v = product("in", x.reshape(-1, width), layer.in_proj_weight, layer.in_proj_bias).chunk(3, 1)
    stage = Stage(width // 2, layer.attention_bits, 1)
    mask = None
    if padding_mask is not None:
        mask = torch.zeros(sequences, 1, 1, positions, **DOUBLE).masked_fill(padding_mask[:, None, None], -torch.inf)
    if layer.attention == "queries":
        q = means("queries", q, stage)[0]
    if layer.attention == "keys":
        clusters = state.part("keys").quantise(k.detach(), stage, positions)[1]
        seen = torch.ones(sequences * positions, 1, **DOUBLE)
        if padding_mask is not None:
            seen = (~padding_mask).view(-1, 1).to(seen)
        share = quantise(seen.expand(-1, width), clusters.ids, width // 2)
        share = share.where(share > 0, 1.0)
        k, v = (quantise(r * seen, clusters.ids, width // 2) / share for r in (k, v))
    q, k, v = (r.view(sequences, positions, 2, width // 2).transpose(1, 2) for r in (q, k, v))
    answer = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).reshape(-1, width)
    return product("out", answer, layer.out_proj.weight, layer.out_proj.bias).view(x.shape)


@pytest.mark.parametrize("options", [{}, {"kdim": 5, "vdim": 7}, {"bias": False}], ids=str)
@pytest.mark.parametrize("mask", [None, "padding", "causal", "both"])
def test_cross_attention_of_equals_only_is_the_stock_one(options, mask):
    """Keys and values of two kinds: their products are shared, and their scores where no mask forbids it."""
    stock = attention(**options)
    settings = {"encoder": "sign", "sequences": "exact", "attention": "keys", "attention_bits": 12}
    ours = changed(copy.deepcopy(stock), **settings)
    kinds = torch.tensor([[0, 1, 0, 0, 1, 1], [1, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 1]])
    query, key = inputs(3, 6, 8), inputs(2, options.get("kdim", 8))[kinds]
    value = inputs(2, options.get("vdim", 8))[kinds] * 2
    masks = {
        "key_padding_mask": padding() if mask in ("padding", "both") else None,
        "attn_mask": causal() < 0 if mask in ("causal", "both") else None,
    }

    def run(layer):
        return layer(query, key, value, need_weights=False, **masks)

    assert_close(answers(ours, run), answers(stock, run), **EXACT)
    assert ours.trace_row()["remaining_ratio"] < 1


@pytest.mark.parametrize("way", ["exact", "queries", "keys"])
def test_equals_only_is_the_stock_layer(way):
    settings = {"sequences": "exact"} if way == "exact" else {"attention": way, "encoder": "sign", "attention_bits": 12}
    stock, ours = attention(), changed(attention(), **settings)
    rows = inputs(4, 8)[torch.tensor([[0, 1, 0, 1, 1, 0], [2, 2, 2, 3, 3, 3]])]

    def run(layer):
        return layer(rows, rows, rows, need_weights=False)[0]

    assert_close(answers(ours, run), answers(stock, run), **EXACT)
    assert ours.counters.remaining_ratio <= 0.5


@pytest.mark.parametrize("way", ["exact", *WAYS])
@pytest.mark.parametrize("mask", ["none", "padding", "causal"])
def test_an_encoder_trains_under_reuse(way, mask):
    settings = {"sequences": "exact"} if way == "exact" else WAYS[way]
    model = encoder()
    applied = thrifty.apply_(model, [fixed(linear=True, **settings)])
    kinds = [type(model.layers[0].get_submodule(name)) for name in ("self_attn", "linear1", "linear2")]
    assert kinds == [ReuseMultiheadAttention, ReuseLinear, ReuseLinear]
    assert "its attention layer" in next(r.reason for r in applied.layers if r.name.endswith("out_proj"))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    given = {"padding": {"src_key_padding_mask": padding()}, "causal": {"mask": causal(), "is_causal": True}}
    losses = []
    for _ in range(8):
        y = model(inputs(3, 6, 8), **given.get(mask, {}))
        loss = (y - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        applied.step(loss)
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(counters.steps == 8 for counters in applied.counters().values())


def test_scores_under_a_mask_of_queries_are_dense():
    stock, ours = attention(), changed(attention(), attention="queries")
    x = inputs(3, 6, 8)
    per_head = causal().expand(6, 6, 6)
    for mask in (causal(), causal() < 0, per_head):

        def run(layer, mask=mask):
            return layer(x, x, x, attn_mask=mask, key_padding_mask=None, need_weights=False)[0]

        assert_close(answers(ours, run), answers(stock, run), **EXACT)
    assert ours.counters.remaining_ratio is None


@pytest.mark.parametrize(
    "call",
    [
        lambda layer, x: layer(x, x, x),  # weights are asked for
        lambda layer, x: layer(x[0], x[0], x[0], need_weights=False),  # no batch
    ],
)
def test_what_it_does_not_share_runs_stock(call):
    stock, ours = attention(), changed(attention(), attention="queries", sequences="clusters")
    for a, b in zip(call(ours, inputs(3, 6, 8)), call(stock, inputs(3, 6, 8)), strict=True):
        assert (a is None and b is None) or torch.equal(a, b)
    assert ours.counters.steps == 0


@pytest.mark.parametrize("options", [{"add_bias_kv": True}, {"add_zero_attn": True}], ids=str)
def test_added_keys_run_stock(options):
    stock, ours = attention(**options), changed(attention(**options), attention="keys", sequences="clusters")
    x = inputs(3, 6, 8)
    assert torch.equal(ours(x, x, x, need_weights=False)[0], stock(x, x, x, need_weights=False)[0])


@pytest.mark.parametrize("of", ["queries", "keys"])
def test_dropout_of_weights_keeps_the_mean(of):
    layer = changed(attention(dropout=0.3), attention=of)
    still = changed(attention(), attention=of)
    x = inputs(3, 6, 8)
    torch.manual_seed(0)
    many = torch.stack([layer(x, x, x, need_weights=False)[0].detach() for _ in range(400)])
    wanted = still(x, x, x, need_weights=False)[0].detach()
    assert (many.std(0) > 0).all()
    assert_close(many.mean(0), wanted, rtol=0, atol=5 * float(many.std(0).max()) / 20)


@pytest.mark.parametrize("positions", [1, 2])
def test_short_sequences_and_a_batch_of_one(positions):
    for way in WAYS.values():
        layer = changed(attention(), **way)
        x = inputs(1, positions, 8).requires_grad_()
        y, _ = layer(x, x, x, need_weights=False)
        y.sum().backward()
        assert y.shape == x.shape and x.grad.isfinite().all()
