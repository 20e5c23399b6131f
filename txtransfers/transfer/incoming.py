"""The pushes that we receive: open -> receiving -> committing -> committed, or discarded.

Each transaction has its own staging area, and none waits for another's. There is room for
``MaxPushTransactions``; one more takes the place of the one that nobody has used for the longest
time, if that is idle for :data:`IDLE_BEFORE_EVICTION_S`, and is turned away otherwise.
"""

from enum import Enum
from uuid import uuid4

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..errors import (
    BadMessage,
    BadState,
    OutOfRange,
    TooBusy,
    TransfersError,
    UnknownResource,
)
from ..store.interfaces import CommitReport, IIncoming, IInstanceStore
from ..threads import IThreads
from ..wire.identifiers import is_identifier
from ..wire.messages import PushRequest
from ..wire.plan import check_plan
from .slots import Slots
from .streams import Sink, bucket_sink

IDLE_BEFORE_EVICTION_S = 60.0
ABANDONED_AFTER_S = 24 * 3600.0
"""Seconds without a request after which a transaction is taken for abandoned."""

_STOPPED_RETRY_S = 10

log = Logger()


class _State(Enum):
    RECEIVING = "receiving"
    COMMITTING = "committing"
    ENDED = "ended"


@attrs.define
class Counters:
    """What the metrics tell of received pushes; sizes in bytes, times in seconds."""

    created: int = 0
    committed: int = 0
    aborted: int = 0
    received_bytes: int = 0
    reception_seconds: float = 0.0
    commit_seconds: float = 0.0


class PushTransaction:
    """One push that we receive."""

    def __init__(
        self,
        clock: IReactorTime,
        threads: IThreads,
        incoming: IIncoming,
        request: PushRequest,
    ) -> None:
        self._clock = clock
        self._threads = threads
        self._incoming = incoming
        self._request = request
        self._state = _State.RECEIVING
        self._receiving: set[Sink] = set()
        self._waiting: list[Deferred[CommitReport]] = []
        self.last_used = clock.seconds()

    @property
    def idle_for(self) -> float:
        """Seconds since the last request; 0 while one is under way."""
        if self._receiving or self._state is _State.COMMITTING:
            return 0.0
        return self._clock.seconds() - self.last_used

    def receive(self, number: int) -> Sink:
        """A sink for the body of bucket ``number``; :meth:`received` must follow.

        :raises OutOfRange: there is no such bucket.
        :raises BadState: it is being committed. :raises UnknownResource: it is being discarded.
        """
        self._refuse_if_ended()
        if self._state is _State.COMMITTING:
            raise BadState("The transaction is being committed: it takes no more buckets")
        buckets = self._request.buckets
        if number >= len(buckets):
            raise OutOfRange(f"There is no bucket {number}: the transaction has {len(buckets)}")
        sink = bucket_sink(
            self._threads, self._incoming, buckets[number], self._request.compression
        )
        self._receiving.add(sink)
        return sink

    def received(self, sink: Sink) -> None:
        """The body has ended, well or not, and nothing of it is being written any more."""
        self._receiving.discard(sink)
        self.last_used = self._clock.seconds()

    async def commit(self) -> CommitReport:
        """Verify all, show all. A second call while the first runs waits for the same end.

        :raises CorruptedInstances, BadDicom: nothing is shown; it can be tried again.
        :raises UnknownResource: it is being discarded.
        """
        self._refuse_if_ended()
        if self._state is _State.COMMITTING:
            waiter: Deferred[CommitReport] = Deferred()
            self._waiting.append(waiter)
            return await waiter
        self._state = _State.COMMITTING
        try:
            for sink in list(self._receiving):
                await sink.idle()
            report = await self._incoming.commit()
        except BaseException:
            self._commit_ended(_State.RECEIVING, Failure())
            raise
        self._commit_ended(_State.ENDED, report)
        return report

    def _refuse_if_ended(self) -> None:
        if self._state is _State.ENDED:
            raise UnknownResource("The push transaction is being deleted")

    def _commit_ended(self, state: _State, result: CommitReport | Failure) -> None:
        self._state = state
        self.last_used = self._clock.seconds()
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            waiter.callback(result)  # a Failure fails it

    async def discard(self) -> None:
        """Free the space.

        :raises BadState: it is being committed.
        """
        if self._state is _State.COMMITTING:
            raise BadState("The transaction is being committed: it cannot be discarded")
        self._state = _State.ENDED
        for sink in list(self._receiving):
            sink.abort()
            await sink.idle()
        await self._incoming.discard()

    async def settle(self) -> None:
        """At the daemon's stop: let a commit end, discard otherwise."""
        if self._state is _State.COMMITTING:
            try:
                await self.commit()
            except TransfersError as error:
                log.info("A commit failed while the daemon was stopping: {error}", error=error)
        if self._state is not _State.ENDED:
            await self.discard()


