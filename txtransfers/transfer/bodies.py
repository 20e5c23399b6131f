"""The body of a bucket that is sent, made anew for each try."""

from collections.abc import Callable

from twisted.web.iweb import IBodyProducer

from ..store.interfaces import IInstanceStore
from ..threads import IThreads
from ..wire.messages import Compression
from ..wire.plan import Bucket, bucket_size
from .client import Stall
from .flow import Flow
from .peers import Body
from .streams import BucketReader, ISlices, MemorySlices, RequestBody


class BucketBodies:
    """The bodies of one bucket."""

    def __init__(
        self,
        store: IInstanceStore,
        threads: IThreads,
        bucket: Bucket,
        compression: Compression,
        on_sent: Callable[[int], None],
        on_again: Callable[[], None],
        flow: Flow | None = None,
    ) -> None:
        """:param on_sent: called with the bytes that were given to the transport.

        :param on_again: called when what was sent so far counts for nothing.
        :param flow: how fast they may be; None for as fast as they can.
        """
        self._store = store
        self._threads = threads
        self._bucket = bucket
        self._compression = compression
        self.length = bucket_size(bucket)
        """Bytes of the body that is travelling."""
        self._on_sent = on_sent
        self._on_again = on_again
        self._flow = flow

    async def body(self) -> Body:
        """A body whose length is known: a gzipped bucket is made whole before it travels."""
        compressed: list[bytes] | None = None
        if self._compression is Compression.GZIP:
            reader = self._reader()
            try:
                compressed = await reader.read_all()
            finally:
                reader.close()
            self.length = sum(len(data) for data in compressed)

        def make(stall: Stall) -> IBodyProducer:
            def on_slice(size: int) -> None:
                self._on_sent(size)
                stall.touch()

            self._on_again()
            if self._flow is not None:
                self._flow.watched_by(stall)
            source: ISlices = self._reader() if compressed is None else MemorySlices(compressed)
            return RequestBody(self.length, source, on_slice, self._flow)

        return Body(make, "application/octet-stream")

    def _reader(self) -> BucketReader:
        return BucketReader(self._store, self._threads, self._bucket, self._compression)
