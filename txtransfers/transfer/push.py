"""Sending in push mode, told as a sequence: look up, plan, open, PUT the buckets, commit.

After a pause, a failure or a restart a peer that knows our extension is asked what is missing; of
another one the job remembers which buckets arrived. Nothing is sent twice that a peer has, and how
a commit went is found out before anything is said of it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from zope.interface import implementer

from ..errors import PeerRefused, PeerUnreachable, SourceChanged, TransfersError, UnknownResource
from ..metrics import PUSH
from ..store.interfaces import Outcome
from ..wire.codec import Coding
from ..wire.messages import TransferRequest, new_transfer_id
from ..wire.plan import bucket_size, rest_of
from ..wire.pushes import PushExtension, PushRequest, PushState, PushStatus
from .arrivals import Arrivals
from .bodies import BucketBodies
from .codings import BucketCodings
from .flow import Flow
from .parts import ROUNDS, ITransfer, Memo, Parts, check_source, is_passing
from .peers import Peer
from .progress import Progress
from .push_at_peer import CONFLICT, PushAtPeer
from .retries import delay_before
from .slots import run_all
from .streams import SLICE
from .tail import COPY, MOVE, Tail
from .transaction import Transaction
from .turns import Turn

_MANY = 64
"""Instances from which on it saves time to ask a far peer first in which form it takes them."""

_NOT_FOUND = 404
_MAY_BE_THERE = (_NOT_FOUND, CONFLICT)
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
        self._at_peer = PushAtPeer(
            parts, peer, self._session, request, memo, self._transaction, self._show
        )
        self._travelling = 0
        self._tail = Tail(parts.reactor, peer.link)
        self._unsent: set[int] = set()
        """Buckets whose bytes are not all on their way."""
        self._early: Deferred[bool] | None = None
        """The sending that began before the opening was answered; tells whether all arrived."""
        self._sending: Deferred[bool] | None = None
        self._is_committed = False
        self._committing: Deferred[PushStatus] | None = None
        """A commit that was asked for while the last buckets were on their way."""

    async def run(self, progress: Progress) -> None:
        """See :meth:`ITransfer.run`."""
        link = self._peer.link
        link.peer_adapts = True  # it is we who send
        async with link.use(self._flow()):
            await run_all((self._peer.meet, self._prepare), 2)
            instances = self._transaction.instances
            total = sum(instance.size for instance in instances)
            # One for the opening: the buckets that go before its answer take the others.
            self._peer.prepare(min(link.limit, total // SLICE) + 1)
            try:
                await self._run(progress)
            finally:
                self._forget_commit()
                await self._end_early()
        self._transaction.forget()

    async def _run(self, progress: Progress) -> None:
        transaction = self._transaction
        if transaction.path and await self._ask(progress, verify=True):
            return
        for number in range(ROUNDS):
            if not transaction.path and not await self._open(progress):
                return
            self._at_peer.last_error = None
            if await self._send_and_commit(progress):
                return
            if self._at_peer.last_error is not None and number + 1 < ROUNDS:
                progress.retries += 1
                await deferLater(
                    self._parts.reactor, delay_before(number + 1, self._at_peer.last_error)
                )
            await self._check_source()
        raise self._at_peer.last_error or PeerRefused(
            f'Peer "{self._peer.name}" still lacks something after {ROUNDS} rounds', CONFLICT
        )

    # Before anything is sent

    async def _prepare(self) -> None:
        """What is to be sent: as it was found at first, if it still is like that."""
        store, memo = self._parts.store, self._memo
        known = await memo.instances()
        if known is not None:
            self._transaction.instances = known
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
            self._transaction.instances = await store.lookup(self._request.resources)
            await memo.keep_instances(self._transaction.instances)
        memo.anew = False
        if self._transaction.path:
            # What an earlier version has opened is as was wished: it knew nothing else.
            self._transaction.compression = self._codings.open(self._transaction.compression)
            self._codings.opened(self._transaction.compression, self._transaction.codecs)
            await self._parts.threads.run(self._transaction.make_plan)

    async def _check_source(self) -> None:
        found = await self._parts.store.find(
            [instance.id for instance in self._transaction.instances]
        )
        check_source(self._transaction.instances, found, "here")

    async def _ask(self, progress: Progress, verify: bool) -> bool:
        """Learn what has arrived; tells whether even the commit has ended well."""
        transaction = self._transaction
        status: PushStatus | None = None
        if transaction.extended:
            try:
                status = await self._parts.retrying(progress, lambda: self._at_peer.decided(verify))
            except PeerRefused as error:
                if not error.is_unknown:
                    raise
                self._at_peer.lost()
                return False
            if self._at_peer.learn(status):
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

    def _show(self, progress: Progress) -> None:
        transaction = self._transaction
        progress.planned(transaction.instances, transaction.not_sent(), transaction.buckets)
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
        skipped = await self._at_peer.held(progress) if ask_first else frozenset()
        if not await self._open_with(progress, skipped, delta):
            return False
        if delta and not ask_first and not self._transaction.extended:
            # Only now it is known that the peer must be asked in another way.
            skipped = await self._at_peer.held(progress)
            if skipped:
                await self._at_peer.goodbye()
                return await self._open_with(progress, skipped, delta)
        return True

    async def _open_with(
        self, progress: Progress, skipped: frozenset[int], delta: bool | None
    ) -> bool:
        parts, transaction = self._parts, self._transaction
        cut = self._peer.link.cut(parts.limits.bucket_size)
        await parts.threads.run(transaction.begin, skipped, cut)
        self._show(progress)
        if skipped and not transaction.declared:
            self._at_peer.outcomes = [Outcome.ALREADY_STORED] * len(self._transaction.instances)
            transaction.forget()
            return False
        transaction.compression = self._codings.open(transaction.compression)
        if len(transaction.declared) > _MANY:
            await self._peer.learn()
        # With the key: this opening, repeated, is the same one.
        await self._memo.keep(self._at_peer.state())
        request = PushRequest(
            transaction.declared,
            transaction.plan,
            transaction.compression,
            PushExtension(transaction.key, delta is not False, self._codings.offered),
        )
        expected = transaction.may_be_open, self._session.cookies()
        opened = await parts.retrying(
            progress,
            lambda: self._peer.open_push(
                request, self._session, lambda: self._begin_early(progress)
            ),
        )
        if opened.already_stored or (opened.path, self._session.cookies()) != expected:
            await self._end_early()
        transaction.path = opened.path
        transaction.extended = opened.already_stored is not None
        transaction.codecs = opened.codecs & self._codings.offered
        transaction.awaits = opened.awaits
        self._codings.opened(transaction.compression, transaction.codecs)
        await parts.threads.run(transaction.hold, opened.already_stored or frozenset())
        self._show(progress)
        await self._memo.keep(self._at_peer.state())
        return True

    def _begin_early(self, progress: Progress) -> None:
        """Send while the opening is on its way, where that is long, and the peer waits for it.

        That fails, and nothing is lost but what it has sent, where the opening finds something that
        need not be sent, or is refused, or is served by another machine behind the same address.
        """
        abilities, transaction = self._peer.abilities, self._transaction
        is_near = self._peer.link.is_near
        if abilities is None or not abilities.early or is_near or self._early is not None:
            return
        assert transaction.compression is not None
        taken = abilities.codecs & self._codings.offered
        self._codings.opened(transaction.compression, taken)
        self._early = Deferred.fromCoroutine(self._send_early(progress))

    async def _end_early(self) -> None:
        early, self._early = self._early, None
        if early is not None:
            early.cancel()
            early.addErrback(lambda failure: failure.trap(CancelledError, TransfersError))
            await early

    # Sending

    async def _send_and_commit(self, progress: Progress) -> bool:
        """Send what is missing, and have all committed; tells whether it is."""
        try:
            is_there = await self._arrive(progress)
            started = self._parts.reactor.seconds()
            is_committed = is_there and await self._at_peer.commit(progress, self._committing)
            if is_committed:
                seconds = self._parts.reactor.seconds() - started
                self._parts.measures.committed(self._peer.name, PUSH, seconds)
            return is_committed
        except PeerRefused as error:
            # What came again may be refused as all is there, and is being committed.
            if not self._may_be_committing or error.status not in _MAY_BE_THERE:
                raise
            return await self._at_peer.find_out(error, progress)
        except PeerUnreachable:
            # Nor does its answer matter then.
            if not self._may_be_committing or not await self._at_peer.is_committed():
                raise
            return True
        finally:
            self._forget_commit()

    @property
    def _may_be_committing(self) -> bool:
        """Whether a peer that tells how it ended was asked to commit: before a pause, too."""
        return self._transaction.extended and self._transaction.asked_to_commit

    def _forget_commit(self) -> None:
        committing, self._committing = self._committing, None
        self._is_committed = False
        if committing is not None:
            committing.addErrback(lambda _failure: None)
            committing.cancel()

    async def _arrive(self, progress: Progress) -> bool:
        """Have all arrive; tells whether the peer still knows the transaction.

        What is on its way once more when the peer has committed is not waited for.
        """
        self._sending = Deferred.fromCoroutine(self._send_missing(progress))
        try:
            return await self._sending
        except CancelledError:
            if not self._is_committed:
                raise
            self._transaction.done.update(self._transaction.missing)
            self._show(progress)
            return True
        finally:
            self._sending = None

    async def _send_missing(self, progress: Progress) -> bool:
        """PUT what is missing; tells whether the peer still knows the transaction."""
        early, self._early = self._early, None
        try:
            if early is not None:
                self._commit_if_sent()
            if early is None or not await early:
                await self._send_buckets(progress)
        except PeerRefused as error:
            if error.is_unknown and not self._may_be_committing:
                self._at_peer.lost()
                return False
            if not await self._holds_less(error, progress):
                raise
            return False
        except UnknownResource:
            await self._check_source()
            raise
        return True

    async def _send_early(self, progress: Progress) -> bool:
        try:
            await self._send_buckets(progress)
        except PeerRefused as error:
            if self._may_be_committing or error.status not in _MAY_BE_THERE:
                raise
            log.info("What was sent early is sent again: {error}", error=error)
            return False
        return True

    async def _send_buckets(self, progress: Progress) -> None:
        missing = self._transaction.missing
        self._unsent = set(missing)
        self._tail.begins(len(missing))
        await self._parts.run_buckets(
            self._peer.link,
            ((lambda n=n: self._send_bucket(n, progress)) for n in missing),  # type: ignore[misc]
        )

    def _flow(self) -> Flow:
        turn = Turn(self._memo.priority, self._memo.id)
        return self._parts.bandwidth.sending(turn, self._peer.name)

    async def _holds_less(self, error: PeerRefused, progress: Progress) -> bool:
        """Whether a bucket was refused as the peer does not hold what it held: it was restarted."""
        if not self._transaction.extended or error.status != _SERVER_ERROR:
            return False
        before = self._transaction.held
        await self._ask(progress, verify=False)
        return self._transaction.held != before

    async def _send_bucket(self, number: int, progress: Progress) -> None:
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
        size = bucket_size(rest)
        bodies = BucketBodies(
            parts.store,
            parts.threads,
            rest,
            on_sent,
            on_again,
            self._codings.learn,
            self._flow(),
        )

        async def put() -> None:
            coding = self._codings.next()
            path = transaction.bucket_path(number, offset, coding.codec)
            await self._put(path, bodies, coding, size)
            progress.travelled(coding, size)

        usual = transaction.cut.target
        async with parts.in_flight(link, self._memo, self._request, size, usual) as is_free:
            self._travelling += 1
            try:
                # A stock peer is not sent anything twice at the same time.
                way = COPY if transaction.extended else MOVE
                await self._tail.travel(size, lambda: parts.retrying(progress, put), way)
            finally:
                self._travelling -= 1
        transaction.in_flight.pop(number, None)
        transaction.done.add(number)
        progress.bucket_done(bucket_size(bucket), self._arrivals.bucket(number))

    async def _put(self, path: str, bodies: BucketBodies, coding: Coding, size: int) -> None:
        """Try once. :param size: of the bucket, bytes before they are compressed."""
        parts = self._parts
        started = parts.reactor.seconds()
        with self._peer.link.watched(), self._codings.trying(coding, size):
            await self._peer.put_bucket(path, await bodies.body(coding), self._session)
        seconds = parts.reactor.seconds() - started
        parts.measures.bucket(self._peer.name, PUSH, seconds, bodies.length)

    def _sent(self, number: int) -> None:
        """All of a bucket is on its way. The answers to the last ones are not waited for."""
        self._unsent.discard(number)
        self._commit_if_sent()

    def _commit_if_sent(self) -> None:
        if not self._unsent and self._committing is None and self._transaction.awaits:
            self._committing = Deferred.fromCoroutine(self._at_peer.commit_after_missing())
            self._committing.addCallback(self._committed)

    def _committed(self, status: PushStatus) -> PushStatus:
        self._is_committed = status.state is PushState.COMMITTED
        if self._is_committed and self._sending is not None:
            self._sending.cancel()
        return status

    # The end

    async def abandon(self) -> bool:
        """See :meth:`ITransfer.abandon`."""
        # A stock peer is not asked to delete what it did not open.
        known = self._transaction.path or self._peer.knows_extension
        if not known or not self._transaction.may_be_open:
            return False
        try:
            if not self._transaction.instances:  # it has not run in this life
                self._transaction.instances = await self._memo.instances() or ()
                await self._parts.threads.run(self._transaction.make_plan)
        except TransfersError as error:
            log.warn("The abandoned transaction stays at the peer: {error}", error=error)
            return False
        return await self._at_peer.goodbye()

    async def close(self) -> None:
        """See :meth:`ITransfer.close`."""

    def state(self) -> Mapping[str, Any]:
        """See :meth:`ITransfer.state`."""
        return self._at_peer.state()

    def keeps(self, error: TransfersError) -> bool:
        """See :meth:`ITransfer.keeps`: a stock peer has no use for a transaction that waits."""
        return self._transaction.extended and is_passing(error)

    def figures(self) -> Mapping[str, Any]:
        """See :meth:`ITransfer.figures`."""
        return self._peer.link.figures(self._travelling, self._transaction.cut.target)

    def outcomes(self) -> Sequence[Outcome | None]:
        """See :meth:`ITransfer.outcomes`."""
        return self._at_peer.outcomes
