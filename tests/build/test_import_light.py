"""`import thrifty` is light and quiet: nothing heavy follows it, and it adds little to `import torch`."""

import json
import subprocess
import sys

import pytest

import thrifty

HEAVY = [
    "matplotlib",
    "PIL",
    "rich",
    "typer",
    "pooch",
    "triton",
    "lightning",
    "transformers",
    "accelerate",
    "tensorboard",
]
LIMIT_S = 0.3

# Not `thrifty.Reuse`: its layers mark what torch.compile must leave alone, and that loads the compiler, as making any
# torch optimizer does.
PROBE = """
import json, sys, time, torch
before = set(sys.modules)
start = time.process_time()  # a busy machine takes it from us, not the import
import thrifty
thrifty.apply_, thrifty.remove_, thrifty.NoEffectWarning
seconds = time.process_time() - start
print(json.dumps({"seconds": seconds, "loaded": sorted(set(sys.modules) - before)}))
"""


def python(code: str, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *flags, "-c", code], capture_output=True, text=True, check=True)


def test_import_is_light_and_quiet() -> None:
    runs = [python(PROBE, "-W", "error") for _ in range(2)]
    assert all(run.stderr == "" for run in runs)
    found = [json.loads(run.stdout) for run in runs]
    assert not {name.split(".")[0] for name in found[0]["loaded"]} & set(HEAVY)
    # The better of two: even seconds of the processor grow where others use its caches.
    assert min(one["seconds"] for one in found) < LIMIT_S


def test_help_needs_no_torch() -> None:
    code = (
        "import sys; from thrifty.cli.main import main\n"
        "try: main(['--help'])\n"
        "finally: assert 'torch' not in sys.modules"
    )
    assert "doctor" in python(code).stdout


def test_public_names_are_flat_and_sorted() -> None:
    # constants, classes, functions, as isort and ruff have it
    assert thrifty.__all__ == sorted(
        thrifty.__all__, key=lambda name: (not name.isupper(), not name[0].isupper(), name)
    )
    assert set(thrifty.__all__) <= set(dir(thrifty))
    assert all(getattr(thrifty, name) is not None for name in thrifty.__all__)
    assert thrifty.__version__.count(".") == 2


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'thrifty' has no attribute 'abacus'"):
        thrifty.abacus  # noqa: B018