class PushTransactions:
    """All pushes that we receive."""

    def __init__(
        self,
        clock: IReactorTime,
        threads: IThreads,
        store: IInstanceStore,
        room: int,
        bodies: Slots,
    ) -> None:
        """:param room: ``MaxPushTransactions``. :param bodies: buckets that may arrive at once."""
        self._clock = clock
        self._threads = threads
        self._store = store
        self._room = room
        self._refusing = False
        self.bodies = bodies
        self._opening = 0
        self._transactions: dict[str, PushTransaction] = {}
        self.counters = Counters()

    @property
    def available(self) -> int:
        """How many more there is room for."""
        return max(0, self._room - len(self._transactions) - self._opening)

    async def open(self, request: PushRequest) -> str:
        """Open a transaction; gives its identifier.

        :raises BadMessage: the plan is not one (see :func:`check_plan`), or an identifier is none.
        :raises TooBusy: all others are in use.
        :raises StorageFull: the bytes cannot fit.
        """
        if self._refusing:
            raise TooBusy("The daemon is being stopped", _STOPPED_RETRY_S)
        await self._threads.run(_check, request)
        await self._make_room()
        self._opening += 1
        try:
            incoming = await self._store.receive(request.instances)
        finally:
            self._opening -= 1
        id_ = str(uuid4())
        self._transactions[id_] = PushTransaction(self._clock, self._threads, incoming, request)
        self.counters.created += 1
        return id_

    async def _make_room(self) -> None:
        for id_, transaction in list(self._transactions.items()):
            if transaction.idle_for > ABANDONED_AFTER_S:
                log.info("Push transaction {id} was abandoned by its sender", id=id_)
                await self.discard(id_)
        if self.available:
            return
        id_, oldest = max(
            self._transactions.items(), key=lambda item: item[1].idle_for, default=("", None)
        )
        if oldest is None or oldest.idle_for < IDLE_BEFORE_EVICTION_S:
            idle = oldest.idle_for if oldest is not None else 0.0
            raise TooBusy(
                f"{self._room} transfers are being received, which is MaxPushTransactions:"
                " try again later",
                max(1, round(IDLE_BEFORE_EVICTION_S - idle)),
            )
        log.info(
            "Push transaction {id}, idle for {seconds:.0f} s, gives way to a new one",
            id=id_,
            seconds=oldest.idle_for,
        )
        await self.discard(id_)

    def get(self, id_: str) -> PushTransaction:
        """A transaction that is open.

        :raises UnknownResource: there is none of that name (any more).
        """
        transaction = self._transactions.get(id_)
        if transaction is None:
            raise UnknownResource(
                f"No push transaction {id_[:100]} is open here: it was committed or deleted,"
                " or the daemon was restarted"
            )
        transaction.last_used = self._clock.seconds()
        return transaction

    def receive(self, id_: str, number: int) -> Sink:
        """See :meth:`PushTransaction.receive`."""
        return self.get(id_).receive(number)

    async def finish_bucket(self, id_: str, sink: Sink, started: float) -> None:
        """The body has come whole: wait until it is staged. Raises what went wrong with it."""
        try:
            await sink.finish()
        finally:
            self.received(id_, sink)
        self.counters.received_bytes += sink.taken
        self.counters.reception_seconds += self._clock.seconds() - started

    def received(self, id_: str, sink: Sink) -> None:
        """See :meth:`PushTransaction.received`."""
        transaction = self._transactions.get(id_)
        if transaction is not None:
            transaction.received(sink)

    async def commit(self, id_: str) -> CommitReport:
        """See :meth:`PushTransaction.commit`; the transaction is gone after success."""
        transaction = self.get(id_)
        started = self._clock.seconds()
        report = await transaction.commit()
        if self._transactions.pop(id_, None) is not None:
            self.counters.committed += 1
            self.counters.commit_seconds += self._clock.seconds() - started
        return report

    async def discard(self, id_: str) -> None:
        """See :meth:`PushTransaction.discard`; the transaction is gone."""
        transaction = self.get(id_)
        await transaction.discard()
        if self._transactions.pop(id_, None) is not None:
            self.counters.aborted += 1

    def refuse_more(self) -> None:
        """The daemon is being stopped: open no more transactions."""
        self._refusing = True

    async def stop(self) -> None:
        """Let commits end, discard the rest."""
        for id_, transaction in list(self._transactions.items()):
            await transaction.settle()
            self._transactions.pop(id_, None)


def _check(request: PushRequest) -> None:
    for instance in request.instances:
        if not is_identifier(instance.id):
            raise BadMessage(f"{instance.id[:100]!r} is no identifier of an instance")
    check_plan(request.instances, request.buckets)
