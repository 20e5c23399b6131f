"""What each coding has achieved in one transfer: the judge over what was expected of it.

A daemon that is limited by its processors looks like a slow link, which would call for a codec that
tries harder, and makes it slower still. So what was tried is judged by what it moved.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from twisted.internet.interfaces import IReactorTime

from ..wire.codec import Coding

FRESH_S = 30.0
"""Seconds after which what was achieved says nothing of the present any more."""

_ENOUGH_S = 0.2
_ENOUGH_BUCKETS = 4
"""What a measure must have taken, and seen, at least."""

_WEIGHT = 0.5


class Experience:
    """Measures from the end of one bucket to that of another, while all travel in one coding."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._under_way: Counter[Coding] = Counter()
        self._coding: Coding | None = None
        self._since = 0.0
        self._size = 0
        self._buckets = 0
        self._achieved: dict[Coding, tuple[float, float]] = {}

    def of(self, coding: Coding) -> float | None:
        """Image bytes a second that were moved in it lately; None: it was not tried."""
        rate, when = self._achieved.get(coding, (0.0, -FRESH_S))
        return rate if self._clock.seconds() - when < FRESH_S and rate else None

    @contextmanager
    def trying(self, coding: Coding, size: int) -> Iterator[None]:
        """A bucket of so many bytes, before compression, is made and travels."""
        self._under_way[coding] += 1
        if coding != self._coding:
            self._coding = None
        try:
            yield
        except BaseException:
            self._coding = None  # what takes long for another reason says nothing
            raise
        else:
            self._count(coding, size)
        finally:
            self._under_way[coding] -= 1

    def _count(self, coding: Coding, size: int) -> None:
        now = self._clock.seconds()
        if any(count for other, count in self._under_way.items() if other != coding):
            self._coding = None
        elif self._coding != coding:
            self._begin(coding, now)
        else:
            self._size += size
            self._buckets += 1
            if self._buckets >= _ENOUGH_BUCKETS and now - self._since >= _ENOUGH_S:
                self._learn(coding, self._size / (now - self._since), now)
                self._begin(coding, now)

    def _begin(self, coding: Coding, now: float) -> None:
        self._coding, self._since = coding, now
        self._size = self._buckets = 0

    def _learn(self, coding: Coding, rate: float, now: float) -> None:
        known = self.of(coding) or rate
        self._achieved[coding] = (known + _WEIGHT * (rate - known), now)
