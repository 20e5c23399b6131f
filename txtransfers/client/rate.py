"""How fast something goes, and how long it will still take. Pure."""

from collections import deque

WINDOW_S = 10.0
"""Seconds over which a rate is measured."""

_SHORTEST_S = 0.5


class Rate:
    """Of a counter that grows."""

    def __init__(self, window: float = WINDOW_S) -> None:
        """:param window: seconds."""
        self._window = window
        self._seen: deque[tuple[float, int]] = deque()

    def saw(self, now: float, count: int) -> None:
        """The counter is at ``count``; where it is lower than before, it starts anew."""
        if self._seen and count < self._seen[-1][1]:
            self._seen.clear()
        self._seen.append((now, count))
        while len(self._seen) > 2 and self._seen[1][0] <= now - self._window:
            self._seen.popleft()

    @property
    def per_second(self) -> float | None:
        """None while too little was seen."""
        if not self._seen:
            return None
        (start, first), (end, last) = self._seen[0], self._seen[-1]
        return None if end - start < _SHORTEST_S else (last - first) / (end - start)

    def seconds_for(self, count: int) -> float | None:
        """How long so much more will take at this rate; None where nobody can tell."""
        rate = self.per_second
        return count / rate if rate else None
