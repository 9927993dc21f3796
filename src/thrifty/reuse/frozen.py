"""freeze: a trained model -> the same model for inference, its convolutions looking their products up where that pays.

Deep Reuse (Ning & Shen, ICS 2019) carried to its end: clusters are fixed before inference, so that their products with
the weights are made once and for all. A cluster is a level of one channel, or a pair of levels of two neighbours.
Layer by layer the fastest setting is taken whose error is within a bound, and the bound is the largest at which the
whole model keeps its answers on calibration images that the levels were not fitted to. Two exact ways compete with the
tables, see `frozen_exact`. Layers that gain nothing stay stock.
"""

import copy
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from thrifty._load_native import native
from thrifty.core.errors import ModelError, UsageError
from thrifty.reuse.frozen_chains import Chain, find_chains, fold_norms, set_submodule
from thrifty.reuse.frozen_choice import FrozenReport, LayerChoice
from thrifty.reuse.frozen_exact import ExactConv2d
from thrifty.reuse.frozen_fit import Seen, Setting, fit, output_error, watch
from thrifty.reuse.frozen_layer import FrozenConv2d

SETTINGS = tuple(
    Setting(length, bits, skip) for length, bits in ((2, 2), (1, 3), (2, 3), (1, 4), (1, 5)) for skip in (True, False)
)
# Few channels: whole rows of the kernel are looked up at once, and fine levels cost little.
SETTINGS_OF_FEW = tuple(Setting(length, bits) for length, bits in ((2, 3), (1, 4), (1, 5), (1, 6)))
FEW_CHANNELS = 8
BOUNDS = (0.1, 0.05, 0.03, 0.02, 0.012, 0.008, 0.005, 0.003, 0.002, 0.001, 0.0005, 0.0002)
MAX_TABLE_BYTES = 1 << 28
LEAST_GAIN = 1.05


@dataclass
class _Option:
    setting: str
    make: Callable[[], nn.Module]  # a table may be large: it is made when it is wanted
    seconds: float
    error: float
    table_bytes: int


@dataclass
class _Layer:
    chain: Chain
    dense_s: float
    options: list[_Option] = field(default_factory=list)
    reason: str = ""

    def within(self, bound: float) -> _Option | None:
        """The fastest option with an error within the bound."""
        return min((one for one in self.options if one.error <= bound), key=lambda one: one.seconds, default=None)


