"""How many buckets to have in flight to one peer: pure decisions, from what was measured.

One connection carries what its congestion window allows: on a long link that loses packets, a
small part of the link; many carry many times that. So the number grows as long as that makes the
goodput grow. It starts from a few, doubles whenever the goodput has settled higher than before,
and steps back when a doubling was for nothing. Then it holds, and tries a little more, or a little
less, now and then, as the link and its other users change. Errors halve it.

No I/O, no clock: ``transfer/link.py`` feeds it, and the tests simulate links.
"""

from enum import Enum

import attrs

START = 8
"""Buckets in flight to a peer that is not known yet."""

START_LOSS_BASED = 16
"""The same, where connections slow down at each loss: on a long link one carries little then. Up to
twice as many where it is longer than usual."""

_USUAL_S = 0.05
"""A round trip: so long that what the first connections send at once, 15 KB each, is 37 Mbit/s."""
_LONGER = 2.0

_SHORTEST_EPOCH_S = 0.2
_EPOCH_ROUND_TRIPS = 2.0
"""The goodput is measured over so many round trips, at least."""

_GROWS = 1.2
"""From one epoch to the next: the connections open their windows by themselves, wait."""
_SETTLES_EPOCHS = 3
"""More are not waited for while the number is being looked for: noise never settles."""
_IN_VAIN_EPOCHS = 4
"""More connections must first be made, and open their windows, before they are for nothing."""
_WORTH = 1.12
"""What a doubling, or a step up, must bring to be kept."""
_AS_GOOD = 0.96
"""What a step down must leave to be kept."""
_COLLAPSE = 0.6
"""Of the goodput held so far: the link has changed, the number is looked for again."""
_WORN = 0.8
"""Of the best since the number was found: the windows that a start opens wide shrink, loss by loss,
for many round trips. It is looked for again, unless a queue tells that the link is full."""
_STEP = 0.25
_HOLD_EPOCHS = 20
_LONGEST_HOLD_EPOCHS = 80
_PROBE_EPOCHS = 4
_QUEUED = 0.2
"""Of the time, from which on a queue tells that the link is full."""
_AFTER_ERROR_EPOCHS = 25
_LEAST_FULL = 6
_PART = 12 * 1024
"""Bytes of a full link that each bucket in flight should have at least: eight packets. With fewer
a loss is found out by waiting only, and the waits double."""


class Phase(Enum):
    """What the number is doing."""

    SEEK = "seek"
    HOLD = "hold"
    UP = "up"
    DOWN = "down"


@attrs.define
class _Average:
    """Of the goodput over some epochs: bytes, seconds; and how long a queue was seen."""

    size: float = 0.0
    seconds: float = 0.0
    queued: float = 0.0
    epochs: int = 0

    def add(self, size: float, seconds: float, queued: float) -> None:
        self.size += size
        self.seconds += seconds
        self.queued += queued
        self.epochs += 1

    @property
    def is_queued(self) -> bool:
        """Whether the link was full at times: more in flight would only be lost."""
        return self.queued > _QUEUED * self.seconds

    @property
    def rate(self) -> float:
        return self.size / self.seconds if self.seconds else 0.0


