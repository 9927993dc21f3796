"""What two workers do in the tests of `thrifty train`; each function runs on both."""

import copy
import io
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import tiny_nets
import torch
import torch.distributed as dist
from rich.console import Console
from torch.nn.parallel import DistributedDataParallel

import thrifty
from thrifty.core.errors import ThriftyError
from thrifty.distributed.workers import joined
from thrifty.train import TrainConfig, run
from thrifty.train.arms import parse_arms
from thrifty.train.loop import train_epoch
from thrifty.train.session import Session
from thrifty.train.trial import make_plan


def told(config: TrainConfig) -> dict[str, Any]:
    """Train, and return the code, what was shown, and the events of the first arm; or the error."""
    shown = io.StringIO()
    try:
        outcome = run(config, console=Console(file=shown, width=200))
    except ThriftyError as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return {"code": outcome.exit_code, "shown": shown.getvalue(), "reports": outcome.reports}


def interrupted(config: TrainConfig, step: int) -> dict[str, Any]:
    """Train until worker 1 gets a SIGINT in that step."""
    os.environ.update({tiny_nets.SIGNAL_AT: str(step), tiny_nets.RANK: "1"})
    tiny_nets._SignalAt.steps = 0
    try:
        return told(config)
    finally:
        del os.environ[tiny_nets.SIGNAL_AT]


def rank_events(config: TrainConfig) -> list[dict[str, Any]]:
    """What the controllers of this worker did in an epoch that is trained by hand."""
    config = config.resolved()
    arms = parse_arms(config)
    with joined() as workers:
        plan = make_plan(config, arms, workers=workers)
        session = Session(config, arms[0], plan.data, steps=plan.steps, workers=workers)
        for epoch in range(plan.epochs):
            train_epoch(
                session,
                plan.train_batches(epoch, 0),
                label_smoothing=0.0,
                last_step=plan.steps,
                images_a_step=plan.images_a_step,
                wishes=lambda step: (),
                after_step=lambda told: None,
            )
            session.tally.end_epoch(test_loss=0.0, test_accuracy=0.0)
    return [{"step": e.step, "what": e.what, "reason": e.reason, "layer": e.layer} for e in session.applied.events]


def reuse_gradients() -> float:
    """How far the gradients of a model with clusters are from the mean of the two workers' own, relative to it.

    Each worker's own are those of its approximate loss, taken on a model that nobody shares; the codebooks of both come
    from the same first batch.
    """
    torch.manual_seed(0)
    stock = torch.nn.Sequential(
        torch.nn.Conv2d(16, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8 * 36, 4)
    )
    config = thrifty.Reuse(
        stages=(thrifty.Stage(length=8, bits=3),), fixed=True, gradients="clusters", skip_zeros=False
    )
    source = torch.Generator().manual_seed(dist.get_rank())
    images, labels = torch.randn(6, 16, 6, 6, generator=source), torch.randint(4, (6,), generator=source)
    gradients = []
    for shared in (False, True):
        model = copy.deepcopy(stock)
        applied = thrifty.apply_(model, [config], group=dist.group.WORLD)
        called = DistributedDataParallel(model) if shared else model
        for _ in range(2):  # in the second step the codebooks have learned
            model.zero_grad()
            loss = torch.nn.functional.cross_entropy(called(images), labels)
            loss.backward()
            applied.step(loss)
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
        assert 0 < applied.counters()["0"].remaining_ratio < 0.6
    own, found = gradients
    dist.all_reduce(own)
    assert not torch.equal(gradients[0], found)
    return float((found - own / 2).norm() / (own / 2).norm())


def everything(folder: str, configs: dict[str, TrainConfig]) -> dict[str, Any]:
    os.environ["RANK"] = str(dist.get_rank())
    rank, found = dist.get_rank(), {}
    found["plain"] = told(configs["plain"])
    found["whole"] = told(configs["whole"])
    found["interrupted"] = interrupted(configs["broken"], 10)
    found["resumed"] = told(replace(configs["broken"], resume=True))
    found["interrupted for damage"] = interrupted(configs["damaged"], 10)
    if rank == 0:
        last = Path(str(configs["damaged"].out)) / "checkpoints" / "dense" / "last"
        part = next(path for path in sorted(last.iterdir()) if path.name.startswith("__1_"))
        content = bytearray(part.read_bytes())
        content[len(content) // 2] ^= 1
        part.write_bytes(content)
    found["resumed after damage"] = told(replace(configs["damaged"], resume=True))
    found["interrupted for one"] = interrupted(configs["for one"], 10)
    found["begun by one"] = told(replace(configs["by one"], resume=True))
    found["wire"] = told(configs["wire"])
    found["planned"] = told(configs["planned"])
    file = Path(str(configs["planned"].out)) / "plans" / "dense.json"
    before = file.stat().st_mtime_ns
    found["planned, interrupted"] = interrupted(configs["planned from file"], 10)
    found["planned, resumed"] = told(replace(configs["planned from file"], resume=True))
    found["plan used again"] = file.stat().st_mtime_ns == before
    found["turns bad"] = told(configs["turns bad"])
    found["few images"] = told(replace(configs["plain"], batch_size=1, out=f"{folder}/few"))
    found["other seed"] = told(replace(configs["plain"], seed=rank, out=f"{folder}/other"))
    here = Path.cwd()
    os.chdir(Path(configs["plain"].data).parent if rank == 0 else "/")
    images = Path(configs["plain"].data).name
    found["no data on one"] = told(replace(configs["plain"], data=f"./{images}", out=f"{folder}/absent"))
    os.chdir(here)
    found["not empty"] = told(configs["plain"])
    found["unused"] = told(configs["unused"])
    found["events"] = rank_events(configs["reuse"])
    found["reuse gradients"] = reuse_gradients()
    return found
