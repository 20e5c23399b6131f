"""A token bucket: so many bytes a second, granted in pieces to those whose turn it is.

A piece is what :data:`PIECE_S` bring, and what was not asked for is kept for :data:`BURST_S` only,
so that the rate is right over any second. Nobody sleeps: one timer runs while somebody waits.
"""

from collections.abc import Callable
from datetime import datetime

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from ..timetable import Timetable, format_figure
from .turns import Turn, Turns

PIECE_S = 0.05
"""Seconds of the rate that are granted at a time."""

BURST_S = 0.2
"""Seconds of the rate that may be saved up: a reactor that is late by less loses nothing."""

SMALLEST = 1448
"""Bytes of the smallest piece: what a packet holds."""

PATIENCE_S = 5.0
"""Seconds after which who waits gets one smallest piece, whoever is first: a connection on which
nothing moves would be given up by the other side."""

_ORDINARY = 1
"""Pieces that go to who is first between two that do not."""

_ORDINARY_HIGHER = 9
"""The same, where who is first has a higher priority."""

_LOOK_S = 1.0
"""Seconds between two looks at a timetable."""

_ROUNDING = 0.5
"""Bytes; timers are exact to less than that."""

log = Logger()


@attrs.frozen(eq=False)
class _Waiter:
    wanted: int
    turn: Turn
    since: float
    granted: "Deferred[int]"


class Limit:
    """How many bytes may travel in one direction."""

    def __init__(
        self,
        name: str,
        clock: IReactorTime,
        local_time: Callable[[], datetime],
        timetable: Timetable,
    ) -> None:
        """:param name: for the log. :param local_time: what the timetable is read by."""
        self._name = name
        self._clock = clock
        self._local_time = local_time
        self.timetable = timetable
        self._bits = timetable.rate_at(local_time())
        self._looked = self._filled = clock.seconds()
        self._saved = 0.0
        self._turns: Turns[_Waiter] = Turns()
        self._waiting: dict[_Waiter, None] = {}
        self._ordinary = 0
        self._timer: IDelayedCall | None = None
        self._serving = False

    @property
    def bits(self) -> int:
        """Bit/s now; 0 for no limit."""
        if not self.timetable.is_constant and (
            abs(self._clock.seconds() - self._looked) >= _LOOK_S
        ):
            self._look()
        return self._bits

    def change(self, timetable: Timetable) -> None:
        """Another limit from now on, also for those who wait."""
        self.timetable = timetable
        self._look()
        self._serve()

    @property
    def piece(self) -> int:
        """Bytes that are granted at a time."""
        return max(SMALLEST, int(self.bits / 8 * PIECE_S))

    def take_now(self, wanted: int) -> int:
        """Up to ``wanted`` bytes, if they are there and nobody waits for them; else 0."""
        if not self.bits:
            return wanted
        size = min(wanted, self.piece)
        self._fill()
        if self._waiting or self._saved < size - _ROUNDING:
            return 0
        self._saved -= size
        return size

    @property
    def is_waited_for(self) -> bool:
        """Whether somebody would send more if it were higher."""
        return bool(self._waiting)

    def take(self, wanted: int, turn: Turn, stream: int = 0) -> "Deferred[int]":
        """Fires with how many bytes may travel, at least 1; cancelling it leaves the queue.

        :param stream: which one of its job it is: the smaller, the earlier it began.
        """
        waiter = _Waiter(
            wanted, turn, self._clock.seconds(), Deferred(lambda _granted: self._leave(waiter))
        )
        self._turns.add(turn, waiter, stream)
        self._waiting[waiter] = None
        self._serve()
        return waiter.granted

    def give_back(self, size: int) -> None:
        """Bytes that were granted do not travel."""
        self._saved += size
        self._serve()

    def spend(self, size: int) -> None:
        """Bytes have travelled that nobody asked for: those who wait do so for longer."""
        if self.bits:
            self._fill()
            self._saved -= size

    def _leave(self, waiter: _Waiter) -> None:
        self._turns.remove(waiter.turn, waiter)
        del self._waiting[waiter]
        self._serve()

    def _look(self) -> None:
        self._fill()
        self._looked = self._clock.seconds()
        bits = self.timetable.rate_at(self._local_time())
        if bits != self._bits:
            log.info(
                "The limit of {name} is {now} now; it was {before}",
                name=self._name,
                now=_shown(bits),
                before=_shown(self._bits),
            )
            self._bits = bits
            self._saved = 0.0  # what was saved, or owed, is of the other rate

    def _fill(self) -> None:
        """Add what the time since the last call brought; a clock that was put back brings none."""
        now = self._clock.seconds()
        rate = self._bits / 8
        most = max(rate * BURST_S, 2 * SMALLEST)
        self._saved = min(most, self._saved + rate * max(0.0, now - self._filled))
        self._filled = now

    def _serve(self) -> None:
        """Grant what can be granted, and see to it that the rest is later."""
        if self._serving:  # somebody who was granted asks again: the loop below goes on with it
            return
        self._serving = True
        try:
            while self._waiting and (waiter := self._next()) is not None:
                waiter[0].granted.callback(waiter[1])
        finally:
            self._serving = False
        if self._waiting:
            self._wake_later()
        elif self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _next(self) -> tuple[_Waiter, int] | None:
        """Who is granted how much now, if anybody is."""
        waiter, size = self._whose_turn()
        if self.bits:
            self._fill()
            if self._saved < size - _ROUNDING:
                return None
            self._saved -= size
        self._ordinary = self._ordinary + 1 if waiter is self._turns.first() else 0
        self._turns.serve(waiter.turn, waiter, size)
        del self._waiting[waiter]
        return waiter, size

    def _whose_turn(self) -> tuple[_Waiter, int]:
        bits = self.bits
        oldest = next(iter(self._waiting))
        first = self._turns.first()
        if not bits:
            return first, first.wanted
        is_starved = self._clock.seconds() - oldest.since >= PATIENCE_S
        is_lower = oldest.turn.priority < first.turn.priority
        ordinary = _ORDINARY_HIGHER if is_lower else _ORDINARY
        if is_starved and oldest is not first and self._ordinary >= ordinary:
            return oldest, min(oldest.wanted, SMALLEST)
        return first, min(first.wanted, self.piece)

    def _wake_later(self) -> None:
        size = self._whose_turn()[1]
        lacking = max(0.0, size - self._saved)
        delay = min(_LOOK_S, lacking / (self._bits / 8)) if self._bits else 0.0
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._clock.callLater(delay, self._wake)

    def _wake(self) -> None:
        self._timer = None
        self._serve()


def _shown(bits: int) -> str:
    return f"{format_figure(bits)} (bit/s)" if bits else "none"