class Concurrency:
    """The number of buckets in flight to one peer; see the module.

    :ivar limit: the number; from 1 to ``cap``.
    """

    def __init__(self, cap: int, start: int = START) -> None:
        """:param cap: ``MaxThreads``."""
        self._cap = cap
        self.limit = min(start, cap)
        self.phase = Phase.SEEK
        self._epoch = _Average()
        self._previous = 0.0
        self._settled = 0.0
        """Goodput (bytes a second) that the number before this one settled at, or holds."""
        self._best = 0.0
        """The highest goodput since the number was found."""
        self._before = self.limit
        """The number to step back to."""
        self._start = self.limit
        """Fewer are not tried where all is well: a start, and the ends of buckets, leave gaps."""
        self._average = _Average()
        self._skip = 0
        self._hold = _HOLD_EPOCHS
        self._next = Phase.UP
        self._is_hurt = False
        self._is_settled = False
        self._is_told = False
        """Of losses, and what they mean: once."""

    def met(self, round_trip: float) -> None:
        """The round trip is known, in seconds, before anything is measured.

        Where it is long more are begun with: as much is sent in a second as elsewhere.
        """
        if self._start == START_LOSS_BASED:
            longer = min(_LONGER, max(1.0, round_trip / _USUAL_S))
            self.limit = self._before = min(self._cap, int(self._start * longer))

    @property
    def is_seeking(self) -> bool:
        """Whether it may become much more than it is."""
        return self.phase is Phase.SEEK

    def sample(
        self, seconds: float, size: float, round_trip: float, full: bool, queued: bool = False
    ) -> None:
        """Take a measurement; call it some times in a round trip.

        :param seconds: since the last one. :param size: bytes that the peer acknowledged, or sent.
        :param round_trip: of the link, seconds. :param full: whether the limit was what held more
            buckets back: otherwise nothing can be learned.
        :param queued: whether packets wait on their way: the link is full, more would not help.
        """
        if not full:
            self._epoch = _Average()
            return
        self._epoch.add(size, seconds, seconds if queued else 0.0)
        if self._epoch.seconds < max(_SHORTEST_EPOCH_S, _EPOCH_ROUND_TRIPS * round_trip):
            return
        epoch, self._epoch = self._epoch, _Average()
        self._is_hurt = False
        if epoch.is_queued and self._fits(epoch.rate, round_trip):
            return
        if self.phase is Phase.SEEK:
            self._seek(epoch)
        else:
            self._watch(epoch)
        self._previous = epoch.rate

    def trouble(self) -> None:
        """A bucket failed for a reason that may be too many at once; once in an epoch counts."""
        if self._is_hurt:
            return
        self._is_hurt = True
        self._move(max(1, self.limit // 2), Phase.HOLD)
        self._settled = 0.0
        self._hold = _AFTER_ERROR_EPOCHS

    def hurry(self) -> None:
        """Packets get lost, and slow each connection down: take as many as there may be, at once.

        They are judged as any other number.
        """
        if self.phase is Phase.SEEK and not self._is_told:
            self._is_told = True
            self._settled = max(self._settled, self._previous)
            self._before = self.limit
            self._move(self._cap, Phase.SEEK)

    def calm(self) -> None:
        """Packets get lost, and slow nothing down: many connections would only crowd each other."""
        if self.phase in (Phase.SEEK, Phase.HOLD) and not self._is_told:
            self._is_told = True
            if self.limit > self._start:
                self._before = self._start
                self._move(self._start, self.phase)

    def idle(self) -> None:
        """A transfer begins after nothing was in flight: connections open their windows anew."""
        self._epoch = _Average()
        self._previous = 0.0
        self._average = _Average()
        if self.phase is not Phase.SEEK:
            self._skip = _SETTLES_EPOCHS
        if self.phase in (Phase.UP, Phase.DOWN):
            self._move(self._before, Phase.HOLD)

    def _fits(self, rate: float, round_trip: float) -> bool:
        """On a link that is full, have no more than share it well; tells whether that is news."""
        fits = max(_LEAST_FULL, int(rate * round_trip / _PART))
        # It is not known yet what the link carries, or not any more.
        changes = rate > self._previous * _GROWS or rate < self._settled * _COLLAPSE
        if changes or 2 * fits > self.limit:  # a fetcher sees a queue where packets are lost, too
            return False
        self._start = min(self._start, fits)
        self._move(fits, Phase.HOLD)
        self._settled = self._previous = rate
        return True

    # Looking for it

    def _seek(self, epoch: _Average) -> None:
        self._average.epochs += 1
        grows = epoch.rate > self._previous * _GROWS
        if grows and self._average.epochs <= _SETTLES_EPOCHS:
            return
        if not self._settled and not self._is_settled:
            self._is_settled = True  # a queue, which would say that it is enough, shows later
            return
        rate = max(epoch.rate, self._previous)
        if rate < self._settled * _WORTH:
            if self._average.epochs < _IN_VAIN_EPOCHS:
                return
            self._move(self._before, Phase.HOLD)
            self._settled = max(rate, self._settled)
        elif self.limit == self._cap or epoch.is_queued:
            self._move(self.limit, Phase.HOLD)
            self._settled = rate
        else:
            self._settled = rate
            self._before = self.limit
            self._move(min(self._cap, 2 * self.limit), Phase.SEEK)

    # Keeping it right

    def _watch(self, epoch: _Average) -> None:
        if self._skip > 0:
            self._skip -= 1
            return
        self._average.add(epoch.size, epoch.seconds, epoch.queued)
        if self.phase is Phase.HOLD:
            self._watch_hold()
        elif self._average.epochs >= _PROBE_EPOCHS:
            self._judge()

    def _watch_hold(self) -> None:
        average = self._average
        if average.epochs >= _PROBE_EPOCHS and self._is_less(average):
            self._settled = self._best = 0.0
            self._before = self.limit
            self._move(self.limit, Phase.SEEK)
        elif average.epochs >= self._hold:
            self._settled = average.rate
            self._before = self.limit
            self._probe(average.is_queued)

    def _is_less(self, average: _Average) -> bool:
        """Whether the link carries so much less than it did that more may be needed."""
        self._best = max(self._best, average.rate)
        if average.rate < self._settled * _COLLAPSE:
            return True
        return average.rate < self._best * _WORN and not average.is_queued

    def _probe(self, queued: bool) -> None:
        step = max(1, round(self.limit * _STEP))
        up = self._next is Phase.UP and not queued
        limit = min(self._cap, self.limit + step) if up else max(self._start, self.limit - step)
        self._next = Phase.DOWN if up else Phase.UP
        if (limit > self.limit) if up else (limit < self.limit):
            self._move(limit, Phase.UP if up else Phase.DOWN)
            self._skip = 1
        else:
            self._move(self.limit, Phase.HOLD)

    def _judge(self) -> None:
        rate = self._average.rate
        up = self.phase is Phase.UP
        if rate > self._settled * (_WORTH if up else _AS_GOOD):
            self._settled = rate if up else max(rate, self._settled)
            self._next = self.phase
            self._hold = _HOLD_EPOCHS
            self._before = self.limit
            self._move(self.limit, Phase.HOLD)
        else:
            self._hold = min(2 * self._hold, _LONGEST_HOLD_EPOCHS)
            self._move(self._before, Phase.HOLD)

    def _move(self, limit: int, phase: Phase) -> None:
        self.limit = limit
        self.phase = phase
        self._average = _Average()
        self._skip = 0
