"""Reads chunks of Orthanc's instances as one stream of bytes: from copies, or by ranges."""

from collections import deque
from collections.abc import Mapping, Sequence
from itertools import islice

from twisted.internet.defer import Deferred
from zope.interface import implementer

from ..errors import SourceChanged, StorageFailure, UnknownResource
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
"""Large instances of a bucket that come while another is read; 0 where nothing comes early."""
SMALL = 2**20
"""Bytes of an instance that is read without a copy on the disk."""
_TOGETHER = 2**20 + 2**16
"""Bytes of small instances that come together: two CT slices with their headers. A reader has these
and one more in memory at the most: those that come, and the last of those that are written."""


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
        self._is_recent = False
        """Whether that was not asked for now."""
        self._copies: dict[str, Copy] = {}
        self._small: deque[bytes] = deque()
        """Those at the head of the chunks, whole."""
        self._coming: Deferred[list[bytes]] | None = None
        """Those after them."""
        self._done = 0

    def fetch(self, limit: int) -> "Deferred[bytes]":
        """See :meth:`IInstanceReader.read`."""
        return Deferred.fromCoroutine(self._read(limit))

    def give_back(self) -> None:
        """See :meth:`IInstanceReader.close`."""
        copies, self._copies = self._copies, {}
        for copy in copies.values():
            self._sources.spool.release(copy)
        self._small.clear()
        coming, self._coming = self._coming, None
        if coming is not None:
            coming.addErrback(lambda _failure: None)
            coming.cancel()

    async def _read(self, limit: int) -> bytes:
        if self._known is None and self._chunks:
            self._known = await self._ask()
        parts: list[bytes] = []
        left = limit
        while left and self._chunks and not self.closed:
            chunk = self._chunks[0]
            if parts and chunk.size > left:  # it is better read whole, next time
                break
            wanted = min(left, chunk.size - self._done)
            data = await self._read_chunk(chunk, chunk.offset + self._done, wanted)
            parts.append(data)
            left -= wanted
            self._done += wanted
            if self._done == chunk.size:
                self._next()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _ask(self) -> dict[str, Known]:
        """What Orthanc has of the instances.

        What it told lately counts for small ones: their bytes come with an MD5, and are compared.
        """
        known = self._sources.catalogue.recent(chunk.id for chunk in self._chunks)
        if known is not None and all(self._fits(chunk, known[chunk.id]) for chunk in self._chunks):
            self._is_recent = True
            return known
        return await self._ask_again()

    def _fits(self, chunk: Chunk, known: Known) -> bool:
        is_same = self._md5s.get(chunk.id, known.md5) == known.md5
        return is_same and _is_small(chunk, known)

    async def _ask_again(self) -> dict[str, Known]:
        catalogue = self._sources.catalogue
        self._is_recent = False
        ids = [chunk.id for chunk in self._chunks]
        return await (catalogue.find if self._md5s else catalogue.describe)(ids)

    def _next(self) -> None:
        id_ = self._chunks.popleft().id
        self._done = 0
        if self._small:
            self._small.popleft()
        if id_ in self._copies and all(chunk.id != id_ for chunk in self._chunks):
            self._sources.spool.release(self._copies.pop(id_))

    async def _read_chunk(self, chunk: Chunk, offset: int, size: int) -> bytes:
        known = self._find(chunk)
        if _is_small(chunk, known):
            try:
                return (await self._small_one())[offset : offset + size]
            except (SourceChanged, UnknownResource):
                if not self._is_recent:
                    raise
            self._known = await self._ask_again()
            return await self._read_chunk(chunk, offset, size)
        if self._sources.dialect.has_ranges:
            data = await self._sources.read_range(known, offset, size)
            if data is not None:
                return data
        return await self._sources.spool.read(self._copy(known), offset, size)

    async def _small_one(self) -> bytes:
        """The chunk at the head, which is a small instance; the next ones come meanwhile."""
        if not self._small:
            coming, self._coming = self._coming or self._fetch_from(0), None
            assert coming is not None
            self._small.extend(await coming)
        if len(self._small) == 1 and self._coming is None and self._sources.ahead:
            self._coming = self._fetch_from(1)
        return self._small[0]

    def _fetch_from(self, number: int) -> "Deferred[list[bytes]] | None":
        """Have small instances come, from that chunk on; None where it is none."""
        assert self._known is not None
        sources, together, size = self._sources, list[Known](), 0
        for chunk in islice(self._chunks, number, None):
            known = self._known.get(chunk.id)
            if known is None or not _is_small(chunk, known):
                break
            size += known.size
            if together and (size > _TOGETHER or not sources.ahead):
                break
            together.append(known)
        if not together:
            return None
        return Deferred.fromCoroutine(fetch_small(sources.rest, sources.fetching, together))

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
