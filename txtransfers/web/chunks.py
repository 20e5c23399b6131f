"""``/transfers/chunks``: the bytes of instances, as a peer that pulls fetches them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from twisted.web.resource import Resource
from twisted.web.server import Request

from ..errors import UnknownResource, UrlTooLong
from ..metrics import SERVED
from ..store.interfaces import IInstanceStore
from ..threads import IThreads
from ..transfer.bandwidth import Bandwidth
from ..transfer.streams import BucketReader, MemorySlices
from ..wire.codec import Codec, Coding, parse_coding
from ..wire.plan import Chunk, Instance, bucket_size, content_of
from .bandwidth import asked
from .caching import Caching, cache_control, entity_tag, is_known
from .resource import Reply, TransfersResource, argument, size_argument, stream
from .server import StreamingRequest, StreamingSite

_WHOLE = 16 * 2**20
"""Bytes up to which a compressed answer is made whole, so that its length can be told."""

_CONTENT_TYPES = {
    Codec.NONE: "application/octet-stream",
    Codec.GZIP: "application/gzip",
    Codec.ZSTD: "application/octet-stream",
}


class Chunks(TransfersResource):
    """``/transfers/chunks``, whose children are lists of identifiers."""

    def __init__(
        self, store: IInstanceStore, threads: IThreads, bandwidth: Bandwidth, caching: Caching
    ) -> None:
        super().__init__()
        self.store = store
        self.threads = threads
        self.bandwidth = bandwidth
        self.caching = caching

    async def handle(self, request: StreamingRequest, method: str) -> Any:
        """Only children can be had."""
        raise UnknownResource("There is no such route: the identifiers of instances are missing")

    def getChild(self, path: bytes, request: Request) -> Resource:
        """The chunk of these instances."""
        return InstanceBytes(path.decode("utf-8", "replace").split("."), self)


class InstanceBytes(TransfersResource):
    """``/transfers/chunks/ID[.ID…]``: the bytes of instances laid end to end."""

    def __init__(self, ids: list[str], parent: Chunks) -> None:
        super().__init__()
        self._ids = ids
        self._parent = parent

    async def get(self, request: StreamingRequest) -> Reply | None:
        """Stream them; an answer that cannot be given whole ends with a cut connection."""
        _check_url(request)
        offset = size_argument(request, "offset")
        size = size_argument(request, "size")
        coding = _coding(request)
        known = await self._parent.store.find(tuple(dict.fromkeys(self._ids)))
        chunks = self._chunks(known, offset, size or None)
        content = argument(request, "content")
        if content is not None and content != content_of(chunks, known):
            raise UnknownResource("The instances have another content than was asked for")
        tag = entity_tag(chunks, known, coding)
        headers = {
            "Cache-Control": cache_control(self._parent.caching, content is not None),
            "ETag": tag,
        }
        if is_known(tag, request.requestHeaders.getRawHeaders("If-None-Match", [])):
            return Reply(b"", status=304, headers=headers)
        headers["Content-Type"] = _CONTENT_TYPES[coding.codec]
        if request.method == b"HEAD" and coding.codec is not Codec.NONE:
            return Reply(b"", headers=headers, has_length=False)
        await self._stream(request, chunks, known, coding, headers)
        return None

    async def _stream(
        self,
        request: StreamingRequest,
        chunks: tuple[Chunk, ...],
        known: Mapping[str, Instance],
        coding: Coding,
        headers: dict[str, str],
    ) -> None:
        """The headers are set when nothing more can fail before them: errors are not kept."""
        parent, site = self._parent, request.site
        md5s = {chunk.id: known[chunk.id].md5 for chunk in chunks}
        reader = BucketReader(parent.store, parent.threads, chunks, coding, md5s)
        size = bucket_size(chunks)
        flow = parent.bandwidth.sending(asked(request))
        with _measured(site, request):
            if coding.codec is not Codec.NONE and size <= _WHOLE and site.load.keep(size):
                try:
                    slices = await _all_of(reader)
                    headers["Content-Length"] = str(sum(len(data) for data in slices))
                    _set(request, headers)
                    await stream(request, MemorySlices(slices), flow)
                finally:
                    site.load.drop(size)
                return
            if coding.codec is Codec.NONE:
                headers["Content-Length"] = str(size)
            _set(request, headers)
            await stream(request, reader, flow)

    def _chunks(
        self, known: Mapping[str, Instance], offset: int, size: int | None
    ) -> tuple[Chunk, ...]:
        """The chunks from ``offset`` on; an unknown instance beyond the end of them is no error."""
        chunks: list[Chunk] = []
        left = size
        for id_ in _without_empty_end(self._ids):
            if left == 0:
                break
            instance = known.get(id_)
            if instance is None:
                raise UnknownResource(f"Unknown instance: {id_[:100]}")
            if offset >= instance.size:
                offset -= instance.size
                continue
            part = instance.size - offset if left is None else min(left, instance.size - offset)
            chunks.append(Chunk(id_, offset, part))
            offset = 0
            left = None if left is None else left - part
        return tuple(chunks)


def _coding(request: StreamingRequest) -> Coding:
    wanted = argument(request, "compression")
    level = size_argument(request, "level") if wanted == Codec.ZSTD.value else 0
    return parse_coding("none" if wanted is None else wanted, level)


@contextmanager
def _measured(site: StreamingSite, request: StreamingRequest) -> Iterator[None]:
    """Measure what is answered meanwhile; it has arrived where nothing is raised."""
    started = site.reactor.seconds()
    try:
        yield
    finally:
        site.measures.travelled(request.login, SERVED, request.sentLength)
    if request.sentLength:
        seconds = site.reactor.seconds() - started
        site.measures.bucket(request.login, SERVED, seconds, request.sentLength)


async def _all_of(reader: BucketReader) -> list[bytes]:
    try:
        return await reader.read_all()
    finally:
        reader.close()


def _set(request: StreamingRequest, headers: Mapping[str, str]) -> None:
    for name, value in headers.items():
        request.setHeader(name, value)


def _check_url(request: StreamingRequest) -> None:
    site, length = request.site, len(request.uri)
    most = site.limits.chunks_url_length
    if length > most:
        site.refusals.note("MaxChunksUrlLength", request.address)
        raise UrlTooLong(
            f"The URL has {length} bytes, more than {most} (MaxChunksUrlLength in Limits here):"
            " ask for fewer instances at once"
        )


def _without_empty_end(ids: Sequence[str]) -> list[str]:
    kept = list(ids)
    while len(kept) > 1 and not kept[-1]:
        kept.pop()
    return kept
