"""Layers that stay dense, and what is said about them."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from thrifty.core.inspection import is_candidate, reason_dense, refuse_wrapped

HANDLED = (nn.Conv2d, nn.Linear)


class OwnConv(nn.Conv2d):
    pass


def own_forward():
    layer = nn.Linear(2, 2)
    layer.forward = torch.relu
    return layer


def lazy_parameter():
    layer = nn.Linear(2, 2)
    layer.weight = nn.UninitializedParameter()
    return layer


def sparse():
    layer = nn.Linear(2, 2)
    layer.weight = nn.Parameter(layer.weight.detach().to_sparse())
    return layer


class OddTensor(torch.Tensor):
    pass


def odd_weight():
    layer = nn.Linear(2, 2)
    layer.weight = nn.Parameter(layer.weight.detach().as_subclass(OddTensor))
    return layer


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: nn.Conv2d(2, 2, 1), ""),
        (lambda: nn.Linear(2, 2, bias=False, dtype=torch.float64), ""),
        (lambda: nn.Linear(2, 2, device="meta"), ""),
        (lambda: OwnConv(2, 2, 1), "OwnConv is a subclass"),
        (lambda: nn.MultiheadAttention(4, 2).out_proj, "NonDynamicallyQuantizableLinear is a subclass"),
        (lambda: parametrizations.weight_norm(nn.Linear(2, 2)), "parametrized"),
        (lambda: parametrizations.spectral_norm(nn.Conv2d(2, 2, 1)), "parametrized"),
        (lambda: prune.l1_unstructured(nn.Linear(2, 2), "weight", 1), "made by a hook"),
        (lambda: nn.LazyLinear(2), "lazy: run a batch"),
        (lambda: nn.LazyConv2d(2, 1), "lazy: run a batch"),
        (lazy_parameter, "not initialised: run a batch"),
        (own_forward, "its forward was replaced on the instance"),
        (sparse, "its weight is not an ordinary tensor (Parameter, torch.sparse_coo)"),
        (odd_weight, "its weight is not an ordinary tensor (OddTensor, torch.strided)"),
        (lambda: nn.Linear(2, 2, dtype=torch.complex64), "its weight has dtype torch.complex64"),
    ],
)
def test_reasons(make, reason):
    layer = make()
    assert is_candidate(layer, HANDLED)
    said = reason_dense(layer, HANDLED)
    assert reason in said and bool(reason) == bool(said)


def test_a_lazy_layer_is_an_ordinary_one_after_its_first_batch():
    layer = nn.LazyLinear(2)
    layer(torch.zeros(1, 3))
    assert reason_dense(layer, HANDLED) == ""


@pytest.mark.filterwarnings("ignore")
def test_old_weight_norm():
    assert "made by a hook" in reason_dense(nn.utils.weight_norm(nn.Linear(2, 2)), HANDLED)


@pytest.mark.filterwarnings("ignore")
def test_quantized_layers_are_listed_and_left_alone():
    quantization = pytest.importorskip("torch.ao.quantization")
    model = quantization.quantize_dynamic(nn.Sequential(nn.Linear(2, 2)), {nn.Linear})
    assert is_candidate(model[0], HANDLED)
    assert reason_dense(model[0], HANDLED) == "quantized layers stay as they are"


def test_other_layers_are_no_candidates():
    assert not any(is_candidate(layer, HANDLED) for layer in (nn.ReLU(), nn.Conv1d(1, 1, 1), nn.LSTM(1, 1)))


def test_a_users_class_of_a_wrappers_name_is_not_a_wrapper():
    class DataParallel(nn.Sequential):
        pass

    refuse_wrapped(DataParallel(nn.Linear(1, 1)), "thrifty.apply_")
