"""The checks behind the table of what goes together: one for each feature, for any way of any method.

Each returns the verdict that it found, or fails. `on_rank` is for methods that need several processes.
"""

import io
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
import torch.distributed as dist
from support_cells import TARGET, WAYS, Put, Way
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

import thrifty
from thrifty.compose import support
from thrifty.core.errors import ModelError
from thrifty.core.lockstep import apart


def step(put: Put, x: Tensor, *, called: Any = None, dtype: torch.dtype | None = None) -> tuple[Tensor, list[Tensor]]:
    """The loss of one step, and the gradients of all parameters; under the caller's own autocast where one is named."""
    put.model.zero_grad()
    with put.around():
        with put.forward(), torch.autocast("cpu", dtype=dtype) if dtype else nullcontext():
            x = x.to(next(put.model.parameters()).dtype)
            loss = cross_entropy((called or put.called)(x).float(), TARGET)
        put.backward(loss)
    scale = put.scale()
    return loss.detach(), [parameter.grad.detach() / scale for parameter in put.model.parameters()]


def stock(way: Way, *, dtype: torch.dtype | None = None, weights: torch.dtype = torch.float32) -> Any:
    """The same step of the stock network; its gradients are the mean over the ranks."""
    model = way.network().to(weights)
    loss, gradients = step(Put(model, model, lambda: True), way.inputs(), dtype=dtype)
    if apart():
        for gradient in gradients:
            dist.all_reduce(gradient)
            gradient /= dist.get_world_size()
    return loss, gradients


def close(found: Any, wanted: Any, tolerance: float) -> None:
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance, check_dtype=False)


class Compiled:
    """A model under torch.compile; `ran` counts how often compiled code did."""

    def __init__(self, model: nn.Module, whole: bool = False) -> None:
        torch._dynamo.reset()
        self.ran = 0
        self._model = torch.compile(model, backend=self._backend, fullgraph=whole)

    def _backend(self, graph: Any, inputs: Any) -> Callable[..., Any]:
        from torch._dynamo.backends.debugging import aot_eager

        code = aot_eager(graph, inputs)

        def run(*arguments: Any) -> Any:
            self.ran += 1
            return code(*arguments)

        return run

    def __call__(self, *inputs: Any) -> Any:
        return self._model(*inputs)


def _compiled(way: Way, put: Put, compiled: Compiled, x: Tensor) -> str:
    """Whether compiled code ran, with the method in it: in the layers, if it was all of the pass."""
    if not way.in_layers:
        return support.WORKS if compiled.ran else support.FALLS_BACK
    try:
        Compiled(put.called, whole=True)(x)
    except torch._dynamo.exc.Unsupported:
        return support.FALLS_BACK
    return support.WORKS


def compile_training(way: Way) -> str:
    wanted = step(way.put(way.network()), way.inputs())
    put = way.put(way.network())
    compiled = Compiled(put.called)
    close(step(put, way.inputs(), called=compiled), wanted, max(way.tolerance, 1e-5))
    if not put.acted():
        assert not way.in_layers
        return support.FALLS_BACK
    return _compiled(way, put, compiled, way.inputs())


def compile_evaluation(way: Way) -> str:
    put, x = way.put(way.network()), way.inputs()
    put.model.eval()
    put.called.eval()
    with torch.no_grad(), put.around(), put.forward():
        x = x.to(next(put.model.parameters()).dtype)
        wanted = put.called(x)
        if way.stock_in_eval:
            assert torch.equal(wanted, way.network().eval()(x))
        compiled = Compiled(put.called)
        close(compiled(x), wanted, max(way.tolerance, 1e-5))
        return _compiled(way, put, compiled, x)


def compile_first(way: Way) -> str:
    wanted = step(way.put(way.network()), way.inputs())
    verdicts = set()
    for compiled in (torch.compile(way.network(), backend="aot_eager"), way.network()):
        if not isinstance(compiled, torch._dynamo.OptimizedModule):
            compiled.compile(backend="aot_eager")
        try:
            put = way.put(compiled)
        except ModelError as error:
            assert "call thrifty." in str(error) and "before" in str(error)
            verdicts.add(support.REFUSES)
            continue
        close(step(put, way.inputs()), wanted, way.tolerance)
        assert put.acted()
        verdicts.add(support.FALLS_BACK)
    (verdict,) = verdicts
    return str(verdict)


def _under_autocast(way: Way, dtype: torch.dtype) -> str:
    with torch.autocast("cpu", dtype=dtype):  # what is measured to plan by is the training's own step
        put, model = way.put(way.network()), way.network()
        assert put.model(way.inputs()).dtype == model(way.inputs()).dtype == dtype
    found = step(put, way.inputs(), dtype=dtype)
    assert all(gradient.isfinite().all() for gradient in found[1])
    if way.exact:
        close(found, stock(way, dtype=dtype), 3e-2 if way.tolerance else 0.0)
    return support.WORKS if put.acted() else support.FALLS_BACK


