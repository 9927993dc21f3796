"""What every convolution of a model could become when it is frozen: each way timed against the stock layer, and judged.

Ways are lookups with tables (`frozen_layer`) and exact ones (`frozen_exact`); what is not faster is left out.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from thrifty._load_native import native
from thrifty.reuse.frozen_chains import Chain
from thrifty.reuse.frozen_choice import LayerChoice
from thrifty.reuse.frozen_exact import ExactConv2d
from thrifty.reuse.frozen_fit import Seen, Setting, fit, output_error
from thrifty.reuse.frozen_layer import FrozenConv2d

SETTINGS = tuple(
    Setting(length, bits, skip) for length, bits in ((2, 2), (1, 3), (2, 3), (1, 4), (1, 5)) for skip in (True, False)
)
# Few channels: whole rows of the kernel are looked up at once, and fine levels cost little.
SETTINGS_OF_FEW = tuple(Setting(length, bits) for length, bits in ((2, 3), (1, 4), (1, 5), (1, 6)))
FEW_CHANNELS = 8
MAX_TABLE_BYTES = 1 << 28
LEAST_GAIN = 1.05
# What takes so much longer than the stock layer in its first run is not run again.
HOPELESS = 2.0
# A whole batch is timed where the stock layer is done with it in so many seconds; on small machines a part of it.
SECONDS = 0.15
SAMPLE = 8


@dataclass
class Option:
    """A way to freeze one layer that was faster than the stock layer: its seconds, and the error of its output."""

    setting: str
    make: Callable[[], nn.Module]  # a table may be large: it is made when it is wanted
    seconds: float
    error: float
    table_bytes: int


@dataclass
class LayerTrial:
    """What was tried on one layer; `reason` says why there may be nothing to choose from."""

    chain: Chain
    dense_s: float
    options: list[Option] = field(default_factory=list)
    reason: str = ""

    def within(self, bound: float) -> Option | None:
        """The fastest option with an error within the bound."""
        return min((one for one in self.options if one.error <= bound), key=lambda one: one.seconds, default=None)


def usable(model: nn.Module, chains: list[Chain]) -> list[Chain]:
    """The chains whose convolutions can be frozen at all."""
    return [chain for chain in chains if not _why_not(model.get_submodule(chain.conv))]


def _why_not(conv: nn.Module) -> str:
    assert isinstance(conv, nn.Conv2d)
    if conv.groups > 1:
        return "grouped convolution"
    if conv.padding_mode != "zeros":
        return f"padding_mode {conv.padding_mode}"
    if conv.weight.dtype not in (torch.float32, torch.bfloat16) or conv.weight.device.type != "cpu":
        return f"{conv.weight.dtype} on {conv.weight.device.type}"
    return ""


def try_all(
    model: nn.Module,
    chains: list[Chain],
    seen: dict[str, Seen],
    settings: Sequence[Setting] | None,
    say: Callable[[str], None],
) -> list[LayerTrial]:
    """Try every chain on what `watch` saw of it, which is used up; `say` takes a line for each."""
    layers = []
    for chain in chains:
        conv = model.get_submodule(chain.conv)
        if chain.conv not in seen:
            layers.append(LayerTrial(chain, 0.0, reason=_why_not(conv) or "not used"))
            continue
        layer = _try(model, chain, seen.pop(chain.conv), settings)
        best = min(layer.options, key=lambda one: one.seconds, default=None)
        gain = "none is faster" if best is None else f"up to {layer.dense_s / best.seconds:.1f} times as fast"
        say(f"{chain.conv}: {len(layer.options)} settings gain, {gain}")
        layers.append(layer)
    return layers


def _try(model: nn.Module, chain: Chain, seen: Seen, settings: Sequence[Setting] | None) -> LayerTrial:
    conv = model.get_submodule(chain.conv)
    assert isinstance(conv, nn.Conv2d)
    pool = model.get_submodule(chain.pool) if chain.pool else None
    stock = nn.Sequential(conv, *(model.get_submodule(name) for name in chain.rest))
    if settings is None:
        settings = SETTINGS_OF_FEW if conv.in_channels <= FEW_CHANNELS else SETTINGS
    layer = LayerTrial(chain, float("inf"), reason="no setting is faster")
    fused: dict[str, Any] = {"relu": chain.relu is not None, "pool": pool}
    x = _enough(stock, seen.input)
    slow: set[str] = set()
    for way, setting, make in _ways(conv, seen, settings, fused):
        if way in slow:  # coarser tables were too slow already, and larger ones are no faster
            continue
        frozen = make()
        dense_s, frozen_s = race((stock, frozen), x, give_up=HOPELESS)
        layer.dense_s = min(layer.dense_s, dense_s)
        if frozen_s * LEAST_GAIN < dense_s:
            table = frozen.table.numel() * frozen.table.element_size() if isinstance(frozen, FrozenConv2d) else 0
            error = output_error(frozen, stock, seen.input[-32:]) if table else 0.0
            # An option that is both slower and worse than another is never taken.
            if not any(one.seconds <= frozen_s and one.error <= error for one in layer.options):
                layer.options.append(Option(setting, make, frozen_s, error, table))
        else:
            slow.add(way)
    # Dense may have shown its best beside another setting.
    layer.options = [one for one in layer.options if one.seconds * LEAST_GAIN < layer.dense_s]
    seen.input = seen.input[:0]
    return layer


def _enough(stock: nn.Module, x: Tensor) -> Tensor:
    """As many of the images as the stock layer does in SECONDS; at least SAMPLE of them."""
    sample_s, _ = race((stock, stock), x[:SAMPLE], rounds=2)
    return x[: max(SAMPLE, int(SAMPLE * SECONDS / sample_s))]


def _ways(
    conv: nn.Conv2d, seen: Seen, settings: Sequence[Setting], fused: dict[str, Any]
) -> Iterator[tuple[str, str, Callable[[], nn.Module]]]:
    """What to try: the way, the setting of it, and its layer. First lookups, coarse before fine; then exact ones."""
    zeros = bool((seen.rows_PC >= 0).all())
    for setting in sorted(settings, key=lambda one: one.bits):
        size = setting.entries * conv.weight.numel() // setting.length * 2
        if size <= MAX_TABLE_BYTES and (zeros or not setting.skip):
            way = f"L={setting.length}" + (" skip" if setting.skip else "")
            yield way, str(setting), partial(fit, conv, seen, setting, **fused)
    sample = seen.input[:1]
    if zeros and native is not None and conv.weight.dtype == torch.float32:
        yield "zeros", "exact, zeros skipped", partial(ExactConv2d.of, conv, sample, skip=True, **fused)
    if fused["relu"] and fused["pool"] is not None and native is not None:
        yield "pool", "exact, pool fused", partial(ExactConv2d.of, conv, sample, skip=False, **fused)


def race(
    models: tuple[nn.Module, nn.Module], batch: Tensor, *, rounds: int = 4, give_up: float = float("inf")
) -> tuple[float, float]:
    """The shortest of some runs of each, in turn, in seconds; the first round warms up.

    Where the second model's first run takes `give_up` times the first one's, it counts as infinitely slow at once.
    """
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for model, taken in zip(models, seconds, strict=True):
            start = time.perf_counter()
            model(batch)
            taken.append(time.perf_counter() - start)
        if seconds[1][0] > give_up * seconds[0][0]:
            return seconds[0][0], float("inf")
    return min(seconds[0][1:]), min(seconds[1][1:])


def row_of(layer: LayerTrial, bound: float) -> LayerChoice:
    """What becomes of the layer within this bound, for the report."""
    option = layer.within(bound)
    if option is None:
        reason = "no setting is exact enough" if layer.options else layer.reason
        return LayerChoice(layer.chain.conv, None, layer.dense_s, None, None, 0, reason)
    return LayerChoice(
        layer.chain.conv, option.setting, layer.dense_s, option.seconds, option.error, option.table_bytes, ""
    )
