"""A store that lives in memory: for tests of everything above, and for trying things out.

Keeps the same contract as the embedded store; the suite in ``tests/contract`` runs on both.
"""

import hashlib
import time
from collections.abc import Mapping, Sequence
from io import BytesIO
from uuid import uuid4

from twisted.internet.defer import Deferred, execute, fail, succeed
from zope.interface import implementer

from .. import errors
from ..wire.messages import Level, Resource
from ..wire.plan import Bucket, Chunk, Instance, Plan
from .dicom import Header, read_header
from .interfaces import (
    CommitReport,
    IIncoming,
    IInstanceReader,
    IInstanceStore,
    Outcome,
    Piece,
    Staged,
)


@implementer(IInstanceStore)
class MemoryStore:
    """See :class:`IInstanceStore`.

    :param room: bytes that fit.
    """

    def __init__(self, overwrite_instances: bool = False, room: int = 2**30) -> None:
        self.overwrite_instances = overwrite_instances
        self.room = room
        self.files: dict[str, bytes] = {}
        self.incoming: dict[str, MemoryIncoming] = {}
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
        return Instance(id_, len(self.files[id_]), self.md5(id_))

    def md5(self, id_: str) -> str:
        """Of an instance that is here."""
        return hashlib.md5(self.files[id_], usedforsecurity=False).hexdigest()

    def find(self, ids: Sequence[str]) -> "Deferred[Mapping[str, Instance]]":
        """See :meth:`IInstanceStore.find`."""
        return succeed({id_: self._instance(id_) for id_ in ids if id_ in self.files})

    def open(
        self, chunks: Sequence[Chunk], md5s: Mapping[str, str] | None = None
    ) -> IInstanceReader:
        """See :meth:`IInstanceStore.open`."""
        return MemoryReader(self, chunks, md5s)

    def receive(
        self, instances: Sequence[Instance], name: str = "", note: bytes = b"", delta: bool = False
    ) -> "Deferred[IIncoming]":
        """See :meth:`IInstanceStore.receive`."""
        return execute(self._receive, tuple(instances), name or str(uuid4()), note, delta)

    def _receive(
        self, instances: tuple[Instance, ...], name: str, note: bytes, delta: bool
    ) -> "MemoryIncoming":
        held = frozenset(i.id for i in instances if delta and self.holds(i))
        needed = sum(instance.size for instance in instances if instance.id not in held)
        free = self.room - sum(len(data) for data in self.files.values())
        if needed > free:
            raise errors.StorageFull(
                f"The transfer has {needed} bytes, but the storage has room for {free}"
            )
        self.incoming[name] = MemoryIncoming(self, name, instances, note, held)
        return self.incoming[name]

    def holds(self, instance: Instance) -> bool:
        """Whether an instance is here with that content."""
        return instance.id in self.files and self._instance(instance.id).md5 == instance.md5

    def reopen(self, name: str) -> "Deferred[IIncoming | None]":
        """See :meth:`IInstanceStore.reopen`."""
        found = self.incoming.get(name)
        if found is not None:
            found.is_open = True
        return succeed(found)

    def staged(self) -> "Deferred[tuple[Staged, ...]]":
        """See :meth:`IInstanceStore.staged`."""
        return succeed(
            tuple(
                Staged(i.name, sum(x.size for x in i.instances), i.last_written)
                for i in self.incoming.values()
                if not i.is_open and i.report is None
            )
        )

    def drop(self, name: str) -> "Deferred[CommitReport | None]":
        """See :meth:`IInstanceStore.drop`."""
        found = self.incoming.get(name)
        if found is None:
            return fail(errors.UnknownResource(f"Nothing is staged as {name}"))
        if found.is_open and found.report is None:
            return fail(errors.BadState(f"{name} is in use already"))
        return found.discard().addCallback(lambda _r: found.report)

    def forget_reports(self, older_than: float) -> "Deferred[None]":
        """See :meth:`IInstanceStore.forget_reports`."""
        before = time.time() - older_than
        for incoming in list(self.incoming.values()):
            if incoming.report is not None and incoming.last_written < before:
                del self.incoming[incoming.name]
        return succeed(None)


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

    def __init__(
        self, store: MemoryStore, chunks: Sequence[Chunk], md5s: Mapping[str, str] | None
    ) -> None:
        self._store = store
        self._chunks = chunks
        self._md5s = md5s or {}
        self._position = 0

    def read(self, limit: int) -> "Deferred[bytes]":
        """See :meth:`IInstanceReader.read`."""
        return execute(self._read, limit)

    def _read(self, limit: int) -> bytes:
        parts = []
        for chunk in self._chunks:
            if chunk.id not in self._store.files:
                raise errors.UnknownResource(f"Instance {chunk.id} is not here any more")
            if self._md5s.get(chunk.id, md5 := self._store.md5(chunk.id)) != md5:
                raise errors.UnknownResource(f"Instance {chunk.id} was replaced meanwhile")
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

    def __init__(
        self,
        store: MemoryStore,
        name: str,
        instances: tuple[Instance, ...],
        note: bytes,
        held: frozenset[str],
    ) -> None:
        self.name = name
        self.instances = instances
        self.note = note
        self.held = held
        self.report: CommitReport | None = None
        self.is_open = True
        self.last_written = time.time()
        self._store = store
        self._bytes = {instance.id: bytearray(instance.size) for instance in instances}
        self._present = {instance.id: bytearray(instance.size) for instance in instances}
        self._discarded = False

    def write(self, pieces: Sequence[Piece]) -> "Deferred[None]":
        """See :meth:`IIncoming.write`."""
        return execute(self._write, pieces)

    def _write(self, pieces: Sequence[Piece]) -> None:
        if self._discarded:
            raise errors.StorageFailure("What was received is discarded")
        self.last_written = time.time()
        for piece in pieces:
            end = piece.offset + len(piece.data)
            self._bytes[piece.id][piece.offset : end] = piece.data
            self._present[piece.id][piece.offset : end] = b"\1" * len(piece.data)

    def missing(self, plan: Plan) -> "Deferred[tuple[int, ...]]":
        """See :meth:`IIncoming.missing`."""
        return execute(lambda: tuple(n for n, b in enumerate(plan) if any(map(self._lacks, b))))

    def _lacks(self, chunk: Chunk) -> bool:
        present = self._present[chunk.id][chunk.offset : chunk.offset + chunk.size]
        return chunk.id not in self.held and not all(present)

    def prefix(self, bucket: Bucket) -> int:
        """See :meth:`IIncoming.prefix`."""
        size = 0
        for chunk in bucket:
            present = self._present[chunk.id][chunk.offset : chunk.offset + chunk.size]
            there = chunk.size if chunk.id in self.held else (present + b"\0").index(0)
            size += there
            if there < chunk.size:
                break
        return size

    def commit(self) -> "Deferred[CommitReport]":
        """See :meth:`IIncoming.commit`."""
        return execute(self._commit)

    def _commit(self) -> CommitReport:
        if self.report is not None:
            return self.report
        if self._discarded:
            raise errors.BadState("What was received is discarded: it cannot be committed")
        self._check_held()
        self._check_content()
        outcomes: list[Outcome] = []
        ids: list[str] = []
        files: dict[str, bytes] = {}
        for instance in self.instances:
            data = bytes(self._bytes[instance.id])
            if instance.id in self.held:
                outcome, id_ = Outcome.ALREADY_STORED, instance.id
            else:
                id_ = self._identifier(instance, data)
                outcome = self._outcome(id_, instance, files)
            if outcome in (Outcome.STORED, Outcome.REPLACED):
                files[id_] = data
            outcomes.append(outcome)
            ids.append(id_)
        for data in files.values():
            self._store.add(data)
        self.report = CommitReport(tuple(outcomes), tuple(ids))
        return self.report

    def _check_held(self) -> None:
        lost = [i.id for i in self.instances if i.id in self.held and not self._store.holds(i)]
        self.held -= frozenset(lost)
        if lost:
            raise errors.CorruptedInstances(
                f"{len(lost)} instances were deleted or replaced meanwhile", tuple(lost)
            )

    def _check_content(self) -> None:
        bad = {}
        for instance in self.instances:
            if instance.id in self.held:
                continue
            digest = hashlib.md5(self._bytes[instance.id], usedforsecurity=False).hexdigest()
            if not all(self._present[instance.id]):
                bad[instance.id] = "is incomplete"
            elif digest != instance.md5:
                bad[instance.id] = f"has MD5 {digest}, not {instance.md5}"
                self._present[instance.id] = bytearray(instance.size)
        if bad:
            named = "; ".join(f"{id_} {what}" for id_, what in bad.items())
            raise errors.CorruptedInstances(f"Cannot be verified: {named}", tuple(bad))

    def _identifier(self, instance: Instance, data: bytes) -> str:
        try:
            return read_header(BytesIO(data), len(data)).ids.instance
        except errors.BadDicom as error:
            raise errors.BadDicom(f"Instance {instance.id}: {error}") from None

    def _outcome(self, id_: str, instance: Instance, files: Mapping[str, bytes]) -> Outcome:
        if id_ in files:
            same = hashlib.md5(files[id_], usedforsecurity=False).hexdigest() == instance.md5
        elif id_ not in self._store.files:
            return Outcome.STORED
        elif self._store.overwrite_instances:
            return Outcome.REPLACED
        else:
            same = self._store.holds(Instance(id_, instance.size, instance.md5))
        return Outcome.ALREADY_STORED if same else Outcome.DIFFERENT

    def discard(self) -> "Deferred[bool]":
        """See :meth:`IIncoming.discard`."""
        if self.report is None:
            self._discarded = True
            self._bytes.clear()
            self._present.clear()
            self._store.incoming.pop(self.name, None)
        return succeed(self.report is not None)

    def close(self) -> "Deferred[None]":
        """See :meth:`IIncoming.close`."""
        self.is_open = False
        return succeed(None)
