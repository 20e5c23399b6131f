"""A store that lives in memory: for tests of everything above, and for trying things out.

Keeps the same contract as the embedded store; the suite in ``tests/contract`` runs on both.
"""

import hashlib
from collections.abc import Mapping, Sequence
from io import BytesIO

from twisted.internet.defer import Deferred, execute, succeed
from zope.interface import implementer

from .. import errors
from ..wire.messages import Level, Resource
from ..wire.plan import Chunk, Instance
from .dicom import Header, read_header
from .interfaces import CommitReport, IIncoming, IInstanceReader, IInstanceStore, Piece


@implementer(IInstanceStore)
class MemoryStore:
    """See :class:`IInstanceStore`.

    :param room: bytes that fit.
    """

    def __init__(self, overwrite_instances: bool = False, room: int = 2**30) -> None:
        self.overwrite_instances = overwrite_instances
        self.room = room
        self.files: dict[str, bytes] = {}
        self.headers: dict[str, Header] = {}

    def add(self, data: bytes) -> str:
        """Store a DICOM file; tells its identifier."""
        header = read_header(BytesIO(data), len(data))
        self.files[header.ids.instance] = data
        self.headers[header.ids.instance] = header
        return header.ids.instance

    def lookup(self, resources: Sequence[Resource]) -> "Deferred[tuple[Instance, ...]]":
        """See :meth:`IInstanceStore.lookup`."""
        return execute(self._lookup, resources)

    def _lookup(self, resources: Sequence[Resource]) -> tuple[Instance, ...]:
        found: set[str] = set()
        for resource in resources:
            below = {id_ for id_, header in self.headers.items() if _is_below(header, resource)}
            if not below:
                raise errors.UnknownResource(
                    f"Unknown {resource.level.value.lower()}: {resource.id[:100]}"
                )
            found |= below
        return tuple(self._instance(id_) for id_ in sorted(found))

    def _instance(self, id_: str) -> Instance:
        data = self.files[id_]
        return Instance(id_, len(data), hashlib.md5(data, usedforsecurity=False).hexdigest())

    def find(self, ids: Sequence[str]) -> "Deferred[Mapping[str, Instance]]":
        """See :meth:`IInstanceStore.find`."""
        return succeed({id_: self._instance(id_) for id_ in ids if id_ in self.files})

    def open(self, chunks: Sequence[Chunk]) -> IInstanceReader:
        """See :meth:`IInstanceStore.open`."""
        return MemoryReader(self, chunks)

    def receive(self, instances: Sequence[Instance]) -> "Deferred[IIncoming]":
        """See :meth:`IInstanceStore.receive`."""
        return execute(self._receive, instances)

    def _receive(self, instances: Sequence[Instance]) -> "MemoryIncoming":
        needed = sum(instance.size for instance in instances)
        free = self.room - sum(len(data) for data in self.files.values())
        if needed > free:
            raise errors.StorageFull(
                f"The transfer has {needed} bytes, but the storage has room for {free}"
            )
        return MemoryIncoming(self, instances)


def _is_below(header: Header, resource: Resource) -> bool:
    ids = header.ids
    own = {
        Level.PATIENT: ids.patient,
        Level.STUDY: ids.study,
        Level.SERIES: ids.series,
        Level.INSTANCE: ids.instance,
    }
    return own[resource.level] == resource.id


@implementer(IInstanceReader)
class MemoryReader:
    """See :class:`IInstanceReader`."""

    def __init__(self, store: MemoryStore, chunks: Sequence[Chunk]) -> None:
        self._store = store
        self._chunks = chunks
        self._position = 0

    def read(self, limit: int) -> "Deferred[bytes]":
        """See :meth:`IInstanceReader.read`."""
        return execute(self._read, limit)

    def _read(self, limit: int) -> bytes:
        parts = []
        for chunk in self._chunks:
            if chunk.id not in self._store.files:
                raise errors.UnknownResource(f"Instance {chunk.id} is not here any more")
            data = self._store.files[chunk.id][chunk.offset : chunk.offset + chunk.size]
            if len(data) != chunk.size:
                raise errors.StorageFailure(f"Instance {chunk.id} is shorter than it should be")
            parts.append(data)
        block = b"".join(parts)[self._position : self._position + limit]
        self._position += len(block)
        return block

    def close(self) -> None:
        """See :meth:`IInstanceReader.close`."""


@implementer(IIncoming)
class MemoryIncoming:
    """See :class:`IIncoming`."""

    def __init__(self, store: MemoryStore, instances: Sequence[Instance]) -> None:
        self._store = store
        self._instances = instances
        self._bytes = {instance.id: bytearray(instance.size) for instance in instances}
        self._present = {instance.id: bytearray(instance.size) for instance in instances}
        self._report: CommitReport | None = None
        self._discarded = False

    def write(self, pieces: Sequence[Piece]) -> "Deferred[None]":
        """See :meth:`IIncoming.write`."""
        return execute(self._write, pieces)

    def _write(self, pieces: Sequence[Piece]) -> None:
        if self._discarded:
            raise errors.StorageFailure("What was received is discarded")
        for piece in pieces:
            end = piece.offset + len(piece.data)
            self._bytes[piece.id][piece.offset : end] = piece.data
            self._present[piece.id][piece.offset : end] = b"\1" * len(piece.data)

    def commit(self) -> "Deferred[CommitReport]":
        """See :meth:`IIncoming.commit`."""
        return execute(self._commit)

    def _commit(self) -> CommitReport:
        if self._report is not None:
            return self._report
        if self._discarded:
            raise errors.BadState("What was received is discarded: it cannot be committed")
        bad = {}
        for instance in self._instances:
            digest = hashlib.md5(self._bytes[instance.id], usedforsecurity=False).hexdigest()
            if not all(self._present[instance.id]):
                bad[instance.id] = "is incomplete"
            elif digest != instance.md5:
                bad[instance.id] = f"has MD5 {digest}, not {instance.md5}"
        if bad:
            named = "; ".join(f"{id_} {what}" for id_, what in bad.items())
            raise errors.CorruptedInstances(f"Cannot be verified: {named}", tuple(bad))
        files: dict[str, bytes] = {}
        already: list[str] = []
        for instance in self._instances:
            data = bytes(self._bytes[instance.id])
            try:
                header = read_header(BytesIO(data), len(data))
            except errors.BadDicom as error:
                raise errors.BadDicom(f"Instance {instance.id}: {error}") from None
            id_ = header.ids.instance
            there = id_ in self._store.files and not self._store.overwrite_instances
            if there or id_ in files:
                already.append(id_)
            else:
                files[id_] = data
        for data in files.values():
            self._store.add(data)
        self._report = CommitReport(tuple(files), tuple(already))
        return self._report

    def discard(self) -> "Deferred[None]":
        """See :meth:`IIncoming.discard`."""
        if self._report is None:
            self._discarded = True
            self._bytes.clear()
            self._present.clear()
        return succeed(None)
