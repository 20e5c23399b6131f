"""The routes of the protocol, section 2: one class a URL node below ``/transfers``."""

import re
from typing import TYPE_CHECKING, Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.web.resource import Resource
from twisted.web.server import Request

from ..errors import UnknownResource, WrongLength
from ..jobs.model import Direction
from ..jobs.runner import JobRunner
from ..metrics import RECEIVED
from ..store.interfaces import IArchive, IInstanceStore
from ..threads import IThreads
from ..transfer.bandwidth import Bandwidth
from ..transfer.directory import Directory
from ..transfer.incoming import PushTransactions
from ..transfer.received_push import committed_status
from ..transfer.remote_pull import ask_to_pull
from ..wire import messages, packed, pushes
from ..wire.abilities import ALL_ABILITIES
from ..wire.codec import ACCEPTED_CODECS, OURS, parse_codec, read_codecs
from ..wire.messages import TransferRequest
from ..wire.pieces import PIECE, Piece, read_piece, stamp_of
from .archive import describe_resource
from .auditing import by_whom
from .bandwidth import BandwidthNode, asked
from .caching import policy
from .chunks import Chunks
from .events import EventStream
from .explorer import Explorer
from .openapi import Description
from .peers import PeerParts, ProbePeers
from .pieces import Pieces
from .resource import (
    NotFoundParent,
    Reply,
    TransfersResource,
    argument,
    compact,
    read_body,
    size_argument,
)
from .server import StreamingRequest

if TYPE_CHECKING:
    from .site import SiteParts

_LONGEST_COMMIT = 128 * 1024
"""Bytes of the body of a commit: small enough to be read at once."""

STATUS_WAIT_S = 0.5
"""Seconds after which the status of a push is told even if it is about to change: well before a
sender whose ``HttpTimeout`` is short gives us up."""

_NUMBER = re.compile(r"[0-9]{1,20}\Z", re.ASCII)


class Lookup(TransfersResource):
    """``/transfers/lookup``."""

    def __init__(
        self, store: IInstanceStore, threads: IThreads, originator: str, pieces: Pieces
    ) -> None:
        super().__init__()
        self._store = store
        self._threads = threads
        self._originator = originator
        self._pieces = pieces

    async def post(self, request: StreamingRequest) -> Reply:
        """What instances the resources have, with sizes and MD5s; or a piece of that."""
        body, piece = await read_body(request), asked_piece(request)
        takes_packed = packed.PACKED in (request.getHeader("Accept") or "")
        offered = request.getHeader(ACCEPTED_CODECS)
        if piece is None or not takes_packed:
            return await self._look_up(body, offered, takes_packed)
        reply, stamp = await self._pieces.deal(piece, lambda: self._make_whole(body, offered))
        if reply.content_type != packed.PACKED:  # it cannot be packed: one has it, the others none
            return reply if piece.number == 0 else Reply(b"", PIECE)
        return Reply(piece.stamped(stamp, reply.body), PIECE)

    async def _make_whole(self, body: bytes, offered: str | None) -> tuple[Reply, bytes]:
        reply = await self._look_up(body, offered, True)
        return reply, await self._threads.run(stamp_of, reply.body)

    async def _look_up(self, body: bytes, offered: str | None, takes_packed: bool) -> Reply:
        resources = await self._threads.run(messages.parse_resources, body)
        instances = await self._store.lookup(resources)
        codecs = read_codecs(map(str.strip, offered.split(","))) if offered is not None else None
        answer = messages.LookupAnswer(instances, self._originator, codecs)
        reply: Reply = await self._threads.run(lookup_reply, answer, takes_packed)
        return reply


def lookup_reply(answer: messages.LookupAnswer, takes_packed: bool) -> Reply:
    """The answer to a lookup. Takes long for many instances."""
    body = packed.pack_lookup(answer) if takes_packed else None
    return compact(answer.to_json()) if body is None else Reply(body, packed.PACKED)


def asked_piece(request: StreamingRequest) -> Piece | None:
    """Which piece of a message it brings, or asks for; None: the whole."""
    of = argument(request, "of")
    if of is None:
        return None
    number, count = argument(request, "piece"), argument(request, "pieces")
    return read_piece(of, _number(number), _number(count))


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and _NUMBER.match(text) else None


class SubmitPull(TransfersResource):
    """``/transfers/pull``."""

    def __init__(self, jobs: JobRunner, peers: Directory, threads: IThreads) -> None:
        super().__init__()
        self._jobs = jobs
        self._peers = peers
        self._threads = threads

    async def post(self, request: StreamingRequest) -> Any:
        """Take a job that pulls."""
        transfer = await self._threads.run(messages.parse_transfer, await read_body(request))
        await self._peers.refresh()
        self._peers.find(transfer.peer)
        job = await self._jobs.submit(Direction.PULL, transfer, by_whom(request))
        return {"ID": job.id, "Path": f"/jobs/{job.id}"}


