"""A frozen model as a file: tables, the stock layers' weights, and which layers are done by others.

The file is what `torch.save` writes, a zip whose entries carry checksums; they are checked before anything is read, and
nothing in it is unpickled but tensors and plain data. It is written beside and renamed. The model's Python stays where
it is: loading takes the stock model, freshly built, and gives back a frozen copy.
"""

import io
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from thrifty.core import tensors_file
from thrifty.core.atomic import write_bytes
from thrifty.core.codec import decode_fields
from thrifty.core.errors import CheckpointError, UsageError
from thrifty.reuse.frozen_chains import set_submodule
from thrifty.reuse.frozen_choice import FrozenReport, LayerChoice, frozen_report
from thrifty.reuse.frozen_dtype import in_dtype
from thrifty.reuse.frozen_exact import ExactConv2d
from thrifty.reuse.frozen_layer import FrozenConv2d

FORMAT = "thrifty-frozen-2"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def save_frozen(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a model that `freeze` made to a file; an older file of this name is replaced in one step.

    Raises ModelError for a model that `freeze` did not make, OSError where the file cannot be written.
    """
    report = frozen_report(model)
    layers = {name: module for name, module in model.named_modules() if isinstance(module, FrozenConv2d)}
    content = {
        "format": FORMAT,
        "layers": {
            name: {"settings": layer.settings, "tensors": dict(layer.named_buffers())} for name, layer in layers.items()
        },
        "exact": {name: module.exact for name, module in model.named_modules() if isinstance(module, ExactConv2d)},
        "done_by_others": [name for name, module in model.named_modules() if isinstance(module, nn.Identity)],
        "state": {key: value for key, value in model.state_dict().items() if key.rpartition(".")[0] not in layers},
        "report": report.to_dict(),
    }  # fmt: skip
    memory = io.BytesIO()
    torch.save(content, memory)
    write_bytes(Path(path), memory.getvalue())


def load_frozen(path: str | os.PathLike[str], model: nn.Module) -> nn.Module:
    """Return a frozen copy of a stock model, as it was saved; `model` itself is left as it is.

    Args:
        path: what `save_frozen` wrote.
        model: the network that was frozen, with any weights.

    Raises:
        CheckpointError: the file is missing, damaged, or not of this network.
    """
    place = Path(path)
    content = _read(place)
    try:
        return _rebuilt(content, model)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, UsageError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{place} does not fit this model ({reason}): build the network that was frozen, with the same sizes"
        ) from error


def _read(place: Path) -> dict[str, Any]:
    try:
        content = tensors_file.read(place)
    except FileNotFoundError:
        raise CheckpointError(f"{place} does not exist: write it with thrifty.reuse.save_frozen") from None
    except (tensors_file.DamagedFileError, OSError) as error:
        raise CheckpointError(
            f"{place} is damaged or no frozen model ({error}): save the frozen model again"
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{place} is no frozen model of this version ({FORMAT}): freeze the model again")
    return content


def _rebuilt(content: dict[str, Any], model: nn.Module) -> nn.Module:
    report = _report(content["report"])
    frozen = in_dtype(model, DTYPES[report.dtype]).eval()
    for name, layer in content["layers"].items():
        stock = frozen.get_submodule(name)
        if not isinstance(stock, nn.Conv2d):
            raise ValueError(f"{name} is {type(stock).__name__}, not Conv2d")
        made = FrozenConv2d(layer["settings"], layer["tensors"])
        made.check()
        if (made.in_channels, made.scale.shape[0]) != (stock.in_channels, stock.out_channels):
            raise ValueError(f"{name} has other channels")
        set_submodule(frozen, name, made.eval())
    for name in content["done_by_others"]:
        frozen.get_submodule(name)
        set_submodule(frozen, name, nn.Identity())
    state: dict[str, Tensor] = content["state"]
    for name, module in frozen.named_modules():
        # A convolution that took over a BatchNorm has a bias that the stock one may lack.
        bias = state.get(f"{name}.bias")
        if isinstance(module, nn.Conv2d) and module.bias is None and bias is not None:
            module.bias = nn.Parameter(bias.clone())
    for name, exact in content["exact"].items():
        conv = frozen.get_submodule(name)
        if type(conv) is not nn.Conv2d:
            raise ValueError(f"{name} is {type(conv).__name__}, not Conv2d")
        set_submodule(frozen, name, ExactConv2d.restored(conv, exact).eval())
    own = frozen.state_dict()
    frozen.load_state_dict({key: own[key] for key in own if key not in state} | state)
    missing = [key for key in own if key not in state and not _is_table(frozen, key)]
    if missing:
        raise ValueError(f"no {missing[0]} in it")
    frozen.requires_grad_(False)
    frozen.frozen_report = report  # type: ignore[assignment]
    return frozen


def _report(content: dict[str, Any]) -> FrozenReport:
    if content["dtype"] not in DTYPES:
        raise ValueError(f"dtype {content['dtype']}")
    rows = tuple(LayerChoice(**decode_fields(LayerChoice, row, "layer")) for row in content["layers"])
    numbers = {key: float(content[key]) for key in ("expected_loss", "dense_s", "frozen_s")}
    return FrozenReport(rows, content["dtype"], **numbers)


def _is_table(model: nn.Module, key: str) -> bool:
    return isinstance(model.get_submodule(key.rpartition(".")[0]), FrozenConv2d)
