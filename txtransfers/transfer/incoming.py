"""The pushes that we receive: open -> receiving -> committing -> committed, or discarded.

Each transaction has its own staging area, and none waits for another's. There is room for
``MaxPushTransactions``; one more takes the place of the one that nobody has used for the longest
time, if that is idle for :data:`IDLE_BEFORE_PARKING_S`, and is turned away otherwise. What gave way
is parked: it is on the disk, and goes on with its next request, also after a restart. After
``PushTransactionTimeout`` without a request it is discarded.
"""

from collections.abc import Awaitable, Callable
from uuid import uuid4

import attrs
from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from ..errors import (
    BadMessage,
    BadState,
    StorageFull,
    TooBusy,
    TransfersError,
    UnknownResource,
)
from ..store.interfaces import CommitReport, IIncoming, IInstanceStore
from ..threads import IThreads
from ..waiters import Waiters
from ..wire.codec import Codec
from ..wire.identifiers import is_identifier
from ..wire.plan import check_plan
from ..wire.pushes import (
    UNLIMITED_PUSH,
    PushLimits,
    PushRequest,
    PushState,
    PushStatus,
    is_transaction_id,
    parse_push,
    push_json,
)
from .received_push import PushTransaction, committed_status
from .slots import Slots
from .streams import Sink

IDLE_BEFORE_PARKING_S = 60.0

_PREFIX = "push."
"""How the names of staging areas begin that belong to a push."""

_STOPPED_RETRY_S = 10

_GIVEN_UP_KEPT = 100

EXPECTED_S = 10.0
"""Seconds that buckets may wait for the opening of their transaction, which is on its way."""

_MOST_EXPECTED = 256
"""Buckets that wait at once; each is a connection, and what it may keep of a body."""

log = Logger()


@attrs.define
class Counters:
    """What the metrics tell of received pushes; sizes in bytes, times in seconds."""

    created: int = 0
    committed: int = 0
    aborted: int = 0
    received_bytes: int = 0
    reception_seconds: float = 0.0
    commit_seconds: float = 0.0


@attrs.define
class Traffic:
    """What came of one push in this life; bytes, as they travelled.

    :ivar wasted: of these, that came to nothing as their body did not come to its end.
    """

    received: int = 0
    wasted: int = 0


