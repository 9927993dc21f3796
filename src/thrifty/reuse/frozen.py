"""freeze: a trained model -> the same model for inference, its convolutions looking their products up where that pays.

Deep Reuse (Ning & Shen, ICS 2019) carried to its end: clusters are fixed before inference, so that their products with
the weights are made once and for all. A cluster is a level of one channel, or a pair of levels of two neighbours.
Layer by layer the fastest setting is taken whose error is within a bound, and the bound is the largest at which the
whole model keeps its answers on calibration images that the levels were not fitted to. Two exact ways compete with the
tables, see `frozen_exact`. Layers that gain nothing stay stock, in bfloat16 where the processor gains by that.
"""

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from thrifty.core.errors import ModelError, UsageError
from thrifty.reuse import frozen_trial
from thrifty.reuse.frozen_chains import find_chains, fold_norms, set_submodule
from thrifty.reuse.frozen_choice import FrozenReport
from thrifty.reuse.frozen_dtype import in_dtype
from thrifty.reuse.frozen_fit import Setting, watch
from thrifty.reuse.frozen_trial import LayerTrial

BOUNDS = (0.1, 0.05, 0.03, 0.02, 0.012, 0.008, 0.005, 0.003, 0.002, 0.001, 0.0005, 0.0002)
DTYPES = (torch.float32, torch.bfloat16)


def freeze(
    model: nn.Module,
    calibration_batches: Iterable[Any],
    *,
    max_loss: float = 0.0005,
    settings: Sequence[Setting] | None = None,
    dtype: torch.dtype | None = None,
    progress: Callable[[str], None] | None = None,
) -> nn.Module:
    """Return a copy of a trained classifier for inference in eval mode; the model itself is left as it is.

    Args:
        model: maps images (N, C, H, W) to logits (N, classes); float32 on the CPU.
        calibration_batches: a few batches of images, or of (images, labels), of the size to be used; better not from
            the training images, of which a model is too sure. Half of them fit the levels, half choose among them.
        max_loss: the share of right answers that may be lost, as estimated on the second half: where the frozen model
            names another class, its probability (by the stock model) is missing from that of the stock model's.
        settings: the ways to freeze a layer that are tried; the default suits convolutions of CNNs.
        dtype: of what is not looked up, torch.float32 or torch.bfloat16; by default the one in which the stock model is
            faster here, as long as rounding alone loses no more than `max_loss`. Images and logits stay float32.
        progress: takes a line for each layer.

    Returns:
        The frozen model, whose parameters ask for no gradient; `frozen_report(model)` says what was chosen. It is never
        slower than the stock model with BatchNorm folded, as measured here, and is that model where nothing pays. Times
        are taken with the threads of this moment: freeze on the machine, and with the threads, that will run the model.

    Raises:
        UsageError: no calibration images, a max_loss that is not in 0..1, or another dtype.
        ModelError: the model does not give finite (N, classes) logits for them.
    """
    if not 0 <= max_loss <= 1:
        raise UsageError(f"max_loss is {max_loss}: give a share between 0 and 1, for example 0.0005")
    if dtype is not None and dtype not in DTYPES:
        raise UsageError(f"dtype is {dtype}: give torch.float32, torch.bfloat16, or None for the faster one")
    fitting, judging = _halves(calibration_batches)
    say = progress or (lambda line: None)
    with torch.no_grad():
        dense = copy.deepcopy(model).eval()
        chains = find_chains(dense)
        fold_norms(dense, chains)
        probabilities = [_logits(dense, batch).softmax(1) for batch in judging]
        dense, used, rounding = _stock(dense, dtype, fitting[0], judging, probabilities, max_loss)
        seen = watch(dense, frozen_trial.usable(dense, chains), fitting)
        layers = frozen_trial.try_all(dense, chains, seen, settings, say)
        bound, loss = _loosest(dense, layers, judging, probabilities, max_loss)
        frozen = _assembled(dense, layers, bound)
        dense_s, frozen_s = frozen_trial.race((dense, frozen), fitting[0])
        if frozen_s > dense_s and any(layer.within(bound) for layer in layers):
            bound, loss, frozen, frozen_s = -1.0, rounding, dense, dense_s
    frozen.requires_grad_(False)
    rows = tuple(frozen_trial.row_of(layer, bound) for layer in layers)
    frozen.frozen_report = FrozenReport(rows, used, loss, dense_s, frozen_s)  # type: ignore[assignment]
    return frozen


