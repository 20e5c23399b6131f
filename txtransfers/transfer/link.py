"""The link to one peer: what it carries, and how many buckets are in flight on it.

All transfers with the peer share its slots. While one is under way the link asks the kernel, some
times in a round trip, what its connections have moved, and lets :class:`Concurrency` decide. What
was learned stays for the next transfer.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from statistics import median
from typing import Any

import attrs
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from ..errors import PeerRefused, PeerUnreachable
from ..wire.plan import Cut
from . import tcp
from .compression import LinkEstimate
from .concurrency import START, Concurrency
from .congestion import Sight
from .cuts import choose_cut
from .flow import Flow, Flows
from .retries import is_worth_retrying
from .slots import Slots

SAMPLE_S = 0.05
"""Seconds between two questions to the kernel."""

_KB = 1024
_QUEUED = 1.25
"""Times the least round trip, beyond which packets wait in a queue: the link is full. It shows soon
after connections with cubic have seen it, and open their windows no faster than it drains."""

_MAY_BECOME = 64
"""Buckets in flight, while it is not known how many are needed."""

_REQUESTS = 3
"""Requests of the usual size under way for each bucket whose bytes are on their way."""

_SHARES = 16
"""Parts of a place, or of a request: many small buckets fill a link as one large does."""

_AHEAD = 2.0
"""Times what moves in a round trip: it doubles in that time while windows open."""

_FILLS = 2.0
"""Times what its part of the link holds, from which on a bucket that is fetched takes a place."""

_LASTS = 3.0
"""Round trips."""

_GOODPUT_S = 1.0
"""The goodput that is shown is the average over about so long."""

_PACE_S = 0.15
"""The same for what is known sooner, while the connections open their windows."""

_LEAST_EACH = 16 * 1024
"""Bytes a second that each bucket in flight should have of a limit of bandwidth of ours: one
connection carries more on any link that is of use."""
_FEWEST = 2

log = Logger()


@attrs.define
class _Connection:
    """One TCP connection, and what it had moved when it was asked last, bytes; ``rate`` of that in
    bytes a second, about now."""

    sight: Sight
    moved: int
    rate: float = 0.0


class Link:
    """See the module. One lives as long as its peer.

    :ivar slots: buckets whose bytes are on their way, in shares of one of the usual size.
    :ivar requests: with those whose bytes are there, and whose answer is waited for.
    :ivar round_trip: seconds; None while no connection has told it.
    :ivar delay: the same at present, with the time that packets wait in queues.
    :ivar goodput: bytes a second of the last second of transfers, both ways, as they travel; None
        while nothing has been transferred.
    :ivar peer_adapts: whether what the peer sends is not slowed down where packets get lost.
    """

    def __init__(
        self, clock: IReactorTime, threads: int | None, cap: int, start: int = START
    ) -> None:
        """:param threads: ``Threads``; None where the number follows the link.

        :param cap: ``MaxThreads``. :param start: where that begins.
        """
        self.cap = threads or cap
        self._concurrency = Concurrency(cap, start) if threads is None else None
        self.slots = Slots(0)
        self.requests = Slots(0)
        self._flows = Flows()
        self._limit = 0
        self._wish(threads or min(start, cap))
        self.round_trip: float | None = None
        self.goodput: float | None = None
        self.delay: float | None = None
        self._pace = 0.0
        self._clock = clock
        self._connections: dict[Any, _Connection] = {}  # by socket
        self._is_queued = False
        self._is_slowed = self._is_undaunted = False
        self._was_held = False
        """Whether the goodput is what a limit of ours has left."""
        self.peer_adapts = True
        self._last = 0.0
        self._sampling = LoopingCall(self._sample)
        self._sampling.clock = clock

    @property
    def limit(self) -> int:
        """How many buckets of the usual size may be in flight."""
        return self._limit

    @property
    def is_near(self) -> bool:
        """Whether a round trip costs nothing, as far as is known."""
        return self.round_trip is not None and self.round_trip < tcp.NEAR_S

    @property
    def is_far(self) -> bool:
        """Whether it costs something, as is known."""
        return self.round_trip is not None and not self.is_near

    @property
    def is_in_use(self) -> bool:
        """Whether a transfer is under way."""
        return bool(self._flows)

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._open())

    def _open(self) -> dict[Any, _Connection]:
        return {s: c for s, c in self._connections.items() if tcp.read(s) is not None}

    def connected(self, socket: Any, sight: Sight) -> None:
        """A TCP connection to the peer is there."""
        told = tcp.read(socket)
        if told is None:
            return
        self._connections = self._open() | {socket: _Connection(sight, told.moved)}
        if self.round_trip is None:
            self.round_trip = told.round_trip
            if self._concurrency is not None:
                self._begin_with(self._concurrency)

    def _begin_with(self, concurrency: Concurrency) -> None:
        """The round trip is known now."""
        if self.is_near:
            self._wish(min(START, self._wished))
        elif self.round_trip is not None:
            concurrency.met(self.round_trip)
            self._wish(concurrency.limit)

    @asynccontextmanager
    async def use(self, flow: Flow) -> AsyncIterator[None]:
        """Measure while a transfer is under way.

        :param flow: one of its own, by which it is known what our limits of bandwidth leave it.
        """
        self._flows.add(flow)
        if len(self._flows) == 1 and self._concurrency is not None:
            self._concurrency.idle()
        self._fit()
        if not self._sampling.running:
            self._last = self._clock.seconds()
            self._moved(0.0)
            self._sampling.start(SAMPLE_S, now=False).addErrback(
                lambda failure: log.failure("A link cannot be measured", failure)
            )
        try:
            yield
        finally:
            self._flows.remove(flow)
            if not self._flows and self._sampling.running:
                self._sampling.stop()

    def cut(self, wanted: int | None) -> Cut:
        """How large the buckets of a transfer that begins are to be.

        :param wanted: ``BucketSize``, see :func:`choose_cut`.
        """
        limit = self.limit
        if self._concurrency is not None and self._concurrency.is_seeking:
            limit = max(limit, min(self.cap, _MAY_BECOME))
        return choose_cut(
            wanted, limit, self._carries, self.round_trip, self.is_near, self._flows.rate
        )

    def share(self, size: int, usual: int) -> int:
        """What a bucket takes of :attr:`requests`.

        :param usual: bytes of the first buckets of its transfer.
        """
        return min(_SHARES, max(1, _SHARES * size // usual))

    def place(self, size: int | None) -> int:
        """What a bucket takes of :attr:`slots`.

        :param size: bytes, of one that is fetched: a place is not free before they begin to come,
            so that small ones leave gaps. None: the place is free when they are on their way.
        """
        is_free = self._concurrency is not None and not self.is_near
        if size is None or not is_free or self.goodput is None or self.round_trip is None:
            return _SHARES
        fills = _FILLS * self.goodput * self.round_trip / self.limit
        return max(1, min(_SHARES, int(_SHARES * size / fills))) if fills else _SHARES

    def estimate(self) -> LinkEstimate:
        """What is known of it: it carries no more than we allow."""
        known = [rate for rate in (self._carries, self._flows.rate) if rate is not None]
        return LinkEstimate(min(known, default=None), self.round_trip)

    @property
    def _carries(self) -> float | None:
        """The goodput, unless it says more of a limit of ours than of the link."""
        return None if self._was_held else self.goodput

    def may_begin_next(self, left: float, rate: float = 0.0) -> bool:
        """Whether so little of a bucket is left to travel that another can begin.

        The first bytes of one that is received come a round trip after it was asked for, and the
        answer to one that is sent: meanwhile the link would be idle.

        :param rate: of its connection, bytes a second, where that is known to have more than its
            part of the link.
        """
        if self.goodput is None or self.round_trip is None or self.is_near:
            return False
        return left <= _AHEAD * max(self._fastest / self.limit, rate) * self.round_trip

    def rate(self, socket: Any) -> float:
        """Bytes a second that a connection moves at present; 0 where that is not known."""
        connection = self._connections.get(socket)
        return connection.rate if connection is not None else 0.0

    def may_leave(self) -> bool:
        """Whether a bucket that the kernel has taken whole gives its place to another.

        Not where what the kernel holds back of it lasts for round trips: its connection will not
        be idle before the answer is there.
        """
        lasts = _LASTS * (self.round_trip or 0.0)
        return self.may_begin_next(0) and self.seconds(tcp.UNSENT) < lasts

    def seconds(self, size: float) -> float:
        """How long one connection, of as many as are to be busy, takes for so many bytes."""
        return size * self.limit / self._fastest if self._fastest else 0.0

    @property
    def _fastest(self) -> float:
        """Bytes a second: the goodput, or more while it is becoming more."""
        return max(self.goodput or 0.0, self._pace)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Around the way of a bucket: a failure that may come of too many makes them fewer."""
        try:
            yield
        except (PeerUnreachable, PeerRefused) as error:
            if self._concurrency is not None and is_worth_retrying(error):
                self._concurrency.trouble()
                self._wish(self._concurrency.limit)
            raise

    def figures(self, in_flight: int, usual: int) -> dict[str, Any]:
        """What a job shows of its link.

        :param in_flight: its own buckets. :param usual: bytes of its buckets of full size.
        """
        figures: dict[str, Any] = {
            "BucketsInFlight": in_flight,
            "MaxBucketsInFlight": self.limit,
            "BucketSize": usual,
        }
        if self.goodput is not None:
            figures["GoodputKBs"] = round(self.goodput / _KB)
        if self.round_trip is not None:
            figures["RoundTripMs"] = round(self.round_trip * 1000, 2)
        return figures

    def _sample(self) -> None:
        now = self._clock.seconds()
        seconds, self._last = now - self._last, now
        size = self._moved(seconds)
        if seconds <= 0:
            return
        share = min(1.0, seconds / _GOODPUT_S)
        rate = size / seconds
        self._pace += min(1.0, seconds / _PACE_S) * (rate - self._pace)
        known, full = self.goodput or 0.0, self.requests.contended or self.slots.contended
        held = self._flows.is_held
        # Neither its end tells anything, nor its beginning, when nothing has come yet.
        if (rate or known) and self.slots.held and (full or rate > known):
            self.goodput = rate if self.goodput is None else known + share * (rate - known)
            self._was_held = held
        full = full and not held
        if self._concurrency is not None and self.round_trip is not None and self.is_far:
            if self._is_slowed and full:
                self._concurrency.hurry()
            elif self._is_undaunted:
                self._concurrency.calm()
            self._concurrency.sample(seconds, size, self.round_trip, full, self._is_queued)
            self._wished = self._concurrency.limit
        self._fit()

    def _wish(self, limit: int) -> None:
        self._wished = limit
        self._fit()

    def _fit(self) -> None:
        """Have as many as are wished, or enough for what our limits of bandwidth leave."""
        limit, allowed = self._wished, self._flows.rate
        if allowed is not None and self._concurrency is not None:
            limit = min(limit, max(_FEWEST, int(allowed / _LEAST_EACH)))
        if limit != self._limit:
            self._limit = limit
            self.requests.resize(limit * _REQUESTS * _SHARES)
            self.slots.resize(limit * _SHARES)

    def _moved(self, seconds: float) -> int:
        """Bytes that all connections have moved since they were asked last, so long ago."""
        moved = 0
        alive = {}
        trips, delays = [], []
        late = 0
        for socket, connection in self._connections.items():
            told = tcp.read(socket)
            if told is None:
                continue
            size = told.moved - connection.moved
            moved += size
            if seconds > 0:
                share = min(1.0, seconds / _PACE_S)
                connection.rate += share * (size / seconds - connection.rate)
            if size > 0:
                trips.append(told.least_round_trip)
                delays.append(told.round_trip)
                late += told.round_trip > _QUEUED * told.least_round_trip
            connection.moved = told.moved
            connection.sight.look(told)
            alive[socket] = connection
        self._connections = alive
        sights = [each.sight for each in alive.values()]
        self._is_slowed = any(sight.is_slowed(self.peer_adapts) for sight in sights)
        self._is_undaunted = any(sight.is_undaunted(self.peer_adapts) for sight in sights)
        if trips:
            self.round_trip = min(trips)
            self.delay = median(delays)
            self._is_queued = 2 * late > len(trips)
        return moved
