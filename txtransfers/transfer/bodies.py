"""The body of a bucket that is sent, made anew for each try."""

from collections.abc import Callable

from twisted.web.iweb import IBodyProducer

from ..store.interfaces import IInstanceStore
from ..threads import IThreads
from ..wire.codec import Codec, Coding
from ..wire.plan import Bucket, bucket_size
from .asking import Body
from .client import Stall
from .compression import Encoded
from .flow import Flow
from .streams import BucketReader, ISlices, MemorySlices, RequestBody


class BucketBodies:
    """The bodies of one bucket."""

    def __init__(
        self,
        store: IInstanceStore,
        threads: IThreads,
        bucket: Bucket,
        on_sent: Callable[[int], None],
        on_again: Callable[[], None],
        on_encoded: Callable[[Encoded], None],
        flow: Flow | None = None,
    ) -> None:
        """:param on_sent: called with the bytes that were given to the transport.

        :param on_again: called when what was sent so far counts for nothing.
        :param on_encoded: called when the bucket has been compressed.
        :param flow: how fast they may be; None for as fast as they can.
        """
        self._store = store
        self._threads = threads
        self._bucket = bucket
        self.length = bucket_size(bucket)
        """Bytes of the body that is travelling."""
        self._on_sent = on_sent
        self._on_again = on_again
        self._on_encoded = on_encoded
        self._flow = flow

    async def body(self, coding: Coding) -> Body:
        """A body whose length is known: a compressed bucket is made whole before it travels."""
        compressed: list[bytes] | None = None
        size = self.length = bucket_size(self._bucket)
        if coding.codec is not Codec.NONE:
            reader = self._reader(coding)
            try:
                compressed = await reader.read_all()
            finally:
                reader.close()
            self.length = sum(len(data) for data in compressed)
            self._on_encoded(Encoded(coding, size, self.length, reader.seconds))

        def make(stall: Stall) -> IBodyProducer:
            def on_slice(size: int) -> None:
                self._on_sent(size)
                stall.touch()

            self._on_again()
            if self._flow is not None:
                self._flow.watched_by(stall)
            source: ISlices = (
                self._reader(coding) if compressed is None else MemorySlices(compressed)
            )
            return RequestBody(self.length, source, on_slice, self._flow)

        return Body(make, "application/octet-stream")

    def _reader(self, coding: Coding) -> BucketReader:
        return BucketReader(self._store, self._threads, self._bucket, coding)