class SubmitSend(TransfersResource):
    """``/transfers/send``: a push, or where the peer has a ``RemoteSelf``, a pull by the peer."""

    def __init__(
        self,
        jobs: JobRunner,
        peers: Directory,
        threads: IThreads,
        originator: str,
        archive: IArchive | None,
    ) -> None:
        super().__init__()
        self._archive = archive
        self._jobs = jobs
        self._peers = peers
        self._threads = threads
        self._originator = originator

    async def post(self, request: StreamingRequest) -> Any:
        """Take a job that pushes, or have the peer take one that pulls."""
        transfer = await self._threads.run(messages.parse_transfer, await read_body(request))
        await self._peers.refresh()
        peer = self._peers.find(transfer.peer)
        if peer.settings.remote_self is None:
            if transfer.description is None and self._archive is not None:
                transfer = await described(transfer, self._archive)
            job = await self._jobs.submit(Direction.PUSH, transfer, by_whom(request))
            return {"ID": job.id, "Path": f"/jobs/{job.id}"}
        remote = await ask_to_pull(peer, transfer, self._originator)
        answer = {
            "Peer": peer.name,
            "RemoteJob": remote["job"],
            "URL": peer.settings.url + remote["path"],
        }
        if not transfer.wants_job:
            return answer
        job = await self._jobs.submit(Direction.REMOTE_PULL, transfer, by_whom(request), remote)
        return {"ID": job.id, "Path": f"/jobs/{job.id}", **answer}


async def described(transfer: TransferRequest, archive: IArchive) -> TransferRequest:
    """The same with a description, where what it begins with is known."""
    for first in transfer.resources[:1]:
        for details in await archive.describe(first.level, [first.id], more=True):
            text = describe_resource({**details.inherited, **details.tags})
            count = len(transfer.resources) - 1
            text += f" and {count} more" if count else ""
            return attrs.evolve(transfer, description=messages.shorten_description(text))
    return transfer


class Pushes(TransfersResource):
    """``/transfers/push``, whose children are transactions."""

    def __init__(
        self,
        transactions: PushTransactions,
        threads: IThreads,
        clock: IReactorTime,
        bandwidth: Bandwidth,
        pieces: Pieces,
    ) -> None:
        super().__init__()
        self._transactions = transactions
        self._threads = threads
        self._clock = clock
        self._bandwidth = bandwidth
        self._pieces = pieces

    async def post(self, request: StreamingRequest) -> Any:
        """Open a transaction; or take a piece of what opens one."""
        is_packed = request.getHeader("Content-Type") == packed.PACKED
        parse = packed.parse_packed_push if is_packed else pushes.parse_push
        body, limits = await read_body(request), self._transactions.limits
        piece = asked_piece(request)
        if piece is not None:
            whole = await self._pieces.collect(piece, body)
            if whole is None:
                return {}
            body = whole
        push = await self._threads.run(parse, body, limits)
        id_, already_stored = await self._transactions.open(push)
        opened = pushes.PushOpened(id_, f"/transfers/push/{id_}", None)
        if push.extension is not None:
            codecs = push.extension.codecs & OURS
            opened = attrs.evolve(
                opened,
                already_stored=already_stored,
                codecs=codecs,
                awaits=True,
                abilities=ALL_ABILITIES,
            )
        return pushes.push_opened_json(opened)

    def getChild(self, path: bytes, request: Request) -> Resource:
        """One transaction."""
        id_ = path.decode("utf-8", "replace")
        return PushNode(id_, self._transactions, self._clock, self._bandwidth)


class PushNode(TransfersResource):
    """``/transfers/push/T``, whose children are its buckets and its commit."""

    def __init__(
        self, id_: str, transactions: PushTransactions, clock: IReactorTime, bandwidth: Bandwidth
    ) -> None:
        super().__init__()
        self._id = id_
        self._transactions = transactions
        self._clock = clock
        self._bandwidth = bandwidth

    async def get(self, request: StreamingRequest) -> Any:
        """Where it stands (an extension); waits a little where that is about to be decided."""
        verify = argument(request, "verify") is not None
        status = Deferred.fromCoroutine(self._transactions.status(self._id, verify))
        waiter: Deferred[Any] = Deferred()
        status.addBoth(lambda result: None if waiter.called else waiter.callback(result))
        timeout = self._clock.callLater(STATUS_WAIT_S, waiter.callback, None)
        try:
            decided: pushes.PushStatus | None = await waiter
        finally:
            if timeout.active():
                timeout.cancel()
        if decided is None:
            decided = pushes.PushStatus(self._transactions.phase(self._id))
        return {"ID": self._id, **decided.to_json()}

    async def delete(self, request: StreamingRequest) -> Any:
        """Discard it."""
        await self._transactions.discard(self._id)
        return {}

    def getChild(self, path: bytes, request: Request) -> Resource:
        """Its commit, or a bucket."""
        if path == b"commit":
            return PushCommit(self._id, self._transactions)
        number = path.decode("utf-8", "replace")
        return PushBucket(self._id, number, self._transactions, self._clock, self._bandwidth)