def autocast_bfloat16(way: Way) -> str:
    return _under_autocast(way, torch.bfloat16)


def autocast_float16(way: Way) -> str:
    verdict = _under_autocast(way, torch.float16)
    put = way.put(way.network())
    optimizer, scaler = torch.optim.SGD(put.model.parameters(), lr=0.1), torch.amp.GradScaler("cpu")
    before = [parameter.detach().clone() for parameter in put.model.parameters()]
    with put.around():
        with put.forward(), torch.autocast("cpu", dtype=torch.float16):
            loss = cross_entropy(put.called(way.inputs()).float(), TARGET)
        scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    after = list(put.model.parameters())
    assert all(parameter.isfinite().all() for parameter in after)
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    return verdict


def bfloat16_model(way: Way) -> str:
    model = way.network()
    if way.in_layers:  # afterwards as well as before
        put = way.put(model)
        model.bfloat16()
    else:
        try:
            put = way.put(model.bfloat16())
        except ModelError as error:
            assert "build it in float32" in str(error)
            return support.REFUSES
    found = step(put, way.inputs())
    assert all(gradient.dtype == torch.bfloat16 for gradient in found[1])
    if way.exact:
        close(found, stock(way, weights=torch.bfloat16), 3e-2 if way.tolerance else 0.0)
    return support.WORKS if put.acted() else support.FALLS_BACK


def _exported(way: Way, training: bool) -> str:
    """Export, and compare with the stock network; where the method refuses, as it says."""
    put, x, model = way.put(way.network()), way.inputs(), way.network().train(training)
    put.model.train(training)
    put.unwatch()
    try:
        with put.around(), put.forward():
            x = x.to(next(put.model.parameters()).dtype)
            answers = [torch.export.export(put.model, (x,), strict=strict).module()(x) for strict in (False, True)]
            wanted = model(x.to(next(model.parameters()).dtype))
    except ModelError as error:
        assert "call thrifty.remove_(model)" in str(error)
        thrifty.remove_(put.model)
        close(torch.export.export(put.model, (x,)).module()(x), model(x), way.tolerance)
        return support.REFUSES
    for answer in answers:
        close(answer, wanted, way.tolerance)
    if way.in_layers:
        assert not put.acted()
    return support.FALLS_BACK if way.in_layers and training else support.WORKS


def export_evaluation(way: Way) -> str:
    return _exported(way, training=False)


def export_training(way: Way) -> str:
    return _exported(way, training=True)


def ddp(way: Way) -> str:
    wanted = step(way.put(way.network()), way.inputs())
    put = way.put(way.network())
    if not isinstance(put.called, DistributedDataParallel):
        put.called = DistributedDataParallel(put.model)
    close(step(put, way.inputs()), wanted, max(way.tolerance, 1e-5))
    if way.exact:
        close(wanted, stock(way), way.tolerance)
    return support.WORKS if put.acted() else support.FALLS_BACK


def ddp_first(way: Way) -> str:
    wrapped = DistributedDataParallel(way.network())
    try:
        put = way.put(wrapped)
    except ModelError as error:
        assert "call thrifty." in str(error) and "before DistributedDataParallel" in str(error)
        return support.REFUSES
    close(step(put, way.inputs()), stock(way), way.tolerance)
    return support.WORKS if put.acted() else support.FALLS_BACK


def state_dict(way: Way) -> str:
    """What is saved after a step has the stock network's keys, shapes and formats, and loads into it safely."""
    put, model = way.put(way.network()), way.network()
    step(put, way.inputs())
    file = io.BytesIO()
    torch.save(dict(put.saves() if put.saves else put.model.state_dict()), file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    wanted = model.state_dict()
    assert {k: (v.shape, v.dtype) for k, v in saved.items()} == {k: (v.shape, v.dtype) for k, v in wanted.items()}
    model.load_state_dict(saved)
    close(list(model.parameters()), list(way.network().parameters()), 0.0)  # no step was taken
    return support.WORKS


CHECKS: dict[str, Callable[[Way], str]] = {
    "compile-training": compile_training,
    "compile-evaluation": compile_evaluation,
    "compile-first": compile_first,
    "autocast-bfloat16": autocast_bfloat16,
    "autocast-float16": autocast_float16,
    "bfloat16-model": bfloat16_model,
    "export-evaluation": export_evaluation,
    "export-training": export_training,
    "ddp": ddp,
    "ddp-first": ddp_first,
    "state-dict": state_dict,
}


def verdict(method: str, feature: str) -> str:
    """What the ways of a method give; where they differ, that of the one that does less."""
    torch._dynamo.reset()
    found = {CHECKS[feature](way) for way in WAYS[method]}
    return max(found, key=[support.WORKS, support.FALLS_BACK, support.REFUSES].index)


def on_rank(method: str, feature: str) -> str:
    """The verdict on a method that needs several processes."""
    warnings.simplefilter("ignore")  # they are another's test
    return verdict(method, feature)
