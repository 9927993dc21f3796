"""The least cut of a network, by Dinic's algorithm, in whole numbers and so without rounding.

Source: Dinic, *Algorithm for solution of a problem of maximum flow in networks with power estimation* (1970). A
capacity may be raised after a flow was found; the next flow goes on from there, as in the parametric algorithm of
Gallo, Grigoriadis & Tarjan (1989). Cost: O(nodes^2 * arcs) at worst, near linear in the shallow networks of `keeping`.
"""

from __future__ import annotations

from collections import deque

UNBOUNDED = 1 << 60


class Network:
    """Arcs with capacities between numbered nodes; node 0 is the source, node 1 the sink."""

    def __init__(self, nodes: int) -> None:
        self._arcs: list[list[int]] = [[] for _ in range(nodes)]
        self._head: list[int] = []
        self._room: list[int] = []  # of arc a what is left; of a ^ 1, its way back, what flows

    def arc(self, start: int, stop: int, capacity: int) -> int:
        """Add an arc; returns its number."""
        number = len(self._head)
        self._arcs[start].append(number)
        self._arcs[stop].append(number + 1)
        self._head += (stop, start)
        self._room += (capacity, 0)
        return number

    def set_capacity(self, arc: int, capacity: int) -> None:
        """Raise the capacity of an arc. ValueError if more flows already."""
        left = capacity - self._room[arc ^ 1]
        if left < 0:
            raise ValueError(f"{self._room[arc ^ 1]} flows through arc {arc} already: a capacity can only be raised")
        self._room[arc] = left

    def state(self) -> list[int]:
        """What flows, for `restore`."""
        return self._room.copy()

    def restore(self, state: list[int]) -> None:
        """Go back to what flowed then."""
        self._room = state.copy()

    def source_side(self) -> list[bool]:
        """Let as much flow as can; per node, is it on the source's side of the least cut that is nearest the source?"""
        while True:
            level = self._levels()
            if level[1] < 0:
                return [depth >= 0 for depth in level]
            self._block(level)

    def _levels(self) -> list[int]:
        """Arcs between the source and each node, along arcs with room left; -1 where there is no way."""
        head, room, arcs = self._head, self._room, self._arcs
        level = [-1] * len(arcs)
        level[0] = 0
        todo = deque([0])
        while todo:
            node = todo.popleft()
            for arc in arcs[node]:
                after = head[arc]
                if room[arc] and level[after] < 0:
                    level[after] = level[node] + 1
                    todo.append(after)
        return level

    def _block(self, level: list[int]) -> None:
        """Let flow what goes from level to level."""
        head, room, arcs = self._head, self._room, self._arcs
        tried = [0] * len(arcs)
        path: list[int] = []
        node = 0
        while True:
            if node == 1:
                more = min(room[arc] for arc in path)
                for arc in path:
                    room[arc] -= more
                    room[arc ^ 1] += more
                full = next(place for place, arc in enumerate(path) if not room[arc])
                node = head[path[full] ^ 1]
                del path[full:]
                continue
            out = arcs[node]
            while tried[node] < len(out):
                arc = out[tried[node]]
                if room[arc] and level[head[arc]] == level[node] + 1:
                    path.append(arc)
                    node = head[arc]
                    break
                tried[node] += 1
            else:
                if not path:
                    return
                node = head[path.pop() ^ 1]
                tried[node] += 1
