"""Plateau: moves all layers from coarse to fine, and to exact, as training settles, and has each one probed.

Source: ADR's adaptive strategy: the next setting once the training loss stops falling. A plateau alone may never come
in a short, annealed training, so when the length of the training is known each stage also has a latest end, and the
last part is exact: what is left of the approximation's noise is trained away there.
"""

from typing import Any

from thrifty.core.counters import Event
from thrifty.core.errors import CheckpointError
from thrifty.reuse.config import Reuse
from thrifty.reuse.probe import Probe
from thrifty.reuse.state import ReuseState

_OWN = ("stage", "smoothed", "best", "best_step")


class Plateau:
    """The controller of one model's reuse layers; deterministic in the losses told and in what probes measured."""

    def __init__(self, config: Reuse, states: list[ReuseState]) -> None:
        self.config, self.states = config, states
        measured = config.measure and not config.fixed
        self.probes = [Probe(layer) for layer in states if measured and layer.skip_zeros]
        self.stage = 0
        self.smoothed: float | None = None
        self.best: float | None = None
        self.best_step = 0
        self._set_layers()

    def step(self, step: int, loss: float) -> list[Event]:
        """Let codebooks learn, and take notice of the loss of step `step` (from 1); at most one move of all layers."""
        for layer in self.states:
            layer.learn()
        events = [
            Event(step, what, reason, probe.state.name) for probe in self.probes for what, reason in probe.end_step()
        ]
        return events + self._move(step, loss)

    def measured(self) -> list[float]:
        """What every probe measured in the step that ends."""
        return [number for probe in self.probes for number in probe.measured()]

    def agree(self, means: list[float]) -> None:
        """Let every probe go by the means over all processes that train the model."""
        for i, probe in enumerate(self.probes):
            each = len(means) // len(self.probes)
            probe.agree(means[i * each : (i + 1) * each])

    def _move(self, step: int, loss: float) -> list[Event]:
        if self.config.fixed or self.stage >= len(self.config.stages):
            return []
        reason = self._stalled(step, loss) or self._out_of_time(step)
        if reason is None:
            return []
        self.stage += 1
        self.best, self.best_step = None, step
        self._set_layers()
        return [Event(step, f"stage {self.stage - 1} -> {self._describe()}", reason)]

    def state_dict(self) -> dict[str, Any]:
        """What a later step depends on."""
        own = {name: getattr(self, name) for name in _OWN}
        return {
            **own,
            "encoders": {layer.name: layer.state_dict() for layer in self.states},
            "probes": {probe.state.name: probe.state_dict() for probe in self.probes},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over such a state; raises CheckpointError when it is of another kind or config."""
        fits = (
            set(state) == {*_OWN, "encoders", "probes"}
            and state["stage"] in range(len(self.config.stages) + 1)
            and set(state["encoders"]) == {layer.name for layer in self.states}
            and set(state["probes"]) == {probe.state.name for probe in self.probes}
        )
        if not fits:
            raise CheckpointError("the reuse controller's state does not fit its settings; start the run anew")
        for name in _OWN:
            setattr(self, name, state[name])
        for layer in self.states:
            layer.load_state_dict(state["encoders"][layer.name])
        for probe in self.probes:
            probe.load_state_dict(state["probes"][probe.state.name])
        self._set_layers()

    def _stalled(self, step: int, loss: float) -> str | None:
        keep = 1.0 - 1.0 / self.config.smoothing_steps
        self.smoothed = loss if self.smoothed is None else keep * self.smoothed + (1.0 - keep) * loss
        if self.best is None or self.smoothed < self.best - self.config.min_decrease * abs(self.best):
            self.best, self.best_step = self.smoothed, step
        waited = step - self.best_step
        return f"smoothed loss stopped falling for {waited} steps" if waited >= self.config.patience else None

    def _out_of_time(self, step: int) -> str | None:
        total = self.config.total_steps
        if total is None:
            return None
        share = (1.0 - self.config.dense_share) * (self.stage + 1) / len(self.config.stages)
        return f"{share:.0%} of {total} steps are done" if step >= share * total else None

    def _describe(self) -> str:
        if self.stage == len(self.config.stages):
            return "exact"
        stage = self.config.stages[self.stage]
        return f"{self.stage} (L={stage.length}, H={stage.bits}, scope={stage.scope or 'batch'})"

    def _set_layers(self) -> None:
        for state in self.states:
            state.stage_index = self.stage
