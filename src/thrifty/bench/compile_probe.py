"""Does torch.compile make a dense training step quicker here? Timed in a process of its own, before the training.

The compiler leaves hundreds of megabytes behind and may fail in its own ways: neither shall touch the arms.
"""

from __future__ import annotations

import multiprocessing
from dataclasses import replace
from itertools import cycle
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thrifty.train import TrainConfig
    from thrifty.train.session import Session

HELPS = 1.03  # how many times quicker a compiled step must be to be worth an arm
PRECISIONS = ("dense", "dense@bf16")
_BATCHES, _REPEATS = 2, 7


def probe(config: TrainConfig) -> dict[str, Any]:
    """Return what compiling brings, by precision, and which compiled arm to train.

    Returns:
        `steps`: for each of `PRECISIONS` `eager_s`, `compiled_s`, `compile_s` or `reason`, why it did not compile;
        `arm`: the precision whose compiled step is the quickest, None when none is at least `HELPS` times as quick as
        it is uncompiled; `reason`: one line for people.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return choose({precision: pool.apply(_measure, (config, precision)) for precision in PRECISIONS})


def choose(steps: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Draw the conclusion from what was measured; see `probe`."""
    helped = {
        precision: found["compiled_s"]
        for precision, found in steps.items()
        if "compiled_s" in found and found["eager_s"] / found["compiled_s"] >= HELPS
    }
    arm = min(helped, key=lambda precision: helped[precision], default=None)
    return {"steps": steps, "arm": arm, "reason": "; ".join(_words(name, found) for name, found in steps.items())}


def _words(precision: str, found: dict[str, Any]) -> str:
    if "compiled_s" not in found:
        return f"{precision} does not compile ({found['reason']})"
    return f"{precision} {found['eager_s']:.3g} s a step, compiled {found['compiled_s']:.3g} s"


def _measure(config: TrainConfig, precision: str) -> dict[str, Any]:
    """Time steps on a few batches, plain and compiled in turn."""
    import time

    from thrifty.bench.timing import interleave, median_min_max
    from thrifty.train.arms import parse_arms
    from thrifty.train.loop import train_step
    from thrifty.train.session import Session
    from thrifty.train.trial import make_plan

    images = config.batch_size * _BATCHES
    limited = min(images, config.limit_train or images)
    config = replace(config, limit_train=limited, limit_test=10, methods=precision, baseline="none", settings=())
    config = replace(config.resolved(), learning_rate=1e-9)  # the numbers stay finite, whatever the network
    arm = parse_arms(config)[0]
    plan = make_plan(config, [arm])
    batches = list(plan.train_batches(0, 0))

    def stepper(session: Session):  # type: ignore[no-untyped-def]
        turn = cycle(batches)
        return lambda: train_step(session, *next(turn), label_smoothing=0.0)

    calls = {
        name: stepper(Session(replace(config, compile=name == "compiled"), arm, plan.data, steps=1000))
        for name in ("eager", "compiled")
    }
    start = time.perf_counter()
    try:
        calls["compiled"]()
    except Exception as error:  # a compiler may raise anything
        calls.pop("compiled")
        failure = str(error).splitlines()[0] if str(error) else type(error).__name__
    compile_s = time.perf_counter() - start
    timed = interleave(calls, _REPEATS, warmup=2)
    found: dict[str, Any] = {f"{name}_s": median_min_max(seconds).median for name, seconds in timed.items()}
    return {**found, "compile_s": compile_s} if "compiled" in timed else {**found, "reason": failure}
