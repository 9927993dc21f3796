"""Every cell of the table of what goes together, by a test of its own on the method's own little network."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

import thrifty
from thrifty.compose import support
from thrifty.compose.catalog import method_names
from thrifty.core.errors import ModelError

pytestmark = pytest.mark.filterwarnings(  # what torch's own modules and its compiler do, and a layer that is forced
    "ignore:layer .*hashing would take",
    "ignore:The .grad attribute of a Tensor that is not a leaf",  # the compiler looks at it
    "ignore:.torch.jit.script_method. is deprecated:DeprecationWarning",  # by torch's own modules
)


@dataclass(frozen=True)
class Case:
    """A method on a network that it changes.

    `exact`: its values are the stock network's; `stock_in_eval`: those in evaluation are, bit for bit.
    """

    config: Callable[[], object]
    network: Callable[[], nn.Module]
    inputs: Callable[[], torch.Tensor]
    exact: bool
    stock_in_eval: bool = True


def conv_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 8, 3), nn.Flatten(), nn.Linear(32, 4)
    )


def conv_inputs() -> torch.Tensor:
    return torch.randn(6, 16, 8, 8, generator=torch.Generator().manual_seed(1)).relu()


def wide_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 256), nn.ReLU(), nn.Linear(256, 4))


def wide_inputs() -> torch.Tensor:
    return torch.randn(6, 16, generator=torch.Generator().manual_seed(1))


CASES = {
    "lsh": [
        Case(
            lambda mode=mode: thrifty.LSH(layers=("0",), active=0.2, mode=mode, force=True),
            wide_network, wide_inputs, exact=False, stock_in_eval=False,
        )
        for mode in ("each", "shared")
    ],
    "reuse": [
        Case(lambda: thrifty.Reuse(measure=False), conv_network, conv_inputs, exact=True),
        Case(
            lambda: thrifty.Reuse(stages=(thrifty.Stage(8, 5),), fixed=True, skip_zeros=False),
            conv_network, conv_inputs, exact=False,
        ),
    ],
}  # fmt: skip
TARGET = torch.tensor([0, 1, 2, 3, 0, 1])


def changed(case: Case) -> tuple[nn.Module, thrifty.compose.Applied]:
    model = case.network()
    return model, thrifty.apply_(model, [case.config()])


def step(model: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The loss of one pass, and the gradients of all parameters."""
    model.zero_grad()
    loss = cross_entropy(model(x).float(), TARGET)
    loss.backward()
    return loss.detach(), [parameter.grad.clone() for parameter in model.parameters()]


def close(found, wanted, tolerance: float) -> None:
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance, check_dtype=False)


def acted(applied) -> bool:
    return any(counters.steps for counters in applied.counters().values())


def compile_training(case: Case) -> str:
    wanted = step(changed(case)[0], case.inputs())
    model, applied = changed(case)
    close(step(torch.compile(model, backend="aot_eager"), case.inputs()), wanted, 1e-5)
    assert acted(applied)
    torch._dynamo.reset()
    try:
        torch.compile(model, backend="aot_eager", fullgraph=True)(case.inputs())
    except torch._dynamo.exc.Unsupported:
        return support.FALLS_BACK
    return support.WORKS


def compile_evaluation(case: Case) -> str:
    model, _ = changed(case)
    with torch.no_grad():
        wanted = model.eval()(case.inputs())
        if case.stock_in_eval:
            assert torch.equal(wanted, case.network().eval()(case.inputs()))
        close(torch.compile(model, backend="aot_eager")(case.inputs()), wanted, 1e-5)
        torch._dynamo.reset()
        try:
            torch.compile(model, backend="aot_eager", fullgraph=True)(case.inputs())
        except torch._dynamo.exc.Unsupported:
            return support.FALLS_BACK
    return support.WORKS


def compile_first(case: Case) -> str:
    for model in (torch.compile(case.network()), case.network()):
        if not isinstance(model, torch._dynamo.OptimizedModule):
            model.compile()
        with pytest.raises(ModelError, match=r"call thrifty\.apply_\(model\) before"):
            thrifty.apply_(model, [case.config()])
    return support.REFUSES


