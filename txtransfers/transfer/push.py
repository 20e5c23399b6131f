"""Sending in push mode, told as a sequence: look up, plan, open, PUT the buckets, commit.

After a pause, a failure or a restart a peer that knows our extension is asked what is missing; of
another one the job remembers which buckets arrived. Nothing is sent twice that a peer has, and how
a commit went is found out before anything is said of it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferTimeoutError
from twisted.internet.task import deferLater
from twisted.logger import Logger
from zope.interface import implementer

from ..errors import PeerRefused, SourceChanged, TransfersError, UnknownResource
from ..store.interfaces import Outcome
from ..wire.messages import TransferRequest, new_transfer_id
from ..wire.plan import Instance, bucket_size, rest_of
from ..wire.pushes import PushExtension, PushState, PushStatus, push_json
from .arrivals import Arrivals
from .bodies import BucketBodies
from .codings import BucketCodings
from .holdings import held_by_lookup
from .parts import ROUNDS, ITransfer, Memo, Parts, check_source, is_passing
from .peers import Peer
from .progress import Progress
from .retries import delay_before, is_worth_retrying
from .slots import run_all
from .streams import SLICE
from .tail import Tail
from .transaction import Transaction
from .turns import Turn

GOODBYE_S = 1.0
"""Seconds that telling the peer of an abandoned transaction may take, before its commit."""

FIND_OUT_S = 60.0
"""Seconds that a peer may be out of reach while it is asked how its commit went."""

POLL_S = 0.5
"""Seconds between two questions of how it stands; the peer waits a little itself."""

_NOT_FOUND = 404
_CONFLICT = 409
_SERVER_ERROR = 500

log = Logger()


@implementer(ITransfer)
class Push:
    """One transfer to a peer; see :class:`ITransfer`."""

    def __init__(self, parts: Parts, peer: Peer, request: TransferRequest, memo: Memo) -> None:
        self._parts = parts
        self._peer = peer
        self._request = request
        self._arrivals = Arrivals(())
        self._memo = memo
        self._transaction = Transaction(memo.state)
        cores = min(parts.cores, peer.link.cap)
        self._codings = BucketCodings(
            request.compression, peer.link.estimate, parts.speeds, cores, parts.reactor
        )
        self._session = peer.session(request.sender_transfer_id or new_transfer_id())
        self._session.restore(memo.state.get("cookies", ()))
        self._instances: tuple[Instance, ...] = ()
        self._outcomes: list[Outcome | None] = []
        self._travelling = 0
        self._tail = Tail(parts.reactor, peer.link)
        self._unsent: set[int] = set()
        """Buckets whose bytes are not all on their way."""
        self._committing: Deferred[PushStatus] | None = None
        """A commit that was asked for while the last buckets were on their way."""
        self._last_error: TransfersError | None = None
        """Why the last commit came to nothing although nothing is missing."""

    async def run(self, progress: Progress) -> None:
        """See :meth:`ITransfer.run`."""
        link = self._peer.link
        async with link.use():
            await self._peer.meet()
            await self._prepare()
            total = sum(instance.size for instance in self._instances)
            self._peer.prepare(min(link.limit, total // SLICE))
            await self._run(progress)
        self._transaction.forget()

    async def _run(self, progress: Progress) -> None:
        transaction = self._transaction
        if transaction.path and await self._ask(progress, verify=True):
            return
        for number in range(ROUNDS):
            if not transaction.path and not await self._open(progress):
                return
            self._last_error = None
            if await self._send_and_commit(progress):
                return
            if self._last_error is not None and number + 1 < ROUNDS:
                progress.retries += 1
                await deferLater(self._parts.reactor, delay_before(number + 1, self._last_error))
            await self._check_source()
        raise self._last_error or PeerRefused(
            f'Peer "{self._peer.name}" still lacks something after {ROUNDS} rounds', _CONFLICT
        )

    # Before anything is sent

    async def _prepare(self) -> None:
        """What is to be sent: as it was found at first, if it still is like that."""
        store, memo = self._parts.store, self._memo
        known = await memo.instances()
        if known is not None:
            self._instances = known
            try:
                await self._check_source()
                if memo.anew and await store.lookup(self._request.resources) != known:
                    raise SourceChanged("There are more instances now")
            except SourceChanged as error:
                if not memo.anew:
                    raise
                memo.say(f"Starts anew: {error}")
                await self.abandon()
                known = None
        if known is None:
            self._instances = await store.lookup(self._request.resources)
            await memo.keep_instances(self._instances)
        memo.anew = False
        if self._transaction.path:
            # What an earlier version has opened is as was wished: it knew nothing else.
            self._transaction.compression = self._codings.open(self._transaction.compression)
            self._codings.opened(self._transaction.compression, self._transaction.codecs)
            await self._parts.threads.run(self._transaction.make_plan, self._instances)

    async def _check_source(self) -> None:
        found = await self._parts.store.find([instance.id for instance in self._instances])
        check_source(self._instances, found, "here")

    async def _ask(self, progress: Progress, verify: bool) -> bool:
        """Learn what has arrived; tells whether even the commit has ended well."""
        transaction = self._transaction
        status: PushStatus | None = None
        if transaction.extended:
            try:
                status = await self._parts.retrying(progress, lambda: self._decided(verify))
            except PeerRefused as error:
                if not error.is_unknown:
                    raise
                self._lost()
                return False
            if self._learn(status):
                return True
        for number, size in transaction.in_flight.items():
            kept = size if number in transaction.done else transaction.partial.get(number, 0)
            progress.repeated_size += max(0, size - kept)
        transaction.in_flight.clear()
        if status is not None:
            progress.at_least(status.received, status.wasted)
        self._show(progress)
        done = len(transaction.done)
        self._memo.say(f"Goes on: {done} of {len(transaction.buckets)} buckets have arrived")
        return False

    async def _decided(self, verify: bool, patience: float = 0.0) -> PushStatus:
        """Where the transaction stands, once the peer has read, or committed, what it has.

        :param patience: seconds that the peer may be out of reach.
        """
        transaction, clock = self._transaction, self._parts.reactor
        last_seen = clock.seconds()
        while True:
            begun = clock.seconds()
            try:
                status = await self._peer.push_status(
                    transaction.may_be_open,
                    len(transaction.declared),
                    len(transaction.plan),
                    verify,
                    self._session,
                )
                last_seen = clock.seconds()
                if status.state in (PushState.RECEIVING, PushState.COMMITTED):
                    return status
                verify = False
            except TransfersError as error:
                if not is_worth_retrying(error) or begun - last_seen >= patience:
                    raise
            await deferLater(clock, POLL_S)

    def _learn(self, status: PushStatus) -> bool:
        """Believe the peer; tells whether all is committed."""
        transaction = self._transaction
        if status.state is PushState.COMMITTED:
            self._outcomes = self._told(status)
            return True
        transaction.hold(status.already_stored)
        transaction.done = set(range(len(transaction.plan))) - status.missing
        transaction.partial = dict(status.partial)
        return False

    def _told(self, status: PushStatus) -> list[Outcome | None]:
        declared = [Outcome.STORED] * len(self._transaction.declared)
        for positions, outcome in (
            (status.already_stored, Outcome.ALREADY_STORED),
            (status.different, Outcome.DIFFERENT),
            (status.replaced, Outcome.REPLACED),
        ):
            for position in positions:
                declared[position] = outcome
        told = iter(declared)
        skipped = self._transaction.skipped
        return [
            Outcome.ALREADY_STORED if n in skipped else next(told)
            for n in range(len(self._instances))
        ]

    def _lost(self) -> None:
        self._memo.say("The peer does not know the transaction any more: a new one is opened")
        self._transaction.forget()

    def _show(self, progress: Progress) -> None:
        transaction = self._transaction
        progress.planned(
            self._instances, transaction.not_sent(self._instances), transaction.buckets
        )
        done = [n for n in transaction.done if transaction.buckets[n]]
        self._arrivals = Arrivals(transaction.buckets, done)
        progress.arrived(transaction.buckets, done, self._arrivals.instances)

    # Opening

    async def _open(self, progress: Progress) -> bool:
        """Open a transaction; tells whether there is something to send, or to commit."""
        delta = self._request.delta
        if delta is None:
            delta = self._parts.limits.delta
        ask_first = bool(delta) and self._peer.knows_extension is False
        skipped = await self._held_by_stock(progress) if ask_first else frozenset()
        if not await self._open_with(progress, skipped, delta):
            return False
        if delta and not ask_first and not self._transaction.extended:
            # Only now it is known that the peer must be asked in another way.
            skipped = await self._held_by_stock(progress)
            if skipped:
                await self._goodbye()
                return await self._open_with(progress, skipped, delta)
        return True

    async def _open_with(
        self, progress: Progress, skipped: frozenset[int], delta: bool | None
    ) -> bool:
        parts, transaction = self._parts, self._transaction
        cut = self._peer.link.cut(parts.limits.bucket_size)
        await parts.threads.run(transaction.begin, self._instances, skipped, cut)
        self._show(progress)
        if skipped and not transaction.declared:
            self._outcomes = [Outcome.ALREADY_STORED] * len(self._instances)
            transaction.forget()
            return False
        transaction.compression = self._codings.open(transaction.compression)
        await self._memo.keep(self.state())  # the key: this opening, repeated, is the same one
        extension = PushExtension(transaction.key, delta is not False, self._codings.offered)
        opening = await parts.threads.run(
            push_json,
            transaction.declared,
            transaction.plan,
            transaction.compression,
            extension,
        )
        opened = await parts.retrying(
            progress,
            lambda: self._peer.open_push(opening, len(transaction.declared), self._session),
        )
        transaction.path = opened.path
        transaction.extended = opened.already_stored is not None
        transaction.codecs = opened.codecs & self._codings.offered
        transaction.awaits = opened.awaits
        self._codings.opened(transaction.compression, transaction.codecs)
        await parts.threads.run(transaction.hold, opened.already_stored or frozenset())
        self._show(progress)
        await self._memo.keep(self.state())
        return True

    async def _held_by_stock(self, progress: Progress) -> frozenset[int]:
        """Positions of the instances that the peer holds, as its lookup tells."""
        return await held_by_lookup(
            self._instances,
            self._request.resources,
            lambda some: self._parts.retrying(
                progress, lambda: self._peer.lookup(some, self._session)
            ),
        )

    # Sending

    async def _send_and_commit(self, progress: Progress) -> bool:
        """Send what is missing, and have all committed; tells whether it is."""
        try:
            return await self._send_missing(progress) and await self._commit(progress)
        except PeerRefused as error:
            # What came again may be refused as all is there, and is being committed.
            if self._committing is None or error.status not in (_NOT_FOUND, _CONFLICT):
                raise
            return await self._find_out(error, progress)
        finally:
            committing, self._committing = self._committing, None
            if committing is not None:
                committing.addErrback(lambda _failure: None)
                committing.cancel()

    async def _send_missing(self, progress: Progress) -> bool:
        """PUT what is missing; tells whether the peer still knows the transaction."""
        missing = self._transaction.missing
        self._unsent = set(missing)
        self._tail.begins(len(missing))
        try:
            await run_all(
                ((lambda n=n: self._send(n, progress)) for n in missing),  # type: ignore[misc]
                self._peer.link.cap,
            )
        except PeerRefused as error:
            if error.is_unknown and self._committing is None:
                self._lost()
                return False
            if not await self._holds_less(error, progress):
                raise
            return False
        except UnknownResource:
            await self._check_source()
            raise
        return True

    async def _holds_less(self, error: PeerRefused, progress: Progress) -> bool:
        """Whether a bucket was refused as the peer does not hold what it held: it was restarted."""
        if not self._transaction.extended or error.status != _SERVER_ERROR:
            return False
        before = self._transaction.held
        await self._ask(progress, verify=False)
        return self._transaction.held != before

    async def _send(self, number: int, progress: Progress) -> None:
        transaction, parts, link = self._transaction, self._parts, self._peer.link
        bucket = transaction.buckets[number]
        offset = transaction.partial.pop(number, 0)

        def on_sent(size: int) -> None:
            transaction.in_flight[number] = transaction.in_flight.get(number, 0) + size
            progress.network_size += size
            if transaction.in_flight[number] >= bodies.length:
                self._sent(number)
                if link.may_leave():
                    is_free()

        def on_again() -> None:
            progress.repeated_size += transaction.in_flight.pop(number, 0)

        rest = rest_of(bucket, offset)
        bodies = BucketBodies(
            parts.store,
            parts.threads,
            rest,
            on_sent,
            on_again,
            self._codings.learn,
            parts.bandwidth.sending(Turn(self._memo.priority, self._memo.id), self._peer.name),
        )

        async def put() -> None:
            coding = self._codings.next()
            path = transaction.bucket_path(number, offset, coding.codec)
            size = bucket_size(rest)
            with link.watched(), self._codings.trying(coding, size):
                await self._peer.put_bucket(path, await bodies.body(coding), self._session)
            progress.travelled(coding, size)

        usual = transaction.cut.target
        async with parts.in_flight(
            link, self._memo, self._request, bucket_size(rest), usual
        ) as is_free:
            self._travelling += 1
            try:
                await self._tail.travel(bucket_size(rest), lambda: parts.retrying(progress, put))
            finally:
                self._travelling -= 1
        transaction.in_flight.pop(number, None)
        transaction.done.add(number)
        progress.bucket_done(bucket_size(bucket), self._arrivals.bucket(number))

    def _sent(self, number: int) -> None:
        """All of a bucket is on its way. The answers to the last ones are not waited for."""
        self._unsent.discard(number)
        if not self._unsent and self._committing is None and self._transaction.awaits:
            self._committing = Deferred.fromCoroutine(self._commit_after_missing())

    # Committing

    async def _commit_after_missing(self) -> PushStatus:
        """Have all committed once what is on its way has arrived."""
        transaction = self._transaction
        await self._ask_to_commit()
        return await self._peer.commit_after(
            transaction.path,
            transaction.missing,
            self._parts.limits.commit_timeout,
            len(transaction.declared),
            self._session,
        )

    async def _ask_to_commit(self) -> None:
        """From now on the peer may commit: another life must know."""
        if not self._transaction.asked_to_commit:
            self._transaction.asked_to_commit = True
            await self._memo.keep(self.state())

    async def _commit(self, progress: Progress) -> bool:
        """Have all committed; tells whether it is, or else the rest must be sent."""
        transaction, limits = self._transaction, self._parts.limits
        if self._committing is not None:
            try:
                return self._learn(await self._committing)
            except TransfersError as error:
                return await self._find_out(error, progress)
        await self._ask_to_commit()

        async def commit() -> None:
            await self._peer.commit(transaction.path, limits.commit_timeout, self._session)

        try:
            if transaction.extended:
                await commit()
            else:
                await self._parts.retrying(progress, commit)
        except TransfersError as error:
            return await self._find_out(error, progress)
        if not transaction.extended:
            self._assume_stored()
            return True
        return await self._find_out(None, progress)

    def _assume_stored(self) -> None:
        """A stock peer does not tell what it did with each instance."""
        skipped = self._transaction.skipped
        count = len(self._instances)
        self._outcomes = [Outcome.ALREADY_STORED if n in skipped else None for n in range(count)]

    async def _find_out(self, error: TransfersError | None, progress: Progress) -> bool:
        """How the commit went; ``error`` is what came instead of its answer, if nothing good did.

        Tells whether all is committed, or else the rest must be sent.
        """
        undecided = (
            error is None
            or is_worth_retrying(error)
            or (isinstance(error, PeerRefused) and (error.is_unknown or error.status == _CONFLICT))
        )
        if error is not None and not undecided:
            self._not_committed(error)
        if not self._transaction.extended:
            assert error is not None
            return await self._find_out_by_lookup(error, progress)
        try:
            status = await self._decided(verify=False, patience=FIND_OUT_S)
        except TransfersError as unknown:
            if error is None:  # it is committed; only what became of each instance is not known
                self._assume_stored()
                return True
            if isinstance(unknown, PeerRefused) and unknown.is_unknown:
                self._lost()
                return False
            raise
        if self._learn(status):
            if error is not None:
                self._memo.say(f"The peer has committed, though its answer was lost: {error}")
            return True
        self._show(progress)
        if not self._transaction.missing and status.error:
            self._not_committed(error or PeerRefused(status.error, _CONFLICT))
        self._memo.say(f"Not committed yet: {status.error or error}")
        if not self._transaction.missing:
            self._last_error = error
        return False

    async def _find_out_by_lookup(self, error: TransfersError, progress: Progress) -> bool:
        """A stock peer knows no transaction that it has committed: does it hold all?"""
        if not await self._is_all_there(progress):
            if isinstance(error, PeerRefused) and error.is_unknown:
                self._lost()
                return False
            self._not_committed(error)
        self._memo.say(f"The peer holds all instances, though its answer was lost: {error}")
        self._assume_stored()
        return True

    async def _is_all_there(self, progress: Progress) -> bool:
        try:
            return len(await self._held_by_stock(progress)) == len(self._instances)
        except TransfersError as unknown:
            log.info("What the peer holds cannot be found out: {error}", error=unknown)
            return False

    def _not_committed(self, error: TransfersError) -> NoReturn:
        if isinstance(error, PeerRefused):
            raise PeerRefused(
                f"All buckets have arrived, but the peer did not commit: {error}", error.status
            ) from error
        raise error

    # The end

    async def abandon(self) -> bool:
        """See :meth:`ITransfer.abandon`."""
        # A stock peer is not asked to delete what it did not open.
        known = self._transaction.path or self._peer.knows_extension
        if not known or not self._transaction.may_be_open:
            return False
        try:
            if not self._instances:  # it has not run in this life
                self._instances = await self._memo.instances() or ()
                await self._parts.threads.run(self._transaction.make_plan, self._instances)
        except TransfersError as error:
            log.warn("The abandoned transaction stays at the peer: {error}", error=error)
            return False
        return await self._goodbye()

    async def _goodbye(self) -> bool:
        """Delete the transaction; tells whether it turned out to be committed."""
        transaction = self._transaction
        ending = Deferred.fromCoroutine(self._delete())
        # A commit that may be under way decides: it is waited for.
        patience = FIND_OUT_S if transaction.asked_to_commit else GOODBYE_S
        ending.addTimeout(patience, self._parts.reactor)
        try:
            return await ending
        except (TransfersError, DeferTimeoutError) as error:
            log.info("The abandoned transaction stays at the peer: {error}", error=error)
            return False
        finally:
            transaction.forget()

    async def _delete(self) -> bool:
        transaction = self._transaction
        try:
            await self._peer.discard(transaction.may_be_open, self._session)
        except PeerRefused as error:
            if not error.is_unknown or not transaction.asked_to_commit:
                raise
            if transaction.extended:
                return self._learn(await self._decided(verify=False))
            if await self._is_all_there(Progress()):
                self._assume_stored()
                return True
            raise
        return False

    async def close(self) -> None:
        """See :meth:`ITransfer.close`."""

    def state(self) -> Mapping[str, Any]:
        """See :meth:`ITransfer.state`."""
        return self._transaction.state() | {"cookies": self._session.cookies()}

    def keeps(self, error: TransfersError) -> bool:
        """See :meth:`ITransfer.keeps`: a stock peer has no use for a transaction that waits."""
        return self._transaction.extended and is_passing(error)

    def figures(self) -> Mapping[str, Any]:
        """See :meth:`ITransfer.figures`."""
        return self._peer.link.figures(self._travelling, self._transaction.cut.target)

    def outcomes(self) -> Sequence[Outcome | None]:
        """See :meth:`ITransfer.outcomes`."""
        return self._outcomes
