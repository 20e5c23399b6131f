"""What is below an instance in Orthanc's REST API, and how one comes in (protocol, section 7)."""

from typing import Any

import attrs
from isal import isal_zlib
from twisted.web.resource import Resource
from twisted.web.server import Request

from ..errors import BadCompression, BadParameter, UnknownResource
from ..store.interfaces import IArchive, IInstanceStore, IUpload, StoredInstance
from ..threads import IThreads
from ..transfer.streams import BucketReader, Sink
from ..wire.codec import Codec, usual
from ..wire.codecs import GZIP_ERROR
from ..wire.inflation import Inflation
from ..wire.messages import Level
from ..wire.plan import Chunk
from .resource import ApiResource, NotFound, Reply, stream
from .server import StreamingRequest

_INFLATED_SLICE = 2**20
_GZIP = 16 + 15


@attrs.frozen
class ArchiveParts:
    """What the resources of an archive share."""

    archive: IArchive
    store: IInstanceStore
    threads: IThreads


async def take_upload(request: StreamingRequest, parts: ArchiveParts) -> Any:
    """Store the body, streamed: a DICOM file, or a ZIP archive of them; it may be gzipped."""
    upload = parts.archive.upload()
    limits = request.site.limits
    inflation = Inflation(limits.inflation_ratio, limits.inflated_size)
    sink = _upload_sink(parts.threads, upload, _is_gzipped(request), inflation)
    try:
        await request.body.into(sink)
        await sink.finish()
        zipped, stored = await upload.finish()
    finally:
        sink.abort()
        await sink.idle()
        await upload.discard()
    request.facts["Ids"] = tuple(instance.id for instance in stored)
    answers = [_stored_json(instance) for instance in stored]
    return answers if zipped else answers[0]


def _is_gzipped(request: StreamingRequest) -> bool:
    encoding = request.getHeader("Content-Encoding") or "identity"
    if encoding.lower() not in ("gzip", "identity"):
        raise BadParameter(f"Content-Encoding {encoding[:40]} is not known; gzip is")
    return encoding.lower() == "gzip"


def _upload_sink(threads: IThreads, upload: IUpload, gzipped: bool, inflation: Inflation) -> Sink:
    stream: Any = isal_zlib.decompressobj(_GZIP) if gzipped else None
    came = made = 0

    def inflate(data: bytes) -> bytes:
        try:
            return bytes(stream.decompress(data, _INFLATED_SLICE))
        except GZIP_ERROR as error:
            raise BadCompression(f"The body is not the gzip that it says it is: {error}") from None

    async def consume(data: bytes) -> None:
        if stream is None:
            await upload.write(data)
            return
        nonlocal came, made
        came += len(data)
        while (data or stream.unconsumed_tail) and not stream.eof:
            inflated = await threads.run(inflate, data or stream.unconsumed_tail)
            data = stream.unconsumed_tail
            made += len(inflated)
            inflation.check(came, made)
            if inflated:
                await upload.write(inflated)
            elif not data:
                break

    async def finish() -> None:
        if stream is not None and not stream.eof:
            raise BadCompression("The gzip of the body is truncated")

    return Sink(consume, finish)


def _stored_json(instance: StoredInstance) -> dict[str, str]:
    return {
        "ID": instance.id,
        "ParentPatient": instance.patient,
        "ParentSeries": instance.series,
        "ParentStudy": instance.study,
        "Path": f"/instances/{instance.id}",
        "Status": "AlreadyStored" if instance.already_stored else "Success",
    }


class OfInstance(ApiResource):
    """A node below an instance."""

    def __init__(self, id_: str, parts: ArchiveParts) -> None:
        super().__init__()
        self._id = id_
        self._parts = parts


class InstanceFile(OfInstance):
    """``/instances/ID/file`` and ``/instances/ID/attachments/dicom/data``."""

    async def get(self, request: StreamingRequest) -> None:
        """Stream the file."""
        instance = await find_instance(self._parts.store, self._id)
        chunk = Chunk(instance.id, 0, instance.size)
        reader = BucketReader(self._parts.store, self._parts.threads, (chunk,), usual(Codec.NONE))
        request.setHeader("Content-Type", "application/dicom")
        request.setHeader("Content-Length", str(instance.size))
        request.setHeader("Content-Disposition", f'filename="{instance.id}.dcm"')
        await stream(request, reader)


async def find_instance(store: IInstanceStore, id_: str) -> Any:
    """One instance.

    :raises UnknownResource: there is none of that identifier.
    """
    instance = (await store.find([id_])).get(id_)
    if instance is None:
        raise UnknownResource(f"Unknown instance: {id_[:100]}")
    return instance


class Tags(OfInstance):
    """``/instances/ID/simplified-tags``."""

    async def get(self, request: StreamingRequest) -> Any:
        """All tags but the pixels, by keyword."""
        return await self._parts.archive.all_tags(self._id)


class Attachments(OfInstance):
    """``/instances/ID/attachments`` and its one attachment, ``dicom``."""

    async def get(self, request: StreamingRequest) -> Any:
        """The names of the attachments."""
        await find_instance(self._parts.store, self._id)
        return ["dicom"]

    def getChild(self, path: bytes, request: Request) -> Resource:
        """The file."""
        return Attachment(self._id, self._parts) if path == b"dicom" else NotFound()


class Attachment(OfInstance):
    """``/instances/ID/attachments/dicom`` and its aspects."""

    async def get(self, request: StreamingRequest) -> Any:
        """What can be had of it."""
        await find_instance(self._parts.store, self._id)
        return ["data", "info", "md5", "size"]

    def getChild(self, path: bytes, request: Request) -> Resource:
        """An aspect."""
        if path == b"data":
            return InstanceFile(self._id, self._parts)
        if path in (b"size", b"md5", b"info"):
            return AttachmentAspect(self._id, path.decode(), self._parts)
        return NotFound()


class AttachmentAspect(OfInstance):
    """``/instances/ID/attachments/dicom/size|md5|info``: from the index, no file is read."""

    def __init__(self, id_: str, aspect: str, parts: ArchiveParts) -> None:
        super().__init__(id_, parts)
        self._aspect = aspect

    async def get(self, request: StreamingRequest) -> Any:
        """Plain text; ``info`` is JSON."""
        details = await self._parts.archive.details(Level.INSTANCE, self._id)
        if self._aspect == "info":
            return {
                "CompressedMD5": details.md5,
                "CompressedSize": details.size,
                "ContentType": 1,
                "UncompressedMD5": details.md5,
                "UncompressedSize": details.size,
                "Uuid": details.uuid,
            }
        text = str(details.size) if self._aspect == "size" else details.md5
        return Reply(text.encode(), "text/plain")
