"""How hashing treats each type of layer: the table behind `thrifty.apply_(model, [LSH(...)])`."""

import warnings
from typing import Any

from torch import Tensor, nn

from thrifty.core.counters import Event
from thrifty.core.errors import CheckpointError
from thrifty.core.registry import Method, register_method
from thrifty.core.surgery import adopt
from thrifty.lsh.config import LSH
from thrifty.lsh.cost import SlowerThanDenseWarning, predict_hidden
from thrifty.lsh.family import draw_macs
from thrifty.lsh.hashing import sizes_for
from thrifty.lsh.linear import LSHLinear, LSHState
from thrifty.lsh.report import hash_report


def change_linear(linear: nn.Linear, name: str, config: LSH) -> nn.Module | str:
    """The replacement, or why the layer stays dense."""
    if name not in config.layers:
        return "not named in LSH.layers; a wide output layer takes LSHSoftmaxLoss or LSHMultiLabelLoss instead"
    features, neurons = linear.in_features, linear.out_features
    limit = max(1, int(config.active * neurons))
    size = sizes_for(config.hashing, neurons, features)
    if limit >= neurons:
        return f"{limit} of {neurons} neurons would be active: nothing to leave out"
    macs = draw_macs(config.hashing, features + 2, size)
    found = predict_hidden(config.batch, features, neurons, limit, size, config.mode == "shared", macs)
    if not found.pays:
        verdict = (
            f"hashing would take {found.hashed_s * 1e3:.2f} ms a step of {config.batch} rows, dense "
            f"{found.dense_s * 1e3:.2f} ms"
        )
        if not config.force:
            return f"{verdict}; LSH(force=True) changes it all the same"
        warnings.warn(f"layer {name!r}: {verdict}", SlowerThanDenseWarning, stacklevel=2)
    return adopt(linear, LSHLinear, lsh=LSHState(name, config, features, neurons))


class Counts:
    """Keeps what a resumed training needs: how far each layer's schedule is, and its tables."""

    def __init__(self, config: LSH, layers: dict[str, Any]) -> None:
        self.states: dict[str, LSHState] = {name: layer.lsh for name, layer in layers.items()}

    def step(self, step: int, loss: float) -> list[Event]:
        """Nothing moves."""
        return []

    def state_dict(self) -> dict[str, Any]:
        """Steps and tables by layer."""
        return {
            name: {"steps": state.steps, "tables": state.index.state() if state.index.tables is not None else None}
            for name, state in self.states.items()
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over such a state; raises CheckpointError when it is damaged or of other tables."""
        if set(state) != set(self.states):
            raise CheckpointError("the hashed layers' state is of other layers; start the run anew")
        loaded = {}
        for name, mine in self.states.items():
            index = type(mine.index)(mine.config.hashing, mine.index.classes, mine.index.features)
            if state[name]["tables"] is not None:
                index.load_state(state[name]["tables"])
            loaded[name] = (int(state[name]["steps"]), index)
        for name, (steps, index) in loaded.items():
            self.states[name].steps, self.states[name].index = steps, index


def look(layer: LSHLinear, x: Tensor) -> dict[str, Any]:
    """What hashing finds in a layer, for reports and plans; see `hash_report`."""
    report = hash_report(layer, x, k=min(10, layer.out_features))
    return {**report.to_dict(), "text": str(report)}


register_method(LSH, Method({nn.Linear: change_linear}, Counts, look=look))
