"""The recurrences of LSTM and GRU in plain torch: the meaning, and what every derivative of any order goes through.

Sequences lie in the layout of `PackedSequence.data`: all rows of step 0, then of step 1, and so on, `sizes[t]` of them
at step t, falling. The input's share of the gates is given for all steps at once; what the state adds is asked for step
by step. Sources: Hochreiter & Schmidhuber (1997); Cho et al. (2014), in the form of `torch.nn.LSTM` and `torch.nn.GRU`.
Legend: N rows of all steps, B sequences, H width of the state, X gates times H.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad

from thrifty.ops._backend import _backend

Product = Callable[[Tensor], Tensor]
"""State rows (n, H) -> what they add to the gates, (n, X)."""
Cell = Callable[..., tuple[Tensor, ...]]
"""(input's gates (n, X), state's gates (n, X), *state (n, H)) -> the next state, whose first part is the output."""


def lstm_cell(of_input: Tensor, of_state: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, ...]:
    """Gates in the order input, forget, cell, output."""
    i, f, g, o = (of_input + of_state).chunk(4, 1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def gru_cell(of_input: Tensor, of_state: Tensor, h: Tensor) -> tuple[Tensor, ...]:
    """Gates in the order reset, update, new."""
    width = h.shape[1]
    r, z = (of_input[:, : 2 * width] + of_state[:, : 2 * width]).sigmoid().chunk(2, 1)
    n = (of_input[:, 2 * width :] + r * of_state[:, 2 * width :]).tanh()
    return (n + z * (h - n),)


def steps_of(sizes: Sequence[int], reverse: bool) -> Iterator[slice]:
    """The rows of every step, in the order in which the recurrence meets them."""
    ends, end = [], 0
    for size in sizes:
        end += size
        ends.append(slice(end - size, end))
    return reversed(ends) if reverse else iter(ends)


def recur(
    gates_NX: Tensor, state: tuple[Tensor, ...], sizes: Sequence[int], reverse: bool, product: Product, cell: Cell
) -> tuple[Tensor, ...]:
    """Outputs (N, H), and the state (B, H) of each sequence after its last step (in reverse: its first)."""
    outputs: dict[int, Tensor] = {}
    for rows in steps_of(sizes, reverse):
        size = rows.stop - rows.start
        live = tuple(part[:size] for part in state)
        moved = cell(gates_NX[rows], product(live[0]), *live)
        outputs[rows.start] = moved[0]
        state = tuple(
            new if size == len(old) else torch.cat([new, old[size:]]) for new, old in zip(moved, state, strict=True)
        )
    return torch.cat([outputs[start] for start in sorted(outputs)]), *state


def plain_needed() -> bool:
    """Whether only plain torch will do: a transform of torch.func, forward mode, or the backend `reference`."""
    transformed: bool = torch._C._are_functorch_transforms_active()
    return transformed or forward_ad._current_level >= 0 or _backend.get() == "reference"


FIRST_ORDER_ONLY = (
    "this recurrence has first derivatives only; for higher ones take the stock layer (thrifty.remove_), "
    "or torch.func, which runs it in plain torch"
)
