"""Receiving in pull mode, as a sequence: look up at the peer, plan, GET the buckets, commit.

What has arrived is in a staging area that bears the name of the job, and is gone on with after a
pause, a failure or a restart. What is here already with the same MD5 is not fetched.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from zope.interface import implementer

from ..errors import (
    BadCompression,
    CorruptedInstances,
    PeerNonsense,
    PeerRefused,
    SourceChanged,
    TransfersError,
    UnknownResource,
    WrongLength,
    WrongOriginator,
)
from ..metrics import PULL
from ..store.interfaces import CommitReport, IIncoming, Outcome
from ..wire.identifiers import is_identifier
from ..wire.messages import Compression, LookupAnswer, TransferRequest, new_transfer_id
from ..wire.plan import (
    Bucket,
    Cut,
    Instance,
    Plan,
    bucket_size,
    chunks_path,
    content_of,
    plan_buckets,
    rest_of,
)
from .arrivals import Arrivals
from .codings import BucketCodings
from .compression import Encoded
from .flow import Flow
from .parts import ROUNDS, ITransfer, Memo, Parts, check_source, is_passing
from .peers import Peer
from .progress import Progress
from .shield import to_its_end, uninterrupted
from .streams import Sink, bucket_sink
from .tail import COPY, MOVE, Tail
from .turns import Turn

_STOCK_LIMIT = 2**31
_PREFIX = "job."

log = Logger()


def staging_name(job: str) -> str:
    """The name of the staging area of a job."""
    return _PREFIX + job


@implementer(ITransfer)
class Pull:
    """One transfer from a peer; see :class:`ITransfer`."""

    def __init__(self, parts: Parts, peer: Peer, request: TransferRequest, memo: Memo) -> None:
        self._parts = parts
        self._peer = peer
        self._request = request
        self._arrivals = Arrivals(())
        self._memo = memo
        cores = min(parts.cores, peer.link.cap)
        self._codings = BucketCodings(
            request.compression, peer.link.estimate, parts.speeds, cores, parts.reactor
        )
        self._session = peer.session(request.sender_transfer_id or new_transfer_id())
        self._incoming: IIncoming | None = None
        self._report: CommitReport | None = None
        self._tail = Tail(parts.reactor, peer.link)
        self._sinks: set[Sink] = set()
        self._cut = Cut(1)
        self._instances: Mapping[str, Instance] = {}
        self._begun: dict[int, int] = {}
        """Bytes of buckets that were there at the beginning, until they are asked for."""
        self._is_ours = False
        """Whether the peer understands what is ours alone."""
        self._under_way: int = memo.state.get("in_flight", 0)
        self._unstaged: int = memo.state.get("unstaged", 0)

    async def run(self, progress: Progress) -> None:
        """See :meth:`ITransfer.run`."""
        await self.close()
        async with self._peer.link.use(self._flow()):
            await self._peer.meet()
            self._peer.prepare(self._peer.link.limit)
            await self._pull(progress)
        await self.close()

    async def _pull(self, progress: Progress) -> None:
        incoming = await self._open(progress)
        for left in reversed(range(ROUNDS)):
            await self._fetch_missing(incoming, progress)
            try:
                started = self._parts.reactor.seconds()
                self._report = await uninterrupted(incoming.commit())  # its end decides
                seconds = self._parts.reactor.seconds() - started
                self._parts.measures.committed(self._peer.name, PULL, seconds)
                break
            except CorruptedInstances as error:
                await self._blame_source(error, progress)
                if not left:
                    raise
                self._memo.say(f"{error}; what is missing is fetched again")

    # Opening

    async def _open(self, progress: Progress) -> IIncoming:
        """The staging area, new or found again; it is ``self._incoming`` too."""
        known = await self._memo.instances()
        name = staging_name(self._memo.id)
        await self._take(self._parts.store.reopen(name))
        if self._incoming is not None and self._incoming.report is None:
            if known is not None:
                await self._check_unchanged(known, progress)
            else:  # a power cut has taken what was known
                await self.abandon()
        if self._incoming is None:
            instances = (await self._lookup(progress, known is None)).instances
            await self._memo.keep_instances(instances)
            delta = self._request.delta
            if delta is None:
                delta = self._parts.limits.delta
            await self._take(
                self._parts.store.receive(instances, name, b"", delta is None or delta)
            )
        elif self._incoming.report is None:
            self._memo.say("Goes on with what has arrived before")
        self._memo.anew = False
        assert self._incoming is not None
        return self._incoming

    async def _take(self, opening: "Deferred[Any]") -> None:
        """The staging area is ours to close, also when we are cancelled while it is opened."""
        self._incoming, cancelled = await to_its_end(opening)
        if cancelled:
            raise CancelledError

    async def _check_unchanged(self, known: Sequence[Instance], progress: Progress) -> None:
        """Compare the peer with what it said at first; of a resubmitted job, start anew."""
        try:
            await self._compare(known, progress)
        except SourceChanged as error:
            if not self._memo.anew:
                raise
            self._memo.say(f"Starts anew: {error}")
            await self.abandon()

    async def _compare(self, known: Sequence[Instance], progress: Progress) -> None:
        try:
            answer = await self._lookup(progress, is_first=False)
        except PeerRefused as error:
            if not error.is_unknown:
                raise
            raise SourceChanged(
                f"What is transferred is not at the peer any more: {error}"
            ) from error
        found = {instance.id: instance for instance in answer.instances}
        check_source(known, found, f'at peer "{self._peer.name}"')
        if self._memo.anew and len(found) != len(known):
            raise SourceChanged(f"The peer has {len(found)} instances now, not {len(known)}")

    async def _lookup(self, progress: Progress, is_first: bool) -> LookupAnswer:
        """:param is_first: whether the peer must be in the life that asked for this transfer."""
        offered = self._codings.offered
        answer = await self._parts.retrying(
            progress, lambda: self._peer.lookup(self._request.resources, self._session, offered)
        )
        self._is_ours = self._peer.link.peer_adapts = answer.codecs is not None
        self._codings.served((answer.codecs or frozenset()) & offered)
        wanted = self._request.originator
        if is_first and wanted is not None and wanted != answer.originator:
            raise WrongOriginator(
                f'Peer "{self._peer.name}" here is another daemon ({answer.originator}) than the'
                f" one that asked for this transfer ({wanted}): RemoteSelf, in its OrthancPeers,"
                " must be the name that it has in the OrthancPeers here"
            )
        await self._parts.threads.run(self._check, answer.instances)
        return answer

    def _check(self, instances: Sequence[Instance]) -> None:
        """Refuse what would make a path, or a URL, of a peer's choosing."""
        ids = [instance.id for instance in instances]
        bad = next((id_ for id_ in ids if not is_identifier(id_)), None)
        if bad is not None or len(set(ids)) != len(ids):
            raise PeerNonsense(
                f'Peer "{self._peer.name}" answered the lookup with '
                + (f"the identifier {bad[:100]!r}" if bad else "an instance that is listed twice")
            )

    # Fetching

    async def _fetch_missing(self, incoming: IIncoming, progress: Progress) -> None:
        if incoming.report is not None:
            return
        plan = await self._parts.threads.run(self._plan, incoming)
        missing = await incoming.missing(plan)
        self._begun = await self._parts.threads.run(
            lambda: {number: incoming.prefix(plan[number]) for number in missing}
        )
        held = [instance for instance in incoming.instances if instance.id in incoming.held]
        progress.planned(incoming.instances, held, plan)
        done = sorted(set(range(len(plan))) - set(missing))
        self._arrivals = Arrivals(plan, done)
        progress.arrived(plan, done, self._arrivals.instances)
        self._account(progress)
        self._tail.begins(len(missing))
        await self._parts.run_buckets(
            self._peer.link,
            ((lambda n=n: self._fetch(plan, n, incoming, progress)) for n in missing),  # type: ignore[misc]
        )

    def _account(self, progress: Progress) -> None:
        """Count what was under way when the life before ended; what was not staged comes again."""
        progress.repeated_size += self._unstaged
        progress.network_size += self._under_way
        self._under_way = self._unstaged = 0
        if self._request.compression is Compression.NONE:
            progress.at_least(progress.done_size + progress.repeated_size, 0)

    def _plan(self, incoming: IIncoming) -> Plan:
        self._instances = {instance.id: instance for instance in incoming.instances}
        wanted = [instance for instance in incoming.instances if instance.id not in incoming.held]
        self._cut = self._peer.link.cut(self._parts.limits.bucket_size)
        return plan_buckets(wanted, self._cut, len(self._peer.base_url))

    async def _fetch(
        self, plan: Plan, number: int, incoming: IIncoming, progress: Progress
    ) -> None:
        bucket, link, parts = plan[number], self._peer.link, self._parts
        is_right = True

        def on_left(size: int) -> None:
            if link.may_begin_next(size):
                is_free()

        async def get() -> None:
            """Fetch what is not there yet; all of it after bytes that were not right."""
            nonlocal is_right
            offset = self._begun.pop(number, None)
            if offset is None:
                offset = await parts.threads.run(incoming.prefix, bucket) if is_right else 0
            try:
                await self._get(rest_of(bucket, offset), incoming, progress, on_left)
            except (WrongLength, BadCompression):
                is_right = False
                raise

        async with parts.in_flight(
            link, self._memo, self._request, bucket_size(bucket), self._cut.target, True
        ) as is_free:
            try:
                way = COPY if self._is_ours else MOVE
                await self._tail.travel(
                    bucket_size(bucket), lambda: parts.retrying(progress, get), way
                )
            except PeerRefused as error:
                if error.is_unknown:
                    await self._blame_source(error, progress)
                if bucket[0].offset + bucket_size(bucket) < _STOCK_LIMIT or error.status != 400:
                    raise
                raise PeerRefused(
                    f"{error}. Instances over 2 GiB cannot be pulled from a stock Orthanc;"
                    " let it push them",
                    error.status,
                ) from error
        progress.bucket_done(bucket_size(bucket), self._arrivals.bucket(number))

    async def _get(
        self,
        rest: Bucket,
        incoming: IIncoming,
        progress: Progress,
        on_left: Callable[[int], None],
    ) -> None:
        """Fetch ``rest``, what is left of a bucket, if anything is.

        :param on_left: see :meth:`Peer.get_bucket`.
        """
        if not rest:
            return
        coding, size = self._codings.next(), bucket_size(rest)
        sink = bucket_sink(
            self._parts.threads, incoming, rest, coding.codec, self._parts.limits.inflation
        )
        sink.limit(self._flow())
        self._sinks.add(sink)
        arrived, is_right = False, True
        started = self._parts.reactor.seconds()
        try:
            content = content_of(rest, self._instances) if self._is_ours else ""
            path = chunks_path(rest, coding, content)
            with self._peer.link.watched(), self._codings.trying(coding, size):
                await self._peer.get_bucket(path, sink, self._session, on_left)
            arrived = True
            seconds = self._parts.reactor.seconds() - started
            self._parts.measures.bucket(self._peer.name, PULL, seconds, sink.taken)
            self._codings.learn(Encoded(coding, size, sink.taken))
            progress.travelled(coding, size)
        except BadCompression:
            is_right = False
            raise
        except WrongLength as error:
            is_right = False
            raise WrongLength(
                f'Peer "{self._peer.name}" answered a bucket of instance {rest[0].id}'
                f" with another length: {error}"
            ) from error
        finally:
            if not arrived:
                sink.abort()
            progress.network_size += sink.taken
            await sink.idle()
            if not arrived:
                kept = sink.consumed if is_right else 0
                progress.repeated_size += sink.taken - kept
            self._sinks.discard(sink)

    def _flow(self) -> Flow:
        turn = Turn(self._memo.priority, self._memo.id)
        return self._parts.bandwidth.receiving(turn, self._peer.name)

    async def _blame_source(self, error: TransfersError, progress: Progress) -> None:
        """Where the source has changed, say that instead of ``error``."""
        known = await self._memo.instances()
        if known is not None:
            try:
                await self._compare(known, progress)
            except SourceChanged as changed:
                raise changed from error

    # The end

    async def abandon(self) -> bool:
        """See :meth:`ITransfer.abandon`."""
        incoming, self._incoming = self._incoming, None
        try:
            if incoming is None:
                self._report = await self._parts.store.drop(staging_name(self._memo.id))
            elif await incoming.discard():
                self._report = await incoming.commit()  # gives the report again
            return self._report is not None
        except UnknownResource:
            return False
        except TransfersError as error:
            log.warn("What an abandoned transfer staged is left behind: {error}", error=error)
        return False

    async def close(self) -> None:
        """See :meth:`ITransfer.close`."""
        incoming, self._incoming = self._incoming, None
        if incoming is not None:
            await incoming.close()

    def state(self) -> Mapping[str, Any]:
        """See :meth:`ITransfer.state`: what is under way; the staging area knows the rest."""
        return {
            "in_flight": sum(sink.taken for sink in self._sinks),
            "unstaged": sum(sink.taken - sink.consumed for sink in self._sinks),
        }

    def keeps(self, error: TransfersError) -> bool:
        """See :meth:`ITransfer.keeps`."""
        return is_passing(error)

    def figures(self) -> Mapping[str, Any]:
        """See :meth:`ITransfer.figures`."""
        under_way = sum(sink.taken for sink in self._sinks)
        return {
            **self._peer.link.figures(len(self._sinks), self._cut.target),
            "UnderWaySize": str(under_way),
        }

    def outcomes(self) -> Sequence[Outcome | None]:
        """See :meth:`ITransfer.outcomes`."""
        return self._report.outcomes if self._report is not None else ()
