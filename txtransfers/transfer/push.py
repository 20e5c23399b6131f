"""Sending in push mode, told as a sequence: look up, plan, open, PUT the buckets, commit."""

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferTimeoutError
from twisted.logger import Logger
from twisted.web.iweb import IBodyProducer
from zope.interface import implementer

from ..errors import PeerRefused, TransfersError
from ..wire.messages import Compression, TransferRequest, new_transfer_id, push_json
from ..wire.plan import Bucket, Plan, bucket_size, plan_buckets
from .parts import ITransfer, Parts
from .peers import Body, Peer
from .progress import Progress
from .slots import run_all
from .streams import BucketReader, ISlices, MemorySlices, RequestBody

_GOODBYE_S = 1.0
"""Seconds that telling the peer of an abandoned transaction may take."""

log = Logger()


@implementer(ITransfer)
class Push:
    """One transfer to a peer; see :class:`ITransfer`."""

    def __init__(self, parts: Parts, peer: Peer, request: TransferRequest) -> None:
        self._parts = parts
        self._peer = peer
        self._request = request
        self._session = peer.session(request.sender_transfer_id or new_transfer_id())
        self._plan: Plan = ()
        self._path: str | None = None
        self._done: set[int] = set()

    async def run(self, progress: Progress) -> None:
        """See :meth:`ITransfer.run`."""
        if self._path is None:
            await self._open(progress)
        limits = self._parts.limits
        missing = [n for n in range(len(self._plan)) if n not in self._done]
        await run_all(
            ((lambda n=n: self._send(n, progress)) for n in missing),  # type: ignore[misc]
            limits.threads,
        )
        await self._commit(progress)
        self._path = None

    async def _open(self, progress: Progress) -> None:
        parts, request = self._parts, self._request
        instances = await parts.store.lookup(request.resources)
        size = parts.limits.bucket_size
        self._plan = await parts.threads.run(plan_buckets, instances, size)
        self._done.clear()
        progress.planned(instances, self._plan)
        opening = await parts.threads.run(push_json, instances, self._plan, request.compression)
        self._path = await parts.retrying(
            progress, lambda: self._peer.open_push(opening, self._session)
        )

    async def _send(self, number: int, progress: Progress) -> None:
        bucket = self._plan[number]

        async def put() -> None:
            assert self._path is not None
            body = await self._body(bucket, progress)
            await self._peer.put_bucket(self._path, number, body, self._session)

        async with self._parts.slots.slot(self._request.priority):
            await self._parts.retrying(progress, put)
        self._done.add(number)
        progress.bucket_done(bucket_size(bucket))

    async def _body(self, bucket: Bucket, progress: Progress) -> Body:
        """A body whose length is known: a gzipped bucket is made whole before it travels."""
        parts, compression = self._parts, self._request.compression
        compressed: list[bytes] | None = None
        length = bucket_size(bucket)
        if compression is Compression.GZIP:
            reader = BucketReader(parts.store, parts.threads, bucket, compression)
            try:
                compressed = await reader.read_all()
            finally:
                reader.close()
            length = sum(len(data) for data in compressed)

        def make(touch: Callable[[], None]) -> IBodyProducer:
            def on_slice(size: int) -> None:
                progress.network_size += size
                touch()

            source: ISlices
            if compressed is None:
                source = BucketReader(parts.store, parts.threads, bucket, compression)
            else:
                source = MemorySlices(compressed)
            return RequestBody(length, source, on_slice)

        return Body(make, "application/octet-stream")

    async def _commit(self, progress: Progress) -> None:
        limits = self._parts.limits

        async def commit() -> None:
            assert self._path is not None
            await self._peer.commit(self._path, limits.commit_timeout, self._session)

        try:
            await self._parts.retrying(progress, commit)
        except PeerRefused as error:
            raise PeerRefused(
                f"All buckets have arrived, but the peer did not commit: {error}", error.status
            ) from error

    async def abandon(self) -> None:
        """See :meth:`ITransfer.abandon`."""
        path, self._path = self._path, None
        if path is None:
            return
        goodbye = Deferred.fromCoroutine(self._peer.discard(path, self._session))
        goodbye.addTimeout(_GOODBYE_S, self._parts.reactor)
        try:
            await goodbye
        except (TransfersError, DeferTimeoutError) as error:
            log.info("The abandoned transaction stays at the peer: {error}", error=error)

    def stoppable(self) -> bool:
        """See :meth:`ITransfer.stoppable`: nothing is decided here, the peer commits or not."""
        return True
