"""Reads chunks of Orthanc's instances as one stream of bytes: from copies, or by ranges."""

from collections import deque
from collections.abc import Mapping, Sequence

from twisted.internet.defer import Deferred
from zope.interface import implementer

from ..errors import StorageFailure, UnknownResource
from ..store.interfaces import IInstanceReader
from ..store.reader import ClosableReader
from ..transfer.slots import Slots
from ..transfer.streams import collecting_sink
from ..wire.plan import Chunk
from .catalogue import Catalogue, Known
from .dialect import Dialect
from .rest import OrthancRest
from .spool import Copy, Spool, changed, deleted, fetch_small, md5_of_tag

AHEAD = 3
"""Instances of a bucket that come while another is read."""
SMALL = 2**20
"""Bytes of an instance that is read without a copy on the disk."""
_MOST_AHEAD = 5 * 2**18
"""Bytes of small instances that a reader has in memory: with those that are written, STREAMED."""


class Sources:
    """Where the bytes of instances come from."""

    def __init__(
        self,
        rest: OrthancRest,
        catalogue: Catalogue,
        spool: Spool,
        dialect: Dialect,
        fetching: Slots,
        ahead: int = AHEAD,
    ) -> None:
        """:param fetching: who may fetch. :param ahead: see :data:`AHEAD`."""
        self.rest = rest
        self.catalogue = catalogue
        self.spool = spool
        self.dialect = dialect
        self.fetching = fetching
        self.ahead = ahead

    async def read_range(self, known: Known, offset: int, size: int) -> bytes | None:
        """Bytes of an instance, by a request of their own; None where Orthanc gives no ranges."""
        sink, parts = collecting_sink(size)
        headers = {"Range": f"bytes={offset}-{offset + size - 1}"}
        path = f"/instances/{known.id}/attachments/dicom/data"
        try:
            answer = await self.rest.fetch(path, sink, headers)
        except UnknownResource:
            raise deleted(self.rest, known) from None
        except StorageFailure:
            if sink.taken <= size:
                raise
            answer = None  # it gave more than was asked for
        data = b"".join(parts)
        if answer is None or answer.status != 206:
            self.dialect.no_ranges()
            return None
        said = answer.header("Content-Range").partition("/")
        told = md5_of_tag(answer.header("ETag"))
        is_other = bool(told and known.md5) and told != known.md5
        if is_other or said[2] not in (str(known.size), "*", ""):
            raise changed(self.rest, known)
        if len(data) != size:
            raise StorageFailure(
                f"{self.rest.who} gave {len(data)} bytes of {path}, not {size} as asked for"
            )
        return data


@implementer(IInstanceReader)
class OrthancReader(ClosableReader):
    """See :class:`IInstanceReader`: Orthanc is asked once what it has, before the first byte."""

    def __init__(
        self, sources: Sources, chunks: Sequence[Chunk], md5s: Mapping[str, str] | None
    ) -> None:
        super().__init__()
        self._md5s = md5s or {}
        self._sources = sources
        self._chunks = deque(chunk for chunk in chunks if chunk.size)
        self._known: dict[str, Known] | None = None
        self._copies: dict[str, Copy] = {}
        self._small: dict[str, Deferred[bytes]] = {}
        self._data = b""
        self._done = 0

    def fetch(self, limit: int) -> "Deferred[bytes]":
        """See :meth:`IInstanceReader.read`."""
        return Deferred.fromCoroutine(self._read(limit))

    def give_back(self) -> None:
        """See :meth:`IInstanceReader.close`."""
        copies, self._copies = self._copies, {}
        for copy in copies.values():
            self._sources.spool.release(copy)
        small, self._small = self._small, {}
        for coming in small.values():
            coming.addErrback(lambda _failure: None)
            coming.cancel()
        self._data = b""

    async def _read(self, limit: int) -> bytes:
        if self._known is None and self._chunks:
            ids = [chunk.id for chunk in self._chunks]
            catalogue = self._sources.catalogue
            self._known = await (catalogue.find if self._md5s else catalogue.describe)(ids)
        parts = []
        left = limit
        while left and self._chunks and not self.closed:
            chunk = self._chunks[0]
            wanted = min(left, chunk.size - self._done)
            data = await self._read_chunk(chunk, chunk.offset + self._done, wanted)
            parts.append(data)
            left -= wanted
            self._done += wanted
            if self._done == chunk.size:
                self._next()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _next(self) -> None:
        id_ = self._chunks.popleft().id
        self._done = 0
        self._data = b""
        if id_ in self._copies and all(chunk.id != id_ for chunk in self._chunks):
            self._sources.spool.release(self._copies.pop(id_))

    async def _read_chunk(self, chunk: Chunk, offset: int, size: int) -> bytes:
        known = self._find(chunk)
        if _is_small(chunk, known):
            if not self._data:
                self._fetch_ahead()
                self._data = await self._small.pop(chunk.id)
            return self._data[offset : offset + size]
        if self._sources.dialect.has_ranges:
            data = await self._sources.read_range(known, offset, size)
            if data is not None:
                return data
        return await self._sources.spool.read(self._copy(known), offset, size)

    def _fetch_ahead(self) -> None:
        """Have this and the next small instances come."""
        assert self._known is not None
        waiting = 0
        for number, chunk in enumerate(self._chunks):
            known = self._known.get(chunk.id)
            if known is None or not _is_small(chunk, known):
                return
            waiting += known.size
            if number and (number > self._sources.ahead or waiting > _MOST_AHEAD):
                return
            if chunk.id not in self._small:
                coming = fetch_small(self._sources.rest, self._sources.fetching, known)
                self._small[chunk.id] = Deferred.fromCoroutine(coming)

    def _find(self, chunk: Chunk) -> Known:
        assert self._known is not None
        known = self._known.get(chunk.id)
        who = self._sources.rest.who
        if known is None:
            raise UnknownResource(f"Instance {chunk.id} is not in {who} any more")
        if self._md5s.get(chunk.id, known.md5) != known.md5:
            raise UnknownResource(f"Instance {chunk.id} was replaced in {who} meanwhile")
        if chunk.offset + chunk.size > known.size:
            raise StorageFailure(
                f"Instance {chunk.id} has {known.size} bytes in {who}, fewer than the"
                f" {chunk.offset + chunk.size} that are to be read"
            )
        return known

    def _copy(self, known: Known) -> Copy:
        """The copy of an instance; those of the next ones come meanwhile."""
        assert self._known is not None
        for number, chunk in enumerate(self._chunks):
            if number > self._sources.ahead:
                break
            ahead = self._known.get(chunk.id)
            if ahead is not None and chunk.id not in self._copies:
                self._copies[chunk.id] = self._sources.spool.use(ahead)
        return self._copies[known.id]


def _is_small(chunk: Chunk, known: Known) -> bool:
    return chunk.size == known.size <= SMALL
