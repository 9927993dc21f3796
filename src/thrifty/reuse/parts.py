"""PartsState: the state of a layer that makes several products, each with an encoder of its own.

A recurrent layer multiplies its input and its state, an attention layer makes queries, keys, values and an output. To
the controller and to a checkpoint such a layer is one; inside, every product is a part with the state of a small layer.
"""

from typing import Any

from thrifty.core.errors import CheckpointError
from thrifty.reuse.config import Stage
from thrifty.reuse.state import ReuseState

REST_STEPS = 15
"""Steps that a product goes without a search for equal rows after one found too few of them."""


class PartsState(ReuseState):
    """Setting and counters of one layer, and the state of each of its products.

    Attributes:
        rest: steps left until equal rows are looked for again, by product; absent for none.
    """

    def __init__(self, name: str, seed: int, stages: tuple[Stage, ...], encoder: str = "codebook") -> None:
        super().__init__(name, seed, stages, encoder=encoder)
        self.rest: dict[str, int] = {}
        self._parts: dict[str, ReuseState] = {}

    def part(self, name: str) -> ReuseState:
        """The state of the product `name`; made when first asked for. It counts into the layer's counters."""
        if name not in self._parts:
            made = ReuseState(f"{self.name}.{name}", self.seed, self.stages, encoder=self.kind)
            made.counters, made.seconds = self.counters, self.seconds
            self._parts[name] = made
        part = self._parts[name]
        part.stage_index = self.stage_index
        return part

    def observe_exact(self, remaining_ratio: float) -> None:
        """Book a step in which equal rows shared a product, and nothing was approximated."""
        self.counters.add(remaining_ratio=remaining_ratio, error=0.0)
        self._row = {"stage": self.stage_index, "remaining_ratio": remaining_ratio, "error": 0.0}

    def take_row(self) -> dict[str, Any] | None:
        """The last observation, once: the mean over the parts where several observed something."""
        rows = [row for state in self._parts.values() if (row := state.take_row()) is not None]
        own = super().take_row()
        if own is not None or not rows:
            return own
        means = {key: sum(row[key] for row in rows) / len(rows) for key in ("remaining_ratio", "error")}
        return {"stage": self.stage_index, **means}

    def learn(self) -> None:
        """Let every part's codebooks follow the activations; once per training step."""
        for state in self._parts.values():
            state.learn()

    def state_dict(self) -> dict[str, Any]:
        """What later steps depend on, by part."""
        return {"rest": dict(self.rest), "parts": {name: state.state_dict() for name, state in self._parts.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over such a state; raises CheckpointError when it is of another kind."""
        fits = set(state) == {"rest", "parts"} and all(isinstance(value, dict) for value in state.values())
        if not fits or not all(type(steps) is int and steps > 0 for steps in state["rest"].values()):
            raise CheckpointError(f"the checkpoint's state of layer {self.name!r} is of another kind; start anew")
        self._parts.clear()
        for name, of_part in state["parts"].items():
            self.part(name).load_state_dict(of_part)
        self.rest = dict(state["rest"])