def _under_autocast(case: Case, dtype: torch.dtype) -> str:
    model, applied = changed(case)
    stock = case.network()
    with torch.autocast("cpu", dtype=dtype):
        assert model(case.inputs()).dtype == stock(case.inputs()).dtype == dtype
        found, wanted = step(model, case.inputs()), step(stock, case.inputs())
    assert all(gradient.dtype == torch.float32 and gradient.isfinite().all() for gradient in found[1])
    if case.exact:
        close(found, wanted, 3e-2)
    return _saved(applied)


def _saved(applied) -> str:
    """Whether the method did less, or other, work than the stock layers."""
    worked = any(one.macs != one.dense_macs for one in applied.counters().values())
    return support.WORKS if worked else support.FALLS_BACK


def autocast_bfloat16(case: Case) -> str:
    return _under_autocast(case, torch.bfloat16)


def autocast_float16(case: Case) -> str:
    verdict = _under_autocast(case, torch.float16)
    model, _ = changed(case)
    optimizer, scaler = torch.optim.SGD(model.parameters(), lr=0.1), torch.amp.GradScaler("cpu")
    before = [parameter.detach().clone() for parameter in model.parameters()]
    with torch.autocast("cpu", dtype=torch.float16):
        loss = cross_entropy(model(case.inputs()).float(), TARGET)
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    after = list(model.parameters())
    assert all(p.isfinite().all() for p in after)
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    return verdict


def bfloat16_model(case: Case) -> str:
    model, applied = changed(case)
    stock = case.network().bfloat16()
    found, wanted = step(model.bfloat16(), case.inputs().bfloat16()), step(stock, case.inputs().bfloat16())
    if case.exact:
        close(found, wanted, 3e-2)
    assert all(gradient.dtype == torch.bfloat16 for gradient in found[1])
    return _saved(applied)


def _exported(model: nn.Module, case: Case, verdict: str) -> str:
    """Export, and compare with the stock network; where the method refuses, as it says."""
    x, stock = case.inputs(), case.network().train(model.training)
    try:
        answers = [torch.export.export(model, (x,), strict=strict).module()(x) for strict in (False, True)]
    except ModelError as error:
        assert "call thrifty.remove_(model)" in str(error)
        thrifty.remove_(model)
        answers, verdict = [torch.export.export(model, (x,)).module()(x)], support.REFUSES
    for answer in answers:
        close(answer, stock(x), 1e-5)
    return verdict


def export_evaluation(case: Case) -> str:
    model, _ = changed(case)
    return _exported(model.eval(), case, support.WORKS)


def export_training(case: Case) -> str:
    model, applied = changed(case)
    verdict = _exported(model, case, support.FALLS_BACK)
    assert not acted(applied)
    return verdict


@pytest.fixture
def world(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/world", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def ddp(case: Case) -> str:
    wanted = step(changed(case)[0], case.inputs())
    model, applied = changed(case)
    close(step(DistributedDataParallel(model), case.inputs()), wanted, 1e-5)
    return _saved(applied)


def ddp_first(case: Case) -> str:
    wrapped = DistributedDataParallel(case.network())
    with pytest.raises(ModelError, match=r"call thrifty\.apply_\(model\) before DistributedDataParallel"):
        thrifty.apply_(wrapped, [case.config()])
    return support.REFUSES


CHECKS = {
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
}
ALL = [
    pytest.param(method, feature, id=f"{method}-{feature}") for method in support.CELLS for feature in support.FEATURES
]


@pytest.mark.parametrize("method, feature", ALL)
def test_the_cell_tells_the_truth(method, feature, world):
    torch._dynamo.reset()
    said = support.CELLS[method][feature].verdict
    found = {CHECKS[feature](case) for case in CASES[method]}
    # Where a method has several ways, the cell speaks of the one that does less.
    order = [support.WORKS, support.FALLS_BACK, support.REFUSES]
    assert max(found, key=order.index) == said


def test_every_method_has_every_cell():
    assert set(support.CELLS) == set(method_names()) == set(CASES)
    assert set(CHECKS) == set(support.FEATURES)
    for cells in support.CELLS.values():
        assert set(cells) == set(support.FEATURES)
        assert all(cell.verdict in support.VERDICTS and cell.says for cell in cells.values())


def test_refusals_say_what_to_do():
    for cells in support.CELLS.values():
        assert all("`" in cell.says for cell in cells.values() if cell.verdict == support.REFUSES)


def test_the_table_has_a_line_a_feature():
    lines = support.markdown().splitlines()
    assert len(lines) == 2 + len(support.FEATURES)
    assert all(line.count("|") == 2 + len(support.CELLS) for line in lines)
