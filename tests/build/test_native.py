"""The native module: arguments are never copied or converted, and the instruction set can be chosen."""

import os
import subprocess
import sys

import pytest
import torch

from thrifty import _load_native
from thrifty._load_native import native, reason

needs_native = pytest.mark.skipif(native is None, reason=f"native kernels: {reason}")


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}
    )


def outputs(channels: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.full((channels,), -1.0, dtype=torch.float64), torch.full((channels,), -1.0, dtype=torch.float64)


@needs_native
@pytest.mark.parametrize("rows", [0, 1, 5, 2050])
def test_writes_into_the_callers_tensors(rows: int) -> None:
    x = torch.randn(rows, 7, generator=torch.Generator().manual_seed(rows))
    total, squares = outputs(7)
    native.channel_moments(x, total, squares)
    torch.testing.assert_close(total, x.double().sum(0))
    torch.testing.assert_close(squares, x.double().square().sum(0))


WRONG_INPUTS = {
    "dtype": lambda: torch.zeros(4, 6, dtype=torch.float64),
    "half": lambda: torch.zeros(4, 6, dtype=torch.bfloat16),
    "integer": lambda: torch.zeros(4, 6, dtype=torch.int32),
    "transposed": lambda: torch.zeros(6, 4).t(),
    "strided": lambda: torch.zeros(4, 12)[:, ::2],
    "rank": lambda: torch.zeros(24),
    "device": lambda: torch.zeros(4, 6, device="meta"),
    "list": lambda: [[0.0] * 6] * 4,
    "none": lambda: None,
}


@needs_native
@pytest.mark.parametrize("wrong", WRONG_INPUTS)
def test_wrong_input_is_refused_and_nothing_written(wrong: str) -> None:
    total, squares = outputs(6)
    with pytest.raises(TypeError):
        native.channel_moments(WRONG_INPUTS[wrong](), total, squares)
    assert (total == -1).all() and (squares == -1).all()


@needs_native
@pytest.mark.parametrize("wrong", ["float32", "strided", "read-only"])
def test_wrong_output_is_refused_rather_than_copied(wrong: str) -> None:
    x = torch.ones(4, 6)
    total, squares = outputs(6)
    if wrong == "float32":
        total = total.float()
    elif wrong == "strided":
        total = torch.full((12,), -1.0, dtype=torch.float64)[::2]
    else:
        array = total.numpy()
        array.setflags(write=False)
        with pytest.raises(TypeError):
            native.channel_moments(x, array, squares)
        return
    with pytest.raises(TypeError):
        native.channel_moments(x, total, squares)
    assert (total == -1).all()


@needs_native
def test_sizes_that_do_not_fit_are_named() -> None:
    total, squares = outputs(6)
    with pytest.raises(ValueError, match=r"sumsq: axis 0 has size 5, expected 6 \(channels\)"):
        native.channel_moments(torch.ones(4, 6), total, squares[:5])
    assert (total == -1).all()


@needs_native
def test_every_function_refuses_arguments_that_it_was_not_made_for() -> None:
    """Holds for kernels added later as well: none of them accepts a plain list or a wrong number of arguments."""
    plain = {"isa", "isas", "set_isa", "max_threads"}
    kernels = [name for name in dir(native) if not name.startswith("_") and name not in plain]
    assert "channel_moments" in kernels
    for name in kernels:
        for arguments in ([], [[1.0]], [object()] * 4):
            with pytest.raises(TypeError):
                getattr(native, name)(*arguments)


@needs_native
def test_instruction_sets_agree() -> None:
    x = torch.randn(3000, 33, generator=torch.Generator().manual_seed(0))
    before = native.isa()
    results = {}
    try:
        for isa in native.isas():
            native.set_isa(isa)
            assert native.isa() == isa
            results[isa] = outputs(33)
            native.channel_moments(x, *results[isa])
    finally:
        native.set_isa(before)
    for pair in results.values():
        torch.testing.assert_close(pair, results["base"], rtol=1e-12, atol=1e-10)


@needs_native
def test_unusable_instruction_set_is_refused() -> None:
    before = native.isa()
    with pytest.raises(ValueError, match="isa 'abacus' is not an instruction set usable here; choose one of: base"):
        native.set_isa("abacus")
    assert native.isa() == before


@needs_native
def test_environment_chooses_the_instruction_set() -> None:
    code = "from thrifty import _native; print(_native.isa())"
    for isa in native.isas():
        assert python(code, THRIFTY_ISA=isa).stdout.strip() == isa
    refused = python(code, THRIFTY_ISA="abacus")
    assert refused.returncode == 1
    assert "ValueError: THRIFTY_ISA 'abacus' is not an instruction set usable here" in refused.stderr


@needs_native
def test_result_does_not_depend_on_the_number_of_threads() -> None:
    x = torch.randn(5000, 5, generator=torch.Generator().manual_seed(1))
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            assert native.max_threads() == threads  # one OpenMP runtime, governed by torch
            results.append(outputs(5))
            native.channel_moments(x, *results[-1])
    finally:
        torch.set_num_threads(before)
    for total, squares in results[1:]:
        assert torch.equal(total, results[0][0]) and torch.equal(squares, results[0][1])


@needs_native
def test_one_openmp_runtime_in_the_process() -> None:
    code = (
        "import torch; from thrifty._load_native import native\n"
        "x = torch.randn(5000, 8); s = torch.zeros(8, dtype=torch.float64)\n"
        "native.channel_moments(x, s, s.clone()); (x @ x.T).sum()\n"
        "from thrifty.cli.diagnosis import openmp_runtimes; print(len(openmp_runtimes() or [None]))"
    )
    assert python(code).stdout.strip() == "1"


def test_kernels_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THRIFTY_NATIVE", "0")
    module, why = _load_native._load()
    assert module is None
    assert why is not None and why.startswith("switched off by THRIFTY_NATIVE=0")


def test_kernels_that_were_not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("THRIFTY_NATIVE", raising=False)
    monkeypatch.setitem(sys.modules, "thrifty._native", None)  # what an absent module looks like to import
    module, why = _load_native._load()
    assert module is None
    assert why is not None and why.startswith("not built; install a C++17 compiler")
