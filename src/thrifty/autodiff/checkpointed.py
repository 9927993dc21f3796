"""Reverse mode with few snapshots: run the program once and record it, then reverse it segment by segment.

Source: Siskind & Pearlmutter, *Divide-and-Conquer Checkpointing for Arbitrary Programs with No User Annotation* (OMS
33, 2018), whose recursion splits any run in the middle and differentiates both halves. Deviations: a half is not
resumed from a continuation but replayed from the record of its operations, so user code runs once; the split is
binomial; snapshots are placed during the one recorded run, whose length need not be known. With n steps and c
snapshots the cost is the n steps of the run, t(n, c) - (n - 1) replayed ones (revolve) and n taped ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from thrifty.autodiff.budget import Budget
from thrifty.autodiff.context import derivatives_stop, library_code
from thrifty.autodiff.custom import functions_taken_whole
from thrifty.autodiff.errors import MemoryLimitError
from thrifty.autodiff.levels import fresh_input, level_open, open_levels
from thrifty.autodiff.marks import snapshots_of
from thrifty.autodiff.placement import Known, Online, logarithmic, small_steps
from thrifty.autodiff.recorder import Recorder
from thrifty.autodiff.replay import Replayer
from thrifty.autodiff.revolve import split
from thrifty.autodiff.snapshot import Snapshot, changed_behind, version_of


@dataclass
class Account:
    """What a checkpointed derivative did.

    Attributes:
        steps, operations: of the recorded run.
        replayed_steps: run forward again without autograd; `replayed_ops` operations in them.
        taped_ops: operations run again with autograd.
        snapshots: the most that were held at once.
        record_bytes: of the record.
        peak_live_bytes: largest sum of tensors that the recorded run itself kept alive.
        largest_step_bytes: largest sum of tensors made in a step.
        snapshot_bytes: largest snapshot.
        events: what the reversal did, in order: ("advance" or "tape", from step, to step, snapshots held).
    """

    steps: int = 0
    operations: int = 0
    replayed_steps: int = 0
    replayed_ops: int = 0
    taped_ops: int = 0
    snapshots: int = 0
    record_bytes: int = 0
    peak_live_bytes: int = 0
    largest_step_bytes: int = 0
    snapshot_bytes: int = 0
    events: list[tuple[str, int, int, int]] | None = None

    @property
    def forward_steps(self) -> int:
        """Steps advanced, as the literature counts them: the run but its last step, and the replayed ones."""
        return self.steps - 1 + self.replayed_steps


class Lengths:
    """Lengths of earlier runs of a function, so that the next run places its snapshots where they belong."""

    def __init__(self) -> None:
        self._by_key: dict[Any, tuple[int, int]] = {}

    @staticmethod
    def key(leaves: Sequence[Tensor]) -> Any:
        """What runs of equal length are told by: shapes and dtypes of the inputs."""
        return tuple((tuple(leaf.shape), leaf.dtype) for leaf in leaves)

    def known(self, key: Any) -> tuple[int, int] | None:
        """The length of the last run with this key, and how many steps were taken as one."""
        return self._by_key.get(key)

    def learn(self, key: Any, steps: int, stride: int) -> None:
        """Keep a length."""
        self._by_key[key] = steps, stride


class CheckpointedRun:
    """One recorded run of a function, ready to be reversed.

    Args:
        call: takes the input tensors in a list; may return anything.
        inputs: the differentiated tensors.
        budget: how much to keep.
        lengths: of earlier runs of this function.

    Attributes:
        result: what `call` returned.
        account: what has been done so far.
    """

    def __init__(
        self, call: Callable[[list[Tensor]], Any], inputs: Sequence[Tensor], budget: Budget, lengths: Lengths
    ) -> None:
        self.account = Account()
        self._budget = budget
        self._given = [(tensor, version_of(tensor)) for tensor in inputs]
        key = Lengths.key(inputs)
        rule = self._rule(budget, lengths.known(key))
        self._recorder = recorder = Recorder(rule)
        own = [fresh_input(tensor) for tensor in inputs]
        with functions_taken_whole(), level_open(), recorder, torch.enable_grad():
            self._inputs = [recorder.add_input(tensor) for tensor in own]
            self.result = call(own)
        leaves = [leaf for leaf in pytree.tree_leaves(self.result) if isinstance(leaf, Tensor)]
        self._registers = {id(leaf): recorder.find(leaf)[1] for leaf in leaves}
        recorder.close()
        snapshots = snapshots_of(recorder.snapshots)
        recorder.snapshots.clear()
        recorder.forget_objects(leaves)
        self._replayer = Replayer(recorder)
        self._snapshots: list[Snapshot] | None = snapshots
        self._initial = snapshots[0]
        account, program = self.account, recorder.program
        account.steps, account.operations = program.steps, program.operations
        account.record_bytes, account.snapshots = program.record_bytes, rule.most
        account.peak_live_bytes, account.largest_step_bytes = recorder.peak_live_bytes, recorder.largest_step_bytes
        stride = small_steps(recorder.largest_step_bytes) if budget.logarithmic else 1
        account.snapshot_bytes = max(sum(snapshot.storages().values()) for snapshot in snapshots)
        lengths.learn(key, program.steps, stride)

    def _rule(self, budget: Budget, known: tuple[int, int] | None) -> Online | Known:
        if budget.limit_bytes is not None:
            limit = budget.limit_bytes
            return Online(
                lambda recorder, marked: (
                    recorder.live_bytes + marked > limit - _taped_bytes(limit, recorder.largest_step_bytes)
                ),
                lambda step_bytes: _strides(limit, step_bytes),
                weigh=True,
            )
        if known is not None and known[0] > 1:
            steps, stride = known
            return Known(steps, budget.snapshots or logarithmic(steps), stride)
        if budget.snapshots is not None:
            most = budget.snapshots
            return Online(lambda recorder, _: len(recorder.snapshots) >= most)
        return Online(
            lambda recorder, _: len(recorder.snapshots) >= logarithmic(recorder.program.steps),
            small_steps,
        )

    def pull_back(self, outputs: Sequence[Tensor], cotangents: Sequence[Tensor]) -> list[Tensor | None]:
        """Cotangents of the inputs, from those of the outputs. May be called again; then it sweeps from the start.

        Raises:
            ReplayError: an input, a parameter or data changed in place since the run.
        """
        for tensor, version in self._given:
            if version_of(tensor) != version:
                raise changed_behind(tensor)
        self._replayer.check_externals()
        at: dict[int, Tensor] = {}
        with library_code(stops=derivatives_stop() and open_levels() > 0), torch.enable_grad(), _no_autocast():
            for output, cotangent in zip(outputs, cotangents, strict=True):
                register = self._registers[id(output)]
                at[register] = at[register] + cotangent if register in at else cotangent
            random = [(g, g.get_state()) for g in self._recorder.generators()]
            try:
                at = self._reverse(at)
            finally:
                for generator, state in random:
                    generator.set_state(state)
                self._replayer.program.forget_plain()
        self.account.replayed_ops = self._replayer.replayed_ops
        self.account.taped_ops = self._replayer.taped_ops
        return [at.get(register) for register in self._inputs]

    def _reverse(self, at: dict[int, Tensor]) -> dict[int, Tensor]:
        account, replayer = self.account, self._replayer
        stride = self._taped_steps()
        snapshots = self._snapshots if self._snapshots is not None else [self._initial]
        self._snapshots = None
        end = account.steps

        def note(what: str, start: int, stop: int) -> None:
            if what == "advance":
                account.replayed_steps += stop - start
            if account.events is not None:
                account.events.append((what, start, stop, len(snapshots)))

        while end > 0:
            while len(snapshots) > 1 and end - snapshots[-2].step <= stride:
                snapshots.pop()  # all that comes after the one before can be taped at once
            start = snapshots[-1]
            gap = end - start.step
            if gap <= stride:
                note("tape", start.step, end)
                at = replayer.pull_back(start, end, at)
                end = start.step
                if len(snapshots) > 1:
                    snapshots.pop()
                continue
            room = self._room(snapshots)
            if room < 1:
                middle = end - stride
                note("advance", start.step, middle)
                state = replayer.advance(start, middle)
                note("tape", middle, end)
                at = replayer.pull_back(state, end, at)
                end = middle
                continue
            units = -(-gap // stride)
            middle = start.step + split(units, room + 1) * stride
            note("advance", start.step, middle)
            snapshots.append(replayer.advance(start, middle))
            account.snapshots = max(account.snapshots, len(snapshots))
        return at

    def _room(self, snapshots: list[Snapshot]) -> int:
        """How many more snapshots may be kept."""
        budget = self._budget
        if budget.limit_bytes is None:
            allowed = budget.snapshots or logarithmic(self.account.steps)
            return allowed - len(snapshots)
        held: dict[int, int] = {}
        for snapshot in snapshots:
            held |= snapshot.storages()
        largest = max(self.account.snapshot_bytes, 1)
        free = (
            budget.limit_bytes - sum(held.values()) - _taped_bytes(budget.limit_bytes, self.account.largest_step_bytes)
        )
        return int(free // largest) - 1  # one more state is at hand while advancing

    def _taped_steps(self) -> int:
        """How many steps are taped at once: one, or as many as a limit in bytes leaves room for."""
        limit = self._budget.limit_bytes
        if limit is None:
            return small_steps(self.account.largest_step_bytes) if self._budget.logarithmic else 1
        least = _TAPE_FACTOR * self.account.largest_step_bytes + 2 * self.account.snapshot_bytes
        if limit < least:
            raise MemoryLimitError(
                f"memory={limit} bytes is too small for this program: it needs about {least}", needed_bytes=least
            )
        return _strides(limit, self.account.largest_step_bytes)


_TAPE_FACTOR = 4  # bytes to tape and reverse a step, by those that it makes


def _strides(limit_bytes: int, step_bytes: int) -> int:
    """How many steps may be taped at once under a limit: half of it is for them."""
    return max(1, (limit_bytes // 2) // max(_TAPE_FACTOR * step_bytes, 1))


def _taped_bytes(limit_bytes: int, step_bytes: int) -> int:
    return _strides(limit_bytes, step_bytes) * _TAPE_FACTOR * step_bytes


class _no_autocast:
    """Recorded operations have been cast already."""

    def __enter__(self) -> None:
        self._guard = torch._C._DisableAutocast()
        self._guard.__enter__()

    def __exit__(self, *error: object) -> None:
        self._guard.__exit__(*error)
