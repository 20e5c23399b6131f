"""One push that we receive: receiving -> committing -> committed, or discarded."""

from collections.abc import Callable, Sequence
from enum import Enum

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..errors import BadState, OutOfRange, TransfersError, UnknownResource
from ..store.interfaces import CommitReport, IIncoming, Outcome
from ..threads import IThreads
from ..waiters import Waiters
from ..wire.codec import Codec
from ..wire.inflation import UNLIMITED, Inflation
from ..wire.plan import Plan, bucket_size, rest_of, without
from ..wire.pushes import PushRequest, PushState, PushStatus
from .streams import Sink, bucket_sink

AWAITED_S = 30.0
"""Seconds that a commit waits for a bucket while nothing comes."""

log = Logger()


class _State(Enum):
    RECEIVING = "receiving"
    COMMITTING = "committing"
    ENDED = "ended"


class PushTransaction:
    """One push that we receive."""

    def __init__(
        self,
        clock: IReactorTime,
        threads: IThreads,
        incoming: IIncoming,
        request: PushRequest,
        on_committed: Callable[["PushTransaction", float], None],
        inflation: Inflation = UNLIMITED,
    ) -> None:
        """:param request: what was opened; ``incoming`` has its instances.

        :param on_committed: called when all is shown, with the seconds that it took.
        """
        self._clock = clock
        self._inflation = inflation
        self._threads = threads
        self._incoming = incoming
        self._request = attrs.evolve(request, instances=())
        self._on_committed = on_committed
        self._buckets: Plan = without(request.buckets, incoming.held)
        self._state = _State.RECEIVING
        self._receiving: dict[Sink, int] = {}
        self._arrived: set[int] = set()
        """Numbers of the buckets that came whole, in this life."""
        self._arrivals = Waiters()
        self._commit_waiters = Waiters()
        self._error = ""
        self._looking = False
        self._is_read_anew = True
        """Whether what is staged is being read, as since the opening nobody was told of it."""
        self._status_waiters = Waiters()
        self.last_used = clock.seconds()

    @property
    def idle_for(self) -> float:
        """Seconds since the last request; 0 while one is under way."""
        if self._receiving or self._state is _State.COMMITTING:
            return 0.0
        return self._clock.seconds() - self.last_used

    @property
    def already_stored(self) -> frozenset[int]:
        """Positions of the instances that need not come."""
        held = self._incoming.held
        return frozenset(n for n, i in enumerate(self._incoming.instances) if i.id in held)

    def is_of(self, request: PushRequest, note: bytes) -> bool:
        """Whether it was opened by the same request."""
        incoming = self._incoming
        return bool(incoming.instances == request.instances and incoming.note == note)

    @property
    def can_be_read_again(self) -> bool:
        """Whether nothing is under way, nor all being read anyway: that would begin once more."""
        is_idle = self._state is _State.RECEIVING and not self._receiving
        return is_idle and not self._is_read_anew

    def check_unchanged(self, number: int) -> None:
        """Refuse a bucket that was sent before it was known which instances are here.

        :raises BadState: some of it is here, and must not be sent.
        """
        planned = self._request.buckets
        if number < len(planned) and self._buckets[number] != planned[number]:
            raise BadState(f"Some instances of bucket {number} are here already")

    def receive(self, number: int, offset: int = 0, codec: Codec | None = None) -> Sink:
        """A sink for the body of bucket ``number``; :meth:`received` must follow.

        :param offset: of the first byte of the bucket that comes; those before have come already.
        :param codec: that it travels in; None: what the transaction says.
        :raises OutOfRange: there is no such bucket, or it has not so many bytes.
        :raises BadState: it is being committed. :raises UnknownResource: it is being discarded.
        """
        self._refuse_if_ended()
        if self._state is _State.COMMITTING:
            raise BadState("The transaction is being committed: it takes no more buckets")
        if number >= len(self._buckets):
            raise OutOfRange(
                f"There is no bucket {number}: the transaction has {len(self._buckets)}"
            )
        bucket = self._buckets[number]
        if offset > bucket_size(bucket):
            raise OutOfRange(
                f"Bucket {number} has {bucket_size(bucket)} bytes, and offset is {offset}"
            )
        sink = bucket_sink(
            self._threads,
            self._incoming,
            rest_of(bucket, offset),
            codec or self._request.compression,
            self._inflation,
        )
        self._receiving[sink] = number
        self._is_read_anew = False
        return sink

    def received(self, sink: Sink, ended: bool) -> bool:
        """The body has ended, well or not, and nothing of it is being written any more.

        Tells whether that was not known before.

        :param ended: whether all of it came, and right.
        """
        number = self._receiving.pop(sink, None)
        self.last_used = self._clock.seconds()
        if number is None:
            return False
        if ended:
            self._arrived.add(number)
        self._arrivals.fire()
        return True

    async def wait_for(self, numbers: frozenset[int]) -> None:
        """Wait until these buckets have come, in this life: they are on their way.

        :raises BadState: nothing has come for :data:`AWAITED_S`.
        :raises UnknownResource: it is being discarded.
        """
        while not numbers <= self._arrived:
            self._refuse_if_ended()
            if self.idle_for >= AWAITED_S:
                raise BadState(
                    f"Bucket {min(numbers - self._arrived)} has not come, for"
                    f" {AWAITED_S:.0f} s nothing has: it cannot be committed yet"
                )
            waiting = self._arrivals.wait()
            timeout = self._clock.callLater(AWAITED_S, self._arrivals.fire)
            try:
                await waiting
            finally:
                if timeout.active():
                    timeout.cancel()

    @property
    def phase(self) -> PushState:
        """What it is busy with, where :meth:`status` takes long."""
        committing = self._state is _State.COMMITTING
        return PushState.COMMITTING if committing else PushState.VERIFYING

    async def status(self) -> PushStatus:
        """Where it stands, once that is decided.

        A commit that is under way has ended then, and all that was staged has been read.
        """
        while self._state is _State.COMMITTING:
            try:
                return committed_status(await self._commit_waiters.wait())
            except TransfersError:
                continue
        self._refuse_if_ended()
        decided = self._status_waiters.wait()
        if not self._looking:
            self._looking = True
            Deferred.fromCoroutine(self._look()).addBoth(self._has_looked)
        return await decided  # type: ignore[no-any-return]

    async def _look(self) -> PushStatus:
        incoming, buckets = self._incoming, self._buckets
        missing = await incoming.missing(buckets)
        partial: dict[int, int] = await self._threads.run(
            lambda: {n: size for n in missing if (size := incoming.prefix(buckets[n]))}
        )
        return PushStatus(
            PushState.RECEIVING,
            frozenset(missing),
            self.already_stored,
            error=self._error,
            partial=partial,
        )

    def _has_looked(self, result: PushStatus | Failure) -> None:
        """However many ask meanwhile, one look answers all."""
        self._looking = self._is_read_anew = False
        self._status_waiters.fire(result)

    async def commit(self) -> CommitReport:
        """Verify all, show all. A second call while the first runs waits for the same end.

        It goes on when the caller is cancelled: the sender may ask later how it ended.

        :raises CorruptedInstances, BadDicom: nothing is shown; it can be tried again.
        :raises UnknownResource: it is being discarded.
        """
        self._refuse_if_ended()
        ended = self._commit_waiters.wait()
        if self._state is _State.RECEIVING:
            self._state = _State.COMMITTING
            self._is_read_anew = False
            Deferred.fromCoroutine(self._commit()).addBoth(
                self._commit_ended, self._clock.seconds()
            )
        return await ended  # type: ignore[no-any-return]

    async def _commit(self) -> CommitReport:
        # What was sent again, and came otherwise, is not to be written any more.
        await self._cut([s for s, number in self._receiving.items() if number in self._arrived])
        for sink in list(self._receiving):
            await sink.idle()
        return await self._incoming.commit()

    def _commit_ended(self, result: CommitReport | Failure, started: float) -> None:
        self.last_used = self._clock.seconds()
        if isinstance(result, CommitReport):
            self._state = _State.ENDED
            self._on_committed(self, self.last_used - started)
        elif self._state is _State.COMMITTING:
            self._state = _State.RECEIVING
            self._error = result.getErrorMessage()
            self._arrived.clear()  # of these, some may have to come again
            self._buckets = without(self._request.buckets, self._incoming.held)
        self._commit_waiters.fire(result)

    def _refuse_if_ended(self) -> None:
        if self._state is _State.ENDED:
            raise UnknownResource("The push transaction is being deleted")

    async def discard(self) -> bool:
        """Free the space, unless it turns out to be committed: tells whether it is.

        A commit that is under way is undone, as long as it has shown nothing.
        """
        await self._stop_receiving()
        return bool(await self._incoming.discard())

    async def _stop_receiving(self) -> None:
        self._state = _State.ENDED
        self._arrivals.fire()
        await self._cut(list(self._receiving))

    async def _cut(self, sinks: Sequence[Sink]) -> None:
        """Take nothing more of these bodies."""
        for sink in sinks:
            sink.abort()
            await sink.idle()

    async def park(self) -> None:
        """Free the memory, and keep what is on the disk. Not while it is being committed."""
        await self._stop_receiving()
        await self._incoming.close()

    async def settle(self) -> None:
        """At the daemon's stop: let a commit end, then park."""
        if self._state is _State.COMMITTING:
            try:
                await self.commit()
            except TransfersError as error:
                log.info("A commit failed while the daemon was stopping: {error}", error=error)
        await self.park()


def committed_status(report: CommitReport) -> PushStatus:
    """What a sender is told of a commit that ended well."""

    def positions(wanted: Outcome) -> frozenset[int]:
        return frozenset(n for n, outcome in enumerate(report.outcomes) if outcome is wanted)

    return PushStatus(
        PushState.COMMITTED,
        already_stored=positions(Outcome.ALREADY_STORED),
        different=positions(Outcome.DIFFERENT),
        replaced=positions(Outcome.REPLACED),
    )
