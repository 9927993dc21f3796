"""Hash tables as a file beside the weights: what a service loads to answer at once, without building them.

`NAME.safetensors` is written and read by safetensors, any other name by `torch.save`; neither holds code. The file says
what layer it is of and under what weights: tables of other weights would find the wrong classes, so they are refused.
Files are mapped into memory: processes that load the same one share its pages. What a process changes in its tables,
as it trains on, is its own; the file never changes. It is written beside and renamed, so it is always a whole one.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from thrifty.core import tensors_file
from thrifty.core.atomic import write_bytes
from thrifty.core.errors import CheckpointError, UsageError
from thrifty.lsh.head import HashedHead
from thrifty.lsh.index import ClassIndex

FORMAT = "thrifty-tables-1"
_SAFE = ".safetensors"


def save_tables(head: HashedHead, path: str | os.PathLike[str]) -> None:
    """Write the tables of a head, brought up to its weights; an older file of this name is replaced in one step.

    Raises UsageError for a head that has none, because it is dense, or where safetensors is asked for and missing;
    OSError where the file cannot be written.
    """
    if head.when == "dense":
        raise UsageError("save_tables: this head computes all classes (when='dense'), so it has no tables")
    place = Path(path)
    index = head.current_index()
    state = index.state()
    tensors = {name: value.contiguous() for name, value in state.items() if isinstance(value, Tensor)}
    about = {
        "format": FORMAT, "layer": _identity(head), "weights": fingerprint(head),
        "numbers": {name: value for name, value in state.items() if not isinstance(value, Tensor)},
    }  # fmt: skip
    if place.suffix == _SAFE:
        write_bytes(place, _safetensors().torch.save(tensors, {"thrifty": json.dumps(about)}))
        return
    memory = io.BytesIO()
    torch.save({"about": about, "tensors": tensors}, memory)
    write_bytes(place, memory.getvalue())


def load_tables(head: HashedHead, path: str | os.PathLike[str]) -> None:
    """Take the tables in a file for a head that has the weights they were saved under.

    Raises:
        CheckpointError: when the file is missing, damaged, of another layer, or of other weights; nothing is changed.
        UsageError: where safetensors is needed and not installed.
    """
    place = Path(path)
    about, tensors = _read(place)
    mine, theirs = _identity(head), about["layer"]
    key = next((key for key in mine if theirs.get(key) != mine[key]), None)
    if key is not None:
        raise CheckpointError(
            f"{place} holds tables of another layer: its {key} is {theirs.get(key)}, here {mine[key]}; leave it out, "
            "and tables are built from the weights"
        )
    if about.get("weights") != fingerprint(head):
        raise CheckpointError(
            f"{place} holds tables of other weights: load the weights it was saved with, or leave it out, and "
            "tables are built from these"
        )
    index = ClassIndex(head.hashing, head.n_classes, head.in_features)
    try:
        index.load_state({**about["numbers"], **tensors}, copy=False)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise CheckpointError(f"{place} is damaged ({error}): save the tables again") from error
    head.take_index(index)


def fingerprint(head: HashedHead) -> str:
    """A digest of weight and bias, 32 hexadecimal digits. About a second a gigabyte."""
    digest = hashlib.blake2b(digest_size=16)
    for tensor in (head.weight, head.bias):
        if tensor is not None:
            plain = tensor.detach().cpu().contiguous()
            digest.update(f"{plain.dtype} {tuple(plain.shape)}".encode())
            digest.update(plain.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _identity(head: HashedHead) -> dict[str, Any]:
    size = ClassIndex(head.hashing, head.n_classes, head.in_features).size
    return {
        "classes": head.n_classes, "features": head.in_features, "bias": head.bias is not None,
        "family": head.hashing.family, "seed": head.hashing.seed, "tables": size.tables, "bits": size.bits,
        "capacity": size.capacity,
    }  # fmt: skip


def _read(place: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a file is about, and its tensors, mapped."""
    try:
        if place.suffix == _SAFE:
            with _safetensors().safe_open(place, "pt") as file:
                metadata = file.metadata() or {}
                about = json.loads(metadata.get("thrifty", "{}"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is no mapping)
        else:
            content = tensors_file.read(place, mapped=True)
            parts: dict[str, Any] = content if isinstance(content, dict) else {}
            about, tensors = parts.get("about"), parts.get("tensors", {})
    except FileNotFoundError:
        raise CheckpointError(f"{place} does not exist: write it with thrifty.lsh.save_tables") from None
    except (CheckpointError, UsageError):
        raise
    except Exception as error:  # both libraries raise errors of their own for a damaged file
        known = (EOFError, OSError, RuntimeError, ValueError, KeyError, TypeError)
        if not isinstance(error, known) and type(error).__name__ != "SafetensorError":
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{place} is damaged or holds no tables ({reason}): save the tables again") from error
    told = about.get("format") if isinstance(about, dict) else None
    if not isinstance(about, dict) or not isinstance(told, str) or told != FORMAT:
        raise CheckpointError(f"{place} holds no tables of this version ({FORMAT}): save the tables again")
    layer, weights = about.get("layer"), about.get("weights")
    if not isinstance(layer, dict) or not all(map(_is_short, [weights, *layer.values()])):
        raise CheckpointError(f"{place} is damaged (it does not name its layer): save the tables again")
    return about, tensors


def _is_short(value: Any) -> bool:
    """Whether a stranger's value can be compared, and told in a line."""
    if type(value) is str:
        return value.isprintable() and len(value) < 100
    return type(value) is bool or (type(value) is int and abs(value) < 1 << 64)


def _safetensors() -> Any:
    try:
        import safetensors
        import safetensors.torch
    except ImportError:
        raise UsageError("files named .safetensors need safetensors: pip install safetensors, or use .pt") from None
    return safetensors
