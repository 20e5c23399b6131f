"""A stream's way through the limits that hold for it: its peer's, then that of all.

What is sent asks before (:meth:`Flow.take`); what is received pays afterwards (:class:`Toll`),
while its source is held. Who waits here makes no progress, and is not to blame for that: the
:class:`IPatience` that watches the stream is told.
"""

from collections.abc import Callable, Sequence
from itertools import count
from typing import Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from ..waiters import Waiters
from .limit import Limit
from .turns import Turn

_begun = count()


class IPatience(Protocol):
    """Who gives up a stream that makes no progress."""

    def hold(self) -> None:
        """None can be made from now on."""

    def release(self) -> None:
        """It can again; as often as :meth:`hold` was called."""


class Flow:
    """One stream's; see the module. Without limits it costs next to nothing.

    :ivar limits: that hold for it, also those that are none at present.
    """

    def __init__(self, limits: Sequence[Limit], turn: Turn) -> None:
        self.limits = tuple(limits)
        self._turn = turn
        self._stream = next(_begun)
        self._patience: IPatience | None = None

    def watched_by(self, patience: IPatience) -> None:
        """Tell whom to tell."""
        self._patience = patience

    @property
    def is_limited(self) -> bool:
        """Whether it has to ask at this moment."""
        return any(limit.bits for limit in self.limits)

    @property
    def rate(self) -> float | None:
        """Bytes a second that it, and all that share its limits, may have now; None: no limit."""
        return min((limit.bits / 8 for limit in self.limits if limit.bits), default=None)

    @property
    def is_held(self) -> bool:
        """Whether somebody waits for its limits at this moment."""
        return any(limit.is_waited_for for limit in self.limits)

    @property
    def piece(self) -> int:
        """Bytes that are granted at a time, at the most; it must be limited."""
        return min(limit.piece for limit in self.limits if limit.bits)

    async def take(self, wanted: int) -> int:
        """Wait until some of ``wanted`` bytes may travel, at least 1; tells how many.

        Cancelled, it gives back what it had.
        """
        passed: list[Limit] = []
        size = wanted
        try:
            for limit in self.limits:
                granted = await self._pass(limit, size)
                for earlier in passed:
                    if granted < size:
                        earlier.give_back(size - granted)
                size = granted
                passed.append(limit)
        except BaseException:
            for earlier in passed:
                earlier.give_back(size)
            raise
        return size

    async def _pass(self, limit: Limit, wanted: int) -> int:
        if size := limit.take_now(wanted):
            return size
        patience = self._patience
        if patience is None:
            return await limit.take(wanted, self._turn, self._stream)
        patience.hold()
        try:
            return await limit.take(wanted, self._turn, self._stream)
        finally:
            patience.release()

    def spend(self, size: int) -> None:
        """Bytes have travelled, and nobody will wait for them to be paid."""
        for limit in self.limits:
            limit.spend(size)


class Flows:
    """One stream of each transfer with a peer: by them it is known what our limits leave those."""

    def __init__(self) -> None:
        self._flows: list[Flow] = []

    def __len__(self) -> int:
        return len(self._flows)

    def add(self, flow: Flow) -> None:
        """A transfer begins."""
        self._flows.append(flow)

    def remove(self, flow: Flow) -> None:
        """It ends."""
        self._flows.remove(flow)

    @property
    def rate(self) -> float | None:
        """Bytes a second that all may have together, both ways; None: one has no limit."""
        rates = {flow.limits: flow.rate for flow in self._flows}
        known = [rate for rate in rates.values() if rate is not None]
        return sum(known) if known and len(known) == len(rates) else None

    @property
    def is_held(self) -> bool:
        """Whether it is our limits that hold all back at this moment."""
        return bool(self._flows) and all(flow.is_held for flow in self._flows)


class Toll:
    """What a stream that is received owes for its bytes, and the holding of its source."""

    def __init__(self, flow: Flow, hold: Callable[[], None], release: Callable[[], None]) -> None:
        """:param hold: called when it begins to owe. :param release: when it does not any more."""
        self._flow = flow
        self._hold = hold
        self._release = release
        self._debt = 0
        self._paying: Deferred[None] | None = None
        self._waiters = Waiters()

    def owe(self, size: int) -> None:
        """So many bytes have come."""
        if not self._flow.is_limited and self._paying is None:
            return
        self._debt += size
        if self._paying is None:
            paying = Deferred.fromCoroutine(self._pay())
            if not paying.called:
                self._paying = paying
                self._hold()
                paying.addBoth(self._end)

    async def _pay(self) -> None:
        while self._debt:
            paid = await self._flow.take(self._debt)
            self._debt -= paid

    def _end(self, result: object) -> None:
        self._paying = None
        self._release()
        self._waiters.fire()
        if isinstance(result, Failure):
            result.trap(CancelledError)

    async def paid(self) -> None:
        """Wait until nothing is owed."""
        if self._paying is not None:
            await self._waiters.wait()

    def drop(self) -> None:
        """Nothing more comes, and nobody waits: the rest goes at the cost of others."""
        if self._paying is not None:
            debt, self._debt = self._debt, 0
            self._flow.spend(debt)
            self._paying.cancel()
