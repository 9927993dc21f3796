"""Where a training step is: noting what it does, or following the plan that was made for steps like it."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

from torch import Tensor

from thrifty.autodiff.choosing import expected, least_bytes
from thrifty.autodiff.operations import Operation
from thrifty.autodiff.plan import Groups, Plan
from thrifty.autodiff.planner import Planner
from thrifty.autodiff.rematerialise import Rematerialiser
from thrifty.autodiff.trace import Trace
from thrifty.autodiff.values import Content, Node

_MARGIN = 20  # a limit that is named is larger by this part than what is expected


class Course:
    """One step after the other.

    Attributes:
        count: operations of the present step so far, views left out. saves: contents that autograd saved so far.
        contents: weak references to what they made, by index; None for what was not noted.
        script: where a plan in groups is followed, what need not be noted; else None.
        backward: the step has begun to go backward.
        plan: what is followed, or None. trace: what is noted, or None.
        route: what backward follows; on the first step, a plan made when backward begins, if the limit was reached.
    """

    def __init__(self, store: Rematerialiser, planner: Planner | None) -> None:
        self.store, self.planner = store, planner
        self.count = self.saves = 0
        self.contents: list[weakref.ref[Content] | None] = []
        self.script: Groups | None = None
        self.backward = False
        self.plan: Plan | None = None
        self.route: Plan | None = None
        self.trace: Trace | None = None
        store.least_bytes = self._least_bytes
        self._block = self._at = 0
        self._swept = False
        self._evicted = 0

    def begin(self) -> None:
        """A step begins."""
        store = self.store
        self.count, self.saves, self.contents, self.backward = 0, 0, [], False
        self.plan = self.route = self.trace = self.script = None
        self._block, self._swept, self._evicted = 1 << 60, False, store.evicted
        self._made: set[int] = set()
        store.ahead = store.pending = None
        store.free = store.partly = False
        store.counting = True
        store.begin()
        planner = self.planner
        if planner is not None:
            self.plan = self.route = planner.plan
            self.trace = Trace() if self.plan is None else None
            if self.plan is not None and self.plan.groups is not None:
                store.pending = dict(self.plan.groups.pending)
                if planner.steady and planner.proven:
                    self.script = self.plan.groups
                    store.free = store.partly = True
                    store.counting = False

    def end(self) -> None:
        """The step is over: nothing that it saved is needed any more."""
        store, planner = self.store, self.planner
        if planner is not None and self.count:
            if self.plan is not None and (planner.proven or self.count == len(self.plan.operations)):
                planner.followed(store.step_peak_bytes, store.forced > 0)
                if self.script is not None:
                    store.peak_bytes = max(store.peak_bytes, planner.peak_bytes)
            elif self.plan is not None:
                planner.left()
            elif self.trace is not None:
                self.trace.evicted = store.evicted > self._evicted
                planner.noted(self.trace)
        store.end()
        self.begin()

    def over(self) -> bool:
        """True if the step went backward and nothing that it saved is left."""
        return self.backward and self.store.handles == 0

    # -- forward -------------------------------------------------------------------------------------------------

    def unnoted(self, op: Operation) -> bool:
        """True if this operation is what the plan foresees next, and need not be noted."""
        script, plan, at = self.script, self.plan, self.count
        if script is None or plan is None or at >= len(plan.operations):
            return False
        return plan.operations[at] is op and not script.noted[at]

    def passed(self, result: Any) -> None:
        """An operation that need not be noted has run: its result is to be as large as the plan foresees."""
        plan, at = self.plan, self.count
        self.count = at + 1
        assert plan is not None
        if isinstance(result, Tensor) and plan.makes[at]:
            foreseen = plan.nbytes[plan.makes[at][0]]  # 0 for what the step found
            if foreseen and result.untyped_storage().nbytes() != foreseen:
                self._leave()

    def next_index(self) -> int:
        """The index of the next content; those of what was not noted are passed over."""
        script, contents = self.script, self.contents
        if script is not None and self.count < len(script.noted):
            contents.extend([None] * (script.first[self.count] - len(contents)))
        return len(contents)

    def ran(self, node: Node, made: list[Content]) -> None:
        """An operation has run and made these contents."""
        at = self.count
        self.count = at + 1
        plan, trace = self.plan, self.trace
        if plan is not None:
            sizes = plan.nbytes
            if at >= len(plan.operations) or plan.operations[at] is not node.operation:
                self._leave()
                return
            for content in made:
                if content.index >= len(sizes) or sizes[content.index] != content.nbytes:
                    self._leave()
                    return
        elif trace is not None:
            trace.operations.append(node.operation)
            if not node.replayable:
                trace.fixed.add(at)
            trace.seconds.append(node.cost_s)
            trace.reads.append(tuple(r.content.index for r in node.reads if r.content.index >= 0 and r.copy is None))
            trace.makes.append(tuple(content.index for content in made))
            for content in made:
                trace.nbytes.append(content.nbytes)
                trace.home.append(at)
            for read in node.reads:
                leaf = read.content.kept if read.content.node is None else None
                if leaf is not None and leaf.requires_grad and leaf.is_leaf and leaf.grad is None:
                    trace.leaves[read.content.tie.key] = at, leaf.nbytes

    def _leave(self) -> None:
        """The step does something else than the plan foresaw: the online rule takes over."""
        assert self.planner is not None
        self.planner.left()
        self.plan = self.route = self.script = None
        store = self.store
        store.ahead = store.pending = None
        store.free = False
        store.counting = True

    def keeps(self, content: Content) -> bool:
        """Is the content, which somebody saves, to be held?"""
        plan = self.plan
        assert content.node is not None
        self.saves += 1
        if self.trace is not None:
            self.trace.saved.append((self.count, content.index))
        if plan is None or not content.node.replayable or content.index >= len(plan.forward):
            return True
        return plan.forward[content.index]

    def overwritten(self, content: Content) -> None:
        """An operation in place writes over the content."""
        if self.trace is not None and content.index >= 0:
            self.trace.overwritten.add(content.index)

    def moved(self, at: int, new: Content) -> None:
        """What was saved as number `at` is now a part of another content: an operation in place left it as it was."""
        if self.trace is not None:
            self.trace.saved[at] = (self.trace.saved[at][0], new.index)

    # -- backward ------------------------------------------------------------------------------------------------

    def reach(self, at: int) -> None:
        """Backward asks for what was saved as number `at`."""
        if not self.backward:
            self._turn()
        if at < 0:
            return
        self._at = at
        if self.trace is not None:
            self.trace.entering_bytes.setdefault(at, self.store.gradient_bytes)
        route = self.route
        if route is not None and route.groups is None:
            block = route.block[min(at, len(route.block) - 1)] if route.block else 0
            if block < self._block:
                self._enter(route, block)

    def _turn(self) -> None:
        """Backward begins."""
        self.backward = True
        store, planner = self.store, self.planner
        if self.trace is None:
            return
        self.trace.outside_bytes = max(0, store.live_bytes - store.gradient_bytes - store.kept_bytes())
        if planner is not None and store.evicted > self._evicted:
            self.route = route = planner.guess(self.trace)
            if route is not None and route.groups is not None:
                store.pending = dict(route.groups.pending)
                for content in list(store.kept.values()):
                    known = 0 <= content.index < len(route.forward)
                    if known and not route.forward[content.index] and store.may_go(content):
                        store.drop(content)

    def make(self, content: Content) -> Tensor:
        """The content, which is not kept; where a plan is followed, with it what else is to be made with it."""
        route = self.route
        if route is None:
            return self.store.get(content)
        if route.groups is not None:
            return self._make_group(route.groups, content)
        others: list[Content] = []
        if not self._swept:
            self._swept = True
            others = self._missing(route.at[self._block])
        return self.store.get(content, others)

    def _make_group(self, groups: Groups, content: Content) -> Tensor:
        store, number = self.store, groups.of.get(content.index)
        if number is None or number in self._made:
            return store.get(content)
        self._made.add(number)
        found = store.get(content, self._missing(groups.contents[number]), last=self.script is not None)
        if store.pending is not None:
            sources = groups.sources[number]
            store.began([self._content(index) for index in sources], sources)
        return found

    def _content(self, index: int) -> Content | None:
        reference = self.contents[index] if index < len(self.contents) else None
        return reference() if reference is not None else None

    def _missing(self, indices: Iterable[int]) -> list[Content]:
        found = (self._content(index) for index in indices)
        return [one for one in found if one is not None and one.kept is None]

    def unseen(self) -> bool:
        """True if backward may run without being counted: the plan's bytes have been counted before."""
        return self.plan is not None and self.planner is not None and self.planner.proven

    def _enter(self, plan: Plan, block: int) -> None:
        """Let go of what the plan does not hold while this block is reversed."""
        self._block, self._swept = block, False
        store = self.store
        store.ahead = ahead = plan.at[block]
        known = len(plan.nbytes)
        for content in list(store.kept.values()):
            if content.index not in ahead and content.index < known and store.may_go(content):
                store.drop(content)

    def _least_bytes(self, needed: int) -> tuple[int, bool]:
        """The least limit that would do for a step that needs so many bytes here, and whether all of it is known."""
        trace, planner = self.trace, self.planner
        whole = self.backward
        if planner is not None and planner.trace is not None:
            trace, whole = planner.trace, True
        if trace is None or not trace.saved:
            return needed, whole
        least = least_bytes(expected(trace), 8 * max(self.store.peak_bytes, 1)) or 0
        return max(needed, least + least // _MARGIN), whole

    def counted_backward(self) -> None:
        """An operation of backward has run: note what backward holds."""
        if self.trace is not None:
            held = self.trace.gradient_bytes
            held[self._at] = max(held.get(self._at, 0), self.store.gradient_bytes)