def _stock(
    dense: nn.Module,
    dtype: torch.dtype | None,
    batch: Tensor,
    judging: list[Tensor],
    probabilities: list[Tensor],
    max_loss: float,
) -> tuple[nn.Module, str, float]:
    """The stock model in the dtype that is asked for, or pays; that dtype; the loss that its rounding should bring."""
    as_is = dense, "float32", 0.0
    plain = all(p.dtype == torch.float32 and p.device.type == "cpu" for p in dense.parameters())
    if dtype == torch.float32 or (dtype is None and not plain):
        return as_is
    half = in_dtype(dense, torch.bfloat16)
    if dtype is None:
        # One image first: where oneDNN has no kernel for bfloat16, a batch would take minutes.
        for images in (batch[:1], batch):
            dense_s, half_s = frozen_trial.race((dense, half), images)
            if half_s * frozen_trial.LEAST_GAIN > dense_s * (1 if images is batch else 3):
                return as_is
    rounding = _expected_loss(half, judging, probabilities)
    return (half, "bfloat16", rounding) if dtype is not None or rounding <= max_loss else as_is


def _halves(batches: Iterable[Any]) -> tuple[list[Tensor], list[Tensor]]:
    images = [batch[0] if isinstance(batch, tuple | list) else batch for batch in batches]
    for batch in images:
        if not isinstance(batch, Tensor) or not batch.is_floating_point() or batch.dim() != 4 or batch.numel() == 0:
            what = f"{batch.dtype} {tuple(batch.shape)}" if isinstance(batch, Tensor) else type(batch).__name__
            raise UsageError(f"calibration batches must be float images (N, C, H, W), or (images, labels), got {what}")
        if not batch.isfinite().all():
            raise UsageError("a calibration batch holds NaN or infinity: leave such images out")
    if sum(len(batch) for batch in images) < 2:
        raise UsageError("freeze needs at least 2 calibration images: some to fit levels, others to judge them")
    if len(images) == 1:
        return [images[0][0::2]], [images[0][1::2]]
    return images[0::2], images[1::2]


def _logits(model: nn.Module, batch: Tensor) -> Tensor:
    logits = model(batch)
    if not isinstance(logits, Tensor) or logits.dim() != 2 or not logits.isfinite().all():
        raise ModelError("freeze needs a classifier: a model that maps images to finite logits (N, classes)")
    return logits


def _assembled(model: nn.Module, layers: list[LayerTrial], bound: float) -> nn.Module:
    chosen = {layer.chain: option for layer in layers if (option := layer.within(bound))}
    # The chosen convolutions' weights are not wanted: set aside while the rest is copied.
    stand_ins = {id(model.get_submodule(chain.conv)): nn.Identity() for chain in chosen}
    copied = copy.deepcopy(model, stand_ins)
    for chain, option in chosen.items():
        set_submodule(copied, chain.conv, option.make())
        for name in chain.rest:
            set_submodule(copied, name, nn.Identity())
    return copied


def _loosest(
    model: nn.Module, layers: list[LayerTrial], judging: list[Tensor], probabilities: list[Tensor], max_loss: float
) -> tuple[float, float]:
    """The loosest of BOUNDS within which the expected loss stays allowed, and that loss; else exact ways only."""
    low, high = 0, len(BOUNDS)  # BOUNDS[high] is known to do, or is beyond the last one
    loss_at_high = 0.0
    while low < high:
        middle = (low + high) // 2
        loss = _expected_loss(_assembled(model, layers, BOUNDS[middle]), judging, probabilities)
        if loss <= max_loss:
            high, loss_at_high = middle, loss
        else:
            low = middle + 1
    if high < len(BOUNDS):
        return BOUNDS[high], loss_at_high
    return 0.0, _expected_loss(_assembled(model, layers, 0.0), judging, probabilities)


def _expected_loss(model: nn.Module, judging: list[Tensor], probabilities: list[Tensor]) -> float:
    """By how much the probability of the named class falls, on average, by the stock model's own probabilities.

    A change from one unlikely answer to another costs little, one from a sure answer much; unlike a count of right
    answers it does not jump, and needs no labels.
    """
    lost, images = 0.0, 0
    for batch, p_NK in zip(judging, probabilities, strict=True):
        named = model(batch).argmax(1, keepdim=True)
        lost += float((p_NK.amax(1, keepdim=True) - p_NK.gather(1, named)).sum())
        images += len(batch)
    return lost / images
