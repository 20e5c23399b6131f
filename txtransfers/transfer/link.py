"""What the link to a peer is like, as far as its transfers show: bytes a second, round trips."""

from collections.abc import Iterator
from contextlib import contextmanager

from twisted.internet.interfaces import IReactorTime

from .compression import LinkEstimate

_ENOUGH_S = 0.2
_ENOUGH_BYTES = 2**20
"""What a measure of the speed must have taken, and carried, at least."""

_WEIGHT = 0.5
_REQUEST_TRIPS = 2
"""Round trips of a request on a new connection."""


class Link:
    """Measures while buckets are under way; the time between them does not count."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._under_way = 0
        self._since = 0.0
        self._busy = 0.0
        self._carried = 0
        self._ended = 0
        self._goodput: float | None = None
        self._rtt: float | None = None

    def estimate(self) -> LinkEstimate:
        """What is known now."""
        return LinkEstimate(self._goodput, self._rtt)

    def answered(self, seconds: float) -> None:
        """A small request was answered on a connection of its own: the quickest is kept."""
        rtt = seconds / _REQUEST_TRIPS
        self._rtt = rtt if self._rtt is None else min(self._rtt, rtt)

    @contextmanager
    def carrying(self) -> Iterator[list[int]]:
        """A bucket is under way; its bytes, if it arrives, are put in the list."""
        self._account()
        self._under_way += 1
        carried: list[int] = []
        try:
            yield carried
        finally:
            self._account()
            self._under_way -= 1
            self._ended += len(carried)
            self._carried += sum(carried)
            self._measure()

    def _account(self) -> None:
        now = self._clock.seconds()
        if self._under_way:
            self._busy += now - self._since
        self._since = now

    def _measure(self) -> None:
        # What buckets under way have carried is not known yet: they must be few beside the others.
        if self._ended < 2 * self._under_way:
            return
        if self._busy < _ENOUGH_S or self._carried < _ENOUGH_BYTES:
            return
        speed = self._carried / self._busy
        known = speed if self._goodput is None else self._goodput
        self._goodput = known + _WEIGHT * (speed - known)
        self._busy, self._carried, self._ended = 0.0, 0, 0