class PushTransactions:
    """All pushes that we receive."""

    def __init__(
        self,
        clock: IReactorTime,
        threads: IThreads,
        store: IInstanceStore,
        room: int,
        bodies: Slots,
        limits: PushLimits = UNLIMITED_PUSH,
    ) -> None:
        """:param room: ``MaxPushTransactions``. :param bodies: buckets that may arrive at once.

        :param limits: of those that are opened.
        """
        self.limits = limits
        self._clock = clock
        self._threads = threads
        self._store = store
        self._room = room
        self._refusing = False
        self.bodies = bodies
        self._opening = 0
        self._transactions: dict[str, PushTransaction] = {}
        self._traffic: dict[str, Traffic] = {}
        self._moving: dict[str, Waiters] = {}
        """Those that are being parked or reopened, and who waits for that."""
        self._expected: dict[str, Waiters] = {}
        """Those whose buckets came before their opening."""
        self._expecting = 0
        self._given_up: dict[str, str] = {}
        """Why the last few were ended here: their other buckets are refused for the same."""
        self.counters = Counters()

    @property
    def available(self) -> int:
        """How many more there is room for."""
        return max(0, self._room - len(self._transactions) - self._opening)

    @property
    def open_count(self) -> int:
        """How many are open."""
        return len(self._transactions)

    @property
    def is_refusing(self) -> bool:
        """Whether the daemon is being stopped."""
        return self._refusing

    async def open(self, request: PushRequest) -> tuple[str, frozenset[int]]:
        """Open a transaction; gives its identifier, and which instances need not be sent.

        With a key that is known, it is the transaction that was opened with it.

        :raises BadMessage: the plan is not one (see :func:`check_plan`), or an identifier is none.
        :raises BadState: the key belongs to a transaction of other instances.
        :raises TooBusy: all others are in use.
        :raises StorageFull: the bytes cannot fit.
        """
        if self._refusing:
            raise TooBusy("The daemon is being stopped", _STOPPED_RETRY_S)
        extension = request.extension
        id_ = extension.key if extension is not None else str(uuid4())
        try:
            return await self._open(id_, request)
        finally:
            self._expect_no_more(id_)

    async def _open(self, id_: str, request: PushRequest) -> tuple[str, frozenset[int]]:
        await self._threads.run(_check, request)
        note = await self._threads.run(push_json, (), request.buckets, request.compression)
        self._given_up.pop(id_, None)
        known = await self._find(id_, lambda: self._receive(id_, request, note))
        assert known is not None
        if isinstance(known, CommitReport):
            raise BadState(f"The key {id_} belongs to a transaction that is committed")
        if not known.is_of(request, note):
            raise BadState(f"The key {id_} belongs to a transaction of other instances")
        return id_, known.already_stored

    async def _receive(self, id_: str, request: PushRequest, note: bytes) -> PushTransaction:
        await self._make_room()
        self._opening += 1
        try:
            delta = request.extension is not None and request.extension.delta
            incoming = await self._store.receive(request.instances, _PREFIX + id_, note, delta)
        finally:
            self._opening -= 1
        self.counters.created += 1
        return self._add(id_, incoming, request)

    async def _find(
        self, id_: str, make: Callable[[], Awaitable[PushTransaction]] | None = None
    ) -> PushTransaction | CommitReport | None:
        """A transaction that is open, or is opened again from the disk; or how it was committed.

        :param make: opens it where there is none; who looks for it meanwhile waits.
        """
        while id_ in self._moving:
            await self._moving[id_].wait()
        transaction = self._transactions.get(id_)
        if transaction is not None or not is_transaction_id(id_):
            return transaction
        self._moving[id_] = Waiters()
        try:
            found = await self._reopen(id_)
            return await make() if found is None and make is not None else found
        finally:
            self._moved(id_)

    def _moved(self, id_: str) -> None:
        self._moving.pop(id_).fire()

    async def _reopen(self, id_: str) -> PushTransaction | CommitReport | None:
        incoming = await self._store.reopen(_PREFIX + id_)
        if incoming is None:
            return None
        if incoming.report is not None:
            return incoming.report  # type: ignore[no-any-return]
        try:
            request = await self._threads.run(parse_push, incoming.note)
            await self._make_room()
        except TransfersError:
            await incoming.close()
            raise
        log.info("Push transaction {id} goes on", id=id_)
        return self._add(id_, incoming, request)

    def _add(self, id_: str, incoming: IIncoming, request: PushRequest) -> PushTransaction:
        def committed(transaction: PushTransaction, seconds: float) -> None:
            if self._transactions.get(id_) is transaction:
                del self._transactions[id_]
            self.counters.committed += 1
            self.counters.commit_seconds += seconds
            self._traffic.pop(id_, None)

        transaction = PushTransaction(
            self._clock, self._threads, incoming, request, committed, self.limits.inflation
        )
        self._transactions[id_] = transaction
        return transaction

    async def _make_room(self) -> None:
        if self.available:
            return
        staying = [item for item in self._transactions.items() if item[0] not in self._moving]
        id_, oldest = max(staying, key=lambda item: item[1].idle_for, default=("", None))
        if oldest is None or oldest.idle_for < IDLE_BEFORE_PARKING_S:
            idle = oldest.idle_for if oldest is not None else 0.0
            raise TooBusy(
                f"{self._room} transfers are being received, which is MaxPushTransactions:"
                " try again later",
                max(1, round(IDLE_BEFORE_PARKING_S - idle)),
            )
        log.info(
            "Push transaction {id}, idle for {seconds:.0f} s, gives way to a new one",
            id=id_,
            seconds=oldest.idle_for,
        )
        await self._park(id_)

    async def _park(self, id_: str) -> None:
        self._moving[id_] = Waiters()
        try:
            await self._transactions[id_].park()
        finally:
            self._transactions.pop(id_, None)
            self._moved(id_)

    async def expect(self, id_: str) -> None:
        """Wait a little for a transaction to be opened; whether it was, :meth:`get` tells."""
        if self._expecting >= _MOST_EXPECTED or not is_transaction_id(id_):
            return
        self._expecting += 1
        opened = self._expected.setdefault(id_, Waiters()).wait()
        timeout = self._clock.callLater(EXPECTED_S, self._expect_no_more, id_)
        try:
            if await self._find(id_) is None:
                await opened
        except Exception:
            self._expect_no_more(id_)
            raise
        finally:
            self._expecting -= 1
            if timeout.active():
                timeout.cancel()
        self._expect_no_more(id_)  # all know now; none is kept whom nobody calls

    def _expect_no_more(self, id_: str) -> None:
        expecting = self._expected.pop(id_, None)
        if expecting is not None:
            expecting.fire()

    async def get(self, id_: str) -> PushTransaction:
        """A transaction that is open.

        :raises UnknownResource: there is none of that name (any more).
        :raises StorageFull: the disk became full, which ended it.
        :raises TooBusy: it was parked, and there is no room for it now.
        """
        self._refuse_if_given_up(id_)
        found = await self._known(id_)
        if isinstance(found, CommitReport):
            raise UnknownResource(f"The push transaction {id_[:100]} is committed")
        return found

    async def _known(self, id_: str) -> PushTransaction | CommitReport:
        found = await self._find(id_)
        # Somebody who waited too may have moved it, or ended it, at once. What is not open is not
        # looked for again: two who wait for each other's look would do so for ever.
        while isinstance(found, PushTransaction) and not self._is_there(id_, found):
            found = await self._find(id_)
        if found is None:
            raise UnknownResource(
                f"No push transaction {id_[:100]} is open here: it was deleted, or nobody used it"
                " for longer than PushTransactionTimeout"
            )
        if isinstance(found, PushTransaction):
            found.last_used = self._clock.seconds()
        return found

    def _is_there(self, id_: str, transaction: PushTransaction) -> bool:
        return id_ not in self._moving and self._transactions.get(id_) is transaction

    async def status(self, id_: str, verify: bool) -> PushStatus:
        """Where a transaction stands, once that is decided.

        :param verify: read first what is staged once more, as after a restart.
        :raises UnknownResource: there is none of that name (any more).
        """
        found = await self._known(id_)
        if verify and isinstance(found, PushTransaction) and found.can_be_read_again:
            await self._park(id_)
            found = await self._known(id_)
        if isinstance(found, CommitReport):
            return committed_status(found)
        traffic = self._traffic.get(id_, Traffic())
        return attrs.evolve(await found.status(), received=traffic.received, wasted=traffic.wasted)

    def phase(self, id_: str) -> PushState:
        """What a transaction is busy with, where :meth:`status` takes long."""
        transaction = self._transactions.get(id_)
        return transaction.phase if transaction is not None else PushState.VERIFYING

    async def receive(
        self, id_: str, number: int, offset: int = 0, codec: Codec | None = None
    ) -> Sink:
        """See :meth:`PushTransaction.receive`."""
        return (await self.get(id_)).receive(number, offset, codec)

    async def finish_bucket(self, id_: str, sink: Sink, started: float) -> None:
        """The body has come whole: wait until it is staged. Raises what went wrong with it.

        A disk that is full ends the transaction, and frees what it took.
        """
        ended = False
        try:
            await sink.finish()
            ended = True
        except StorageFull as error:
            self.received(id_, sink)
            await self._give_up(id_, error)
            raise
        except CancelledError:
            self._refuse_if_given_up(id_)
            raise UnknownResource(
                f"The push transaction {id_} was deleted, or committed, while this bucket came"
            ) from None
        finally:
            self.received(id_, sink, ended)
        self.counters.received_bytes += sink.taken
        self.counters.reception_seconds += self._clock.seconds() - started

    async def _give_up(self, id_: str, error: StorageFull) -> None:
        if id_ in self._given_up or id_ not in self._transactions:
            return
        log.warn("Push transaction {id} is given up: the disk is full", id=id_)
        self._given_up[id_] = str(error)
        if len(self._given_up) > _GIVEN_UP_KEPT:
            del self._given_up[next(iter(self._given_up))]
        await self.discard(id_)

    def _refuse_if_given_up(self, id_: str) -> None:
        if id_ in self._given_up:
            raise StorageFull(self._given_up[id_])

    def received(self, id_: str, sink: Sink, ended: bool = False) -> None:
        """See :meth:`PushTransaction.received`. :param ended: whether all of it came, and right."""
        transaction = self._transactions.get(id_)
        if transaction is not None and transaction.received(sink, ended):
            traffic = self._traffic.setdefault(id_, Traffic())
            traffic.received += sink.taken
            traffic.wasted += 0 if ended else sink.taken - sink.consumed

    async def commit(self, id_: str, after: frozenset[int] = frozenset()) -> CommitReport:
        """See :meth:`PushTransaction.commit`; a transaction that is committed is no error.

        :param after: see :meth:`PushTransaction.wait_for`.
        """
        self._refuse_if_given_up(id_)
        found = await self._known(id_)
        if isinstance(found, CommitReport):
            return found
        try:
            await found.wait_for(after)
        except UnknownResource:
            self._refuse_if_given_up(id_)
            raise
        return await found.commit()

    async def discard(self, id_: str) -> None:
        """See :meth:`PushTransaction.discard`; the transaction is gone.

        :raises UnknownResource: there is none of that name, or it is committed.
        """
        while id_ in self._moving:
            await self._moving[id_].wait()
        transaction = self._transactions.get(id_)
        if transaction is not None:
            committed = await transaction.discard()
            self._transactions.pop(id_, None)
        elif is_transaction_id(id_):
            committed = await self._store.drop(_PREFIX + id_) is not None
        else:
            raise UnknownResource(f"No push transaction {id_[:100]} is open here")
        self._traffic.pop(id_, None)
        if committed:
            raise UnknownResource(f"The push transaction {id_[:100]} is committed")
        self.counters.aborted += 1

    async def expire(self, timeout: float, now: float) -> None:
        """Discard what nobody has used for longer than ``timeout`` seconds; safe at any time.

        :param now: seconds since the epoch.
        """
        for id_, transaction in list(self._transactions.items()):
            if transaction.idle_for > timeout:
                await self._drop(_PREFIX + id_)
        for staged in await self._store.staged():
            if staged.name.startswith(_PREFIX) and now - staged.last_written > timeout:
                await self._drop(staged.name)
        await self._store.forget_reports(timeout)

    async def _drop(self, name: str) -> None:
        id_ = name.removeprefix(_PREFIX)
        log.info("{name}: abandoned by its sender", name=name)
        try:
            await self.discard(id_)
        except TransfersError as error:  # used again, or gone, at this moment
            log.info("{name} has not expired: {error}", name=name, error=error)

    def refuse_more(self) -> None:
        """The daemon is being stopped: open no more transactions."""
        self._refusing = True

    async def stop(self) -> None:
        """Let commits end, and keep the rest on the disk."""
        for id_, transaction in list(self._transactions.items()):
            await transaction.settle()
            self._transactions.pop(id_, None)


def is_push(name: str) -> bool:
    """Whether a staging area of that name belongs to a push that we receive."""
    return name.startswith(_PREFIX)


def _check(request: PushRequest) -> None:
    for instance in request.instances:
        if not is_identifier(instance.id):
            raise BadMessage(f"{instance.id[:100]!r} is no identifier of an instance")
    check_plan(request.instances, request.buckets)
