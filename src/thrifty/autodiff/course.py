"""Where a training step is: noting what it does, or following the plan that was made for steps like it."""

from __future__ import annotations

import weakref
from typing import Any

from torch import Tensor

from thrifty.autodiff.planner import Planner
from thrifty.autodiff.planning import Plan, expected, least_bytes
from thrifty.autodiff.rematerialise import Store
from thrifty.autodiff.trace import Trace
from thrifty.autodiff.values import Content, Node


class Course:
    """One step after the other.

    Attributes:
        count: operations of the present step so far, views left out.
        contents: weak references to what they made, by index.
        backward: the step has begun to go backward.
        plan: what is followed, or None. trace: what is noted, or None.
        route: what backward follows; on the first step, a plan made when backward begins, if the limit was reached.
    """

    def __init__(self, store: Store, planner: Planner | None) -> None:
        self.store, self.planner = store, planner
        self.count = 0
        self.contents: list[weakref.ref[Content]] = []
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
        self.count, self.contents, self.backward = 0, [], False
        self.plan = self.route = self.trace = None
        self._block, self._swept, self._evicted = 1 << 60, False, store.evicted
        store.ahead = None
        store.begin()
        if self.planner is not None:
            self.plan = self.route = self.planner.plan
            self.trace = Trace() if self.plan is None else None

    def end(self) -> None:
        """The step is over: nothing that it saved is needed any more."""
        store, planner = self.store, self.planner
        if planner is not None and self.count:
            if self.plan is not None and (planner.proven or self.count == len(self.plan.operations)):
                planner.followed(store.step_peak_bytes)
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
            trace.seconds.append(node.cost_s)
            trace.reads.append(tuple(r.content.index for r in node.reads if r.content.index >= 0 and r.copy is None))
            trace.makes.append(tuple(content.index for content in made))
            for content in made:
                trace.nbytes.append(content.nbytes)
                trace.home.append(at)

    def _leave(self) -> None:
        """The step does something else than the plan foresaw: the online rule takes over."""
        assert self.planner is not None
        self.planner.left()
        self.plan = self.route = None
        self.store.ahead = None

    def keeps(self, content: Content) -> bool:
        """Is the content, which somebody saves, to be held?"""
        plan = self.plan
        assert content.node is not None
        if self.trace is not None:
            self.trace.saved.append((self.count, content.index))
        if plan is None or not content.node.replayable or content.index >= len(plan.forward):
            return True
        return plan.forward[content.index]

    def moved(self, at: int, old: Content, new: Content) -> None:
        """What was saved at `at` is now a part of another content, for an operation in place left it as it was."""
        if self.trace is not None:
            saved = self.trace.saved
            for place in range(len(saved) - 1, -1, -1):
                if saved[place] == (at, old.index):
                    saved[place] = (at, new.index)
                    break

    # -- backward ------------------------------------------------------------------------------------------------

    def reach(self, at: int) -> None:
        """Backward asks for something that was saved when `at` operations had run."""
        if not self.backward:
            self.backward = True
            if self.trace is not None:
                store = self.store
                self.trace.outside_bytes = max(0, store.live_bytes - store.gradient_bytes - store.kept_bytes())
                if self.planner is not None and store.evicted > self._evicted:
                    self.route = self.planner.guess(self.trace)
        self._at = at
        route = self.route
        if route is not None:
            block = route.block[min(at, len(route.block) - 1)]
            if block < self._block:
                self._enter(route, block)

    def make(self, content: Content) -> Tensor:
        """The content, which is not kept; where a plan is followed, with it what else this block needs."""
        others: list[Content] = []
        if self.route is not None and not self._swept:
            self._swept = True
            found: Any = (self.contents[index]() for index in self.route.at[self._block] if index < len(self.contents))
            others = [one for one in found if one is not None and one.kept is None]
        return self.store.get(content, others)

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

    def _least_bytes(self) -> int | None:
        """The least limit that would do for this step, as far as it is known."""
        if self.trace is None or not self.backward:
            return None
        return least_bytes(expected(self.trace), 8 * max(self.store.peak_bytes, 1))

    def counted_backward(self) -> None:
        """An operation of backward has run: note what backward holds."""
        if self.trace is not None:
            held = self.trace.gradient_bytes
            held[self._at] = max(held.get(self._at, 0), self.store.gradient_bytes)
