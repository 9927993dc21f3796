"""The unbroken runs of the fault drills, and the judgement on the broken ones.

Each try is judged by three counts. `lost`: a run that went on from before the last step that it had said to be saved.
`wrong`: weights or losses that differ in a bit from those of an unbroken run, or data other than those written.
`unclear`: an end without one line that says what to do. All three should be 0.
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thrifty.bench.fault_runs import Told

Outcome = tuple[bytes, bytes]
"""Weights and losses."""
EPOCHS, STEPS_PER_EPOCH = 3, 7
REUSE, LSH = "reuse", "lsh"
_ARMS: dict[str, dict[str, Any]] = {
    REUSE: {
        "model": "thrifty.bench.fault_net:net",
        "settings": (
            "reuse.measure=false", 'reuse.stages=[{"length":8,"bits":4}]', "reuse.patience=3",
            "reuse.smoothing_steps=2",
        ),
    },
    LSH: {
        "model": "thrifty.bench.fault_net:wide_net",
        "settings": ('lsh.layers=["2"]', "lsh.active=0.3", "lsh.force=true", 'lsh.hashing={"refresh_every":2}'),
    },
}  # fmt: skip


@dataclass
class Count:
    """Of the tries of one fault."""

    tries: int = 0
    lost: int = 0
    wrong: int = 0
    unclear: int = 0


class Drill:
    """The unbroken runs, a folder for the broken ones, and the judgement on them."""

    def __init__(self, folder: Path, tries: int, seed: int) -> None:
        from thrifty.bench.fault_runs import complete, write_images

        self.folder, self.tries, self.draw = folder, tries, random.Random(seed)
        self.images, self.answer = folder / "images.zip", folder / "answer.json"
        write_images(self.images)
        complete(self.settings("warm"), self.answer)
        self.count = Count()
        self._whole: dict[str, tuple[Outcome, float]] = {}

    def settings(self, name: str, arm: str = REUSE, **more: Any) -> dict[str, Any]:
        """Settings of `thrifty train`: 21 steps with codebooks or hash tables, a checkpoint after each."""
        return {
            "data": str(self.images), "out": str(self.folder / name), "methods": arm, "baseline": "none",
            "epochs": EPOCHS, "batch_size": 8, "threads": 1, "checkpoint_every": 1, **_ARMS[arm], **more,
        }  # fmt: skip

    def whole(self, settings: dict[str, Any], group: bool = False) -> tuple[Outcome, float]:
        """Weights and losses of the unbroken run of such settings, and the seconds that it takes."""
        from thrifty.bench.fault_group import complete_group
        from thrifty.bench.fault_runs import complete, outcome

        key = f"whole-{settings['methods']}{'-group' * group}"
        if key not in self._whole:
            asked = {**settings, "out": str(self.folder / key)}
            start = time.perf_counter()
            told = complete_group(asked, self.folder, attempt=0) if group else [complete(asked, self.answer)]
            found = outcome(Path(asked["out"]), settings["methods"])
            if any(one.code for one in told) or found is None:
                raise RuntimeError(f"the unbroken run failed: {[one.message for one in told]}")
            self._whole[key] = found, time.perf_counter() - start
        return self._whole[key]

    def judge_end(self, code: int) -> None:
        """Count an end that told nobody what to do; a kill tells nothing, and need not."""
        self.count.unclear += code == 2

    def judge_resumed(self, settings: dict[str, Any], saved: int) -> None:
        """Go on with a broken run, without the fault, and compare it with the unbroken one."""
        from thrifty.bench.fault_runs import complete

        begun = (Path(settings["out"]) / "result.json").exists()
        told = complete({**settings, "resume": begun}, self.answer)
        self.judge_outcome(settings, [told], saved, self.whole(settings)[0])

    def judge_outcome(self, settings: dict[str, Any], told: Sequence[Told], saved: int, whole: Outcome) -> None:
        """Judge a run that went on after `saved` steps, by what its processes told, the first to report first."""
        from thrifty.bench.fault_runs import outcome

        out, failed = Path(settings["out"]), any(one.code for one in told)
        self.count.lost += told[0].began_at is not None and told[0].began_at < saved
        self.count.wrong += not failed and outcome(out, settings["methods"]) != whole
        # Without a fault there is no reason not to come to the end.
        self.count.unclear += failed
        shutil.rmtree(out, ignore_errors=True)
