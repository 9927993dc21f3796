"""Probe: measures, in the first steps of a training, which way of computing is the fastest for one layer.

A few steps run dense and a few by their nonzeros, forward and backward; from the seconds follows the share of nonzeros
up to which skipping pays (`ReuseState.limits`). After that a stage of clusters is watched for a few steps: where it
takes longer than exact products, the layer leaves it for good. So no layer is slower than dense for more than these
steps. A layer that finds nothing to skip, as in front of BatchNorm, rests: it runs as stock, and looks again later.
What was measured is part of the state: a resumed training does not decide anew.
"""

from typing import Any

from thrifty.core.errors import CheckpointError
from thrifty.ops._stages import Route
from thrifty.ops.skip_conv2d import DIRECTIONS
from thrifty.reuse.state import ReuseState

PLAN = ("dense", "dense", "skip", "skip", "dense", "skip")  # the first of each kind only warms up
_NEVER, _ALWAYS = -1.0, 2.0  # limits below and above every share
CAUTION = 0.95  # of the share at which both ways took equally long
IDLE_STEPS, REST_STEPS = 3, 100  # steps in a row without a skip before a rest, and how long that is
WARM_UP, WATCHED = 3, 3  # steps of a new stage: left out, and compared

Move = tuple[str, str]
Taken = tuple[dict[str, Route], float]


class Probe:
    """The measurements of one layer; `end_step` after each training step."""

    def __init__(self, state: ReuseState) -> None:
        self.state = state
        self.at = 0
        self.samples: dict[str, list[list[float]]] = {}
        self.exact_s: float | None = None
        self.watched: list[float] = []
        self.stage = -1
        self.idle = 0
        self._settled = list(state.limits)
        self._taken: Taken | None = None
        self._set()

    def measured(self) -> list[float]:
        """The step that ends in numbers: for each direction whether it ran, skipped, its share and seconds; seconds."""
        self._taken = self.state.seconds.end_step()
        routes, seconds = self._taken
        numbers: list[float] = []
        for direction in DIRECTIONS:
            route = routes.get(direction)
            numbers += [1.0, float(route.skipped), route.share, route.seconds] if route else [0.0] * 4
        return [*numbers, seconds]

    def agree(self, means: list[float]) -> None:
        """Take the means over all processes instead: of a direction that all ran, skipped if any of them did."""
        routes = {}
        for i, direction in enumerate(DIRECTIONS):
            ran, skipped, share, seconds = means[4 * i : 4 * i + 4]
            if ran == 1.0:
                routes[direction] = Route(share, skipped > 0.0, seconds)
        self._taken = routes, means[-1]

    def end_step(self) -> list[Move]:
        """Take in the step that ends, set the layer for the next one, and tell what was decided: (what, reason)."""
        routes, seconds = self._taken or self.state.seconds.end_step()
        self._taken = None
        if self.state.probing:
            return self._probed(routes)
        self._rest(routes)
        if self.state.stage is not None and self.exact_s is not None:
            return self._watched(seconds)
        return []

    def _rest(self, routes: dict[str, Route]) -> None:
        """Let the layer rest where it skipped nothing for some steps."""
        if self.state.resting:
            self.state.resting -= 1
            return
        self.idle = self.idle + 1 if routes and not any(route.skipped for route in routes.values()) else 0
        if self.idle == IDLE_STEPS:
            self.idle, self.state.resting = 0, REST_STEPS

    def _probed(self, routes: dict[str, Route]) -> list[Move]:
        if not routes:  # the layer ran in a way that is not ours to choose: reduced precision, a transform, no kernels
            self.at = len(PLAN)
            self._set()
            return []
        kind = PLAN[self.at]
        if kind in PLAN[: self.at]:
            for direction, route in routes.items():
                if route.skipped == (kind == "skip"):
                    self.samples.setdefault(f"{kind} {direction}", []).append([route.share, route.seconds])
        self.at += 1
        moves = []
        if self.at == len(PLAN):
            best = [self._decide(direction) for direction in DIRECTIONS]
            self.exact_s = sum(s for s, _ in best)
            moves = [(told, "measured") for _, told in best if told]
        self._set()
        return moves

    def _decide(self, direction: str) -> tuple[float, str]:
        """Set the limit of one direction; its fastest seconds, and what to tell."""
        dense, skip = (self.samples.get(f"{kind} {direction}", []) for kind in ("dense", "skip"))
        if not dense or not skip:
            return min((s for _, s in dense), default=0.0), ""
        dense_s = min(s for _, s in dense)
        share, skip_s = min(skip, key=lambda sample: sample[1])
        limit = min(1.0, CAUTION * share * dense_s / skip_s) if share > 0 else 1.0
        self._settled[DIRECTIONS.index(direction)] = limit
        told = (
            f"{direction}: dense {1e3 * dense_s:.1f} ms, by {share:.0%} nonzeros {1e3 * skip_s:.1f} ms; "
            f"skips zeros up to {limit:.0%}"
        )
        return min(dense_s, skip_s), told

    def _watched(self, seconds: float) -> list[Move]:
        if self.stage != self.state.stage_index:
            self.stage, self.watched = self.state.stage_index, []
        if len(self.watched) >= WARM_UP + WATCHED:
            return []
        self.watched.append(seconds)
        if len(self.watched) < WARM_UP + WATCHED:
            return []
        clusters_s, exact_s = min(self.watched[WARM_UP:]), self.exact_s or 0.0
        if clusters_s <= exact_s:
            return []
        self.state.clusters_pay = False
        return [
            ("exact products for good", f"clusters take {1e3 * clusters_s:.1f} ms a step, exact {1e3 * exact_s:.1f} ms")
        ]

    def _set(self) -> None:
        self.state.probing = self.at < len(PLAN)
        self.state.limits = self._settled
        if self.state.probing:
            self.state.limits = [_NEVER if PLAN[self.at] == "dense" else _ALWAYS] * len(DIRECTIONS)

    def state_dict(self) -> dict[str, Any]:
        """What was measured and decided."""
        return {
            "at": self.at,
            "samples": self.samples,
            "exact_s": self.exact_s,
            "watched": self.watched,
            "stage": self.stage,
            "limits": self._settled,
            "clusters_pay": self.state.clusters_pay,
            "idle": self.idle,
            "resting": self.state.resting,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over such a state; raises CheckpointError when it is damaged."""
        try:
            self.at, self.exact_s, self.stage = state["at"], state["exact_s"], state["stage"]
            self.samples = {name: [list(row) for row in rows] for name, rows in state["samples"].items()}
            self.watched = list(state["watched"])
            limits, pay = [float(limit) for limit in state["limits"]], bool(state["clusters_pay"])
            idle, resting = int(state["idle"]), int(state["resting"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"a layer's measurements are damaged ({error!r}); start the run anew") from error
        if len(limits) != len(DIRECTIONS) or not (isinstance(self.at, int) and 0 <= self.at <= len(PLAN)):
            raise CheckpointError("a layer's measurements are of another version; start the run anew")
        self._settled, self.state.clusters_pay = limits, pay
        self.idle, self.state.resting = idle, resting
        self._set()