class PushCommit(TransfersResource):
    """``/transfers/push/T/commit``."""

    def __init__(self, id_: str, transactions: PushTransactions) -> None:
        super().__init__()
        self._id = id_
        self._transactions = transactions

    async def post(self, request: StreamingRequest) -> Any:
        """Verify and store all; the body counts for nothing, where it is not our extension."""
        after = pushes.parse_commit(await read_body(request, _LONGEST_COMMIT))
        site = request.site
        started = site.reactor.seconds()
        report = await self._transactions.commit(self._id, after or frozenset())
        site.measures.committed(request.login, RECEIVED, site.reactor.seconds() - started)
        request.facts.update(Ids=report.ids, Instances=len(report.outcomes))
        return {} if after is None else {"ID": self._id, **committed_status(report).to_json()}


class PushBucket(TransfersResource):
    """``/transfers/push/T/N``."""

    def __init__(
        self,
        id_: str,
        number: str,
        transactions: PushTransactions,
        clock: IReactorTime,
        bandwidth: Bandwidth,
    ) -> None:
        super().__init__()
        self._id = id_
        self._number = number
        self._transactions = transactions
        self._clock = clock
        self._bandwidth = bandwidth

    async def put(self, request: StreamingRequest) -> Any:
        """Take the bucket's body as it comes."""
        transactions = self._transactions
        is_early = argument(request, "early") is not None
        if is_early:
            await transactions.expect(self._id)
        transaction = await transactions.get(self._id)
        if not _NUMBER.match(self._number):
            raise UnknownResource(f"{self._number[:40]!r} is no number of a bucket")
        if is_early:
            transaction.check_unchanged(int(self._number))
        async with transactions.bodies.slot():
            await self._take(request)
        return {}

    async def _take(self, request: StreamingRequest) -> None:
        transactions, site = self._transactions, request.site
        started = self._clock.seconds()
        offset = size_argument(request, "offset")
        named = argument(request, "codec")
        codec = parse_codec(named, with_ours=True) if named is not None else None
        sink = await transactions.receive(self._id, int(self._number), offset, codec)
        try:
            sink.limit(self._bandwidth.receiving(asked(request)))
            await request.body.into(sink)
        except BaseException:
            sink.abort()
            await sink.idle()
            transactions.received(self._id, sink)
            raise
        try:
            await transactions.finish_bucket(self._id, sink, started)
        except WrongLength as error:
            raise WrongLength(f"Bucket {int(self._number)}: {error}") from None
        finally:
            site.measures.travelled(request.login, RECEIVED, sink.taken)
        seconds = self._clock.seconds() - started
        site.measures.bucket(request.login, RECEIVED, seconds, sink.taken)


def transfers_tree(parts: "SiteParts") -> Resource:
    """Everything below ``/transfers``."""
    store, threads, clock, peers = parts.store, parts.threads, parts.clock, parts.peers
    timeout = parts.settings.transfers.peer_connectivity_timeout
    root, pieces = NotFoundParent(), Pieces(clock)
    root.putChild(b"lookup", Lookup(store, threads, parts.originator, pieces))
    caching = policy(parts.settings)
    root.putChild(b"chunks", Chunks(store, threads, parts.bandwidth, caching))
    root.putChild(b"pull", SubmitPull(parts.jobs, peers, threads))
    root.putChild(b"send", SubmitSend(parts.jobs, peers, threads, parts.originator, parts.archive))
    parts_of_peers = PeerParts(peers, threads, clock, timeout, parts.settings.name)
    root.putChild(b"peers", ProbePeers(parts_of_peers))
    root.putChild(b"push", Pushes(parts.transactions, threads, clock, parts.bandwidth, pieces))
    root.putChild(b"explorer", Explorer(parts.settings.name, parts.archive is not None))
    root.putChild(b"events", EventStream(parts.jobs, clock))
    root.putChild(b"openapi.json", Description(threads, parts.gateway is not None))
    root.putChild(b"bandwidth", BandwidthNode(parts.bandwidth, threads))
    return root