def freeze(
    model: nn.Module,
    calibration_batches: Iterable[Any],
    *,
    max_loss: float = 0.0005,
    settings: Sequence[Setting] | None = None,
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
        progress: takes a line for each layer.

    Returns:
        The frozen model, whose parameters ask for no gradient; `frozen_report(model)` says what was chosen. It is never
        slower than the stock model with BatchNorm folded, as measured here, and is that model where nothing pays. Times
        are taken with the threads of this moment: freeze on the machine, and with the threads, that will run the model.

    Raises:
        UsageError: no calibration images, or a max_loss that is not in 0..1.
        ModelError: the model does not give finite (N, classes) logits for them.
    """
    if not 0 <= max_loss <= 1:
        raise UsageError(f"max_loss is {max_loss}: give a share between 0 and 1, for example 0.0005")
    fitting, judging = _halves(calibration_batches)
    say = progress or (lambda line: None)
    with torch.no_grad():
        dense = copy.deepcopy(model).eval()
        chains = find_chains(dense)
        fold_norms(dense, chains)
        probabilities = [_logits(dense, batch).softmax(1) for batch in judging]
        layers = _try_all(dense, chains, watch(dense, _usable(dense, chains), fitting), settings, say)
        bound, loss = _loosest(dense, layers, judging, probabilities, max_loss)
        frozen = _assembled(dense, layers, bound)
        dense_s, frozen_s = _race((dense, frozen), fitting[0])
        if frozen_s > dense_s and any(layer.within(bound) for layer in layers):
            bound, loss, frozen, frozen_s = -1.0, 0.0, dense, dense_s
    frozen.requires_grad_(False)
    rows = tuple(_row(layer, bound) for layer in layers)
    frozen.frozen_report = FrozenReport(rows, loss, dense_s, frozen_s)  # type: ignore[assignment]
    return frozen


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


def _usable(model: nn.Module, chains: list[Chain]) -> list[Chain]:
    return [chain for chain in chains if not _why_not(model.get_submodule(chain.conv))]


def _why_not(conv: nn.Module) -> str:
    assert isinstance(conv, nn.Conv2d)
    if conv.groups > 1:
        return "grouped convolution"
    if conv.padding_mode != "zeros":
        return f"padding_mode {conv.padding_mode}"
    if conv.weight.dtype != torch.float32 or conv.weight.device.type != "cpu":
        return f"{conv.weight.dtype} on {conv.weight.device.type}"
    return ""


def _try_all(
    model: nn.Module,
    chains: list[Chain],
    seen: dict[str, Seen],
    settings: Sequence[Setting] | None,
    say: Callable[[str], None],
) -> list[_Layer]:
    layers = []
    for chain in chains:
        conv = model.get_submodule(chain.conv)
        if chain.conv not in seen:
            layers.append(_Layer(chain, 0.0, reason=_why_not(conv) or "not used"))
            continue
        layer = _try(model, chain, seen.pop(chain.conv), settings)
        best = min(layer.options, key=lambda one: one.seconds, default=None)
        gain = "none is faster" if best is None else f"up to {layer.dense_s / best.seconds:.1f} times as fast"
        say(f"{chain.conv}: {len(layer.options)} settings gain, {gain}")
        layers.append(layer)
    return layers


def _try(model: nn.Module, chain: Chain, seen: Seen, settings: Sequence[Setting] | None) -> _Layer:
    conv = model.get_submodule(chain.conv)
    assert isinstance(conv, nn.Conv2d)
    pool = model.get_submodule(chain.pool) if chain.pool else None
    stock = nn.Sequential(conv, *(model.get_submodule(name) for name in chain.rest))
    if settings is None:
        settings = SETTINGS_OF_FEW if conv.in_channels <= FEW_CHANNELS else SETTINGS
    layer = _Layer(chain, float("inf"), reason="no setting is faster")
    fused: dict[str, Any] = {"relu": chain.relu is not None, "pool": pool}
    for setting, make in _ways(conv, seen, settings, fused):
        frozen = make()
        dense_s, frozen_s = _race((stock, frozen), seen.input)
        layer.dense_s = min(layer.dense_s, dense_s)
        if frozen_s * LEAST_GAIN < dense_s:
            table = frozen.table.numel() * frozen.table.element_size() if isinstance(frozen, FrozenConv2d) else 0
            error = output_error(frozen, stock, seen.input[-32:]) if table else 0.0
            # An option that is both slower and worse than another is never taken.
            if not any(one.seconds <= frozen_s and one.error <= error for one in layer.options):
                layer.options.append(_Option(setting, make, frozen_s, error, table))
    # Dense may have shown its best beside another setting.
    layer.options = [one for one in layer.options if one.seconds * LEAST_GAIN < layer.dense_s]
    seen.input = seen.input[:0]
    return layer


def _ways(
    conv: nn.Conv2d, seen: Seen, settings: Sequence[Setting], fused: dict[str, Any]
) -> Iterator[tuple[str, Callable[[], nn.Module]]]:
    """The ways to try, by name: looking up as `settings` say, and the exact ones."""
    zeros = bool((seen.rows_PC >= 0).all())
    for setting in settings:
        size = setting.entries * conv.weight.numel() // setting.length * 2
        if size <= MAX_TABLE_BYTES and (zeros or not setting.skip):
            yield str(setting), partial(fit, conv, seen, setting, **fused)
    sample = seen.input[:1]
    if zeros and native is not None:
        yield "exact, zeros skipped", partial(ExactConv2d.of, conv, sample, skip=True, **fused)
    if fused["relu"] and fused["pool"] is not None and native is not None:
        yield "exact, pool fused", partial(ExactConv2d.of, conv, sample, skip=False, **fused)


def _race(models: tuple[nn.Module, nn.Module], batch: Tensor, rounds: int = 4) -> tuple[float, float]:
    """The shortest of some runs of each, in turn, in seconds; the first round warms up."""
    best = [float("inf"), float("inf")]
    for turn in range(rounds):
        for i, model in enumerate(models):
            start = time.perf_counter()
            model(batch)
            if turn:
                best[i] = min(best[i], time.perf_counter() - start)
    return best[0], best[1]


def _assembled(model: nn.Module, layers: list[_Layer], bound: float) -> nn.Module:
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
    model: nn.Module, layers: list[_Layer], judging: list[Tensor], probabilities: list[Tensor], max_loss: float
) -> tuple[float, float]:
    """The loosest of BOUNDS within which the expected loss stays allowed, and that loss; where none is, 0: exact."""
    low, high = 0, len(BOUNDS)  # BOUNDS[high] is known to do, or is beyond the last one
    loss_at_high = 0.0
    while low < high:
        middle = (low + high) // 2
        loss = _expected_loss(_assembled(model, layers, BOUNDS[middle]), judging, probabilities)
        if loss <= max_loss:
            high, loss_at_high = middle, loss
        else:
            low = middle + 1
    return (BOUNDS[high], loss_at_high) if high < len(BOUNDS) else (0.0, 0.0)


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


def _row(layer: _Layer, bound: float) -> LayerChoice:
    option = layer.within(bound)
    if option is None:
        reason = "no setting is exact enough" if layer.options else layer.reason
        return LayerChoice(layer.chain.conv, None, layer.dense_s, None, None, 0, reason)
    return LayerChoice(
        layer.chain.conv, option.setting, layer.dense_s, option.seconds, option.error, option.table_bytes, ""
    )
