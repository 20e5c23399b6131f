"""The log of one staging area: what is staged, so that it is found again after a crash.

An append-only file of frames, each with its length and checksum; a torn tail is cut off. It claims,
and is not trusted: after :func:`open_log` every byte is read and compared with what is claimed, so
nothing needs to be synced in order. Blocking and thread-safe.
"""

import os
import struct
import threading
import zlib
from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import Any

import attrs
import msgspec

from ..disk import disk_error
from ..wire.identifiers import DicomIdentifiers, hash_identifiers
from ..wire.plan import Instance
from .index import Parents, Row

_FRAME = struct.Struct("<IIB")
"""Bytes of the payload, its CRC-32, its kind."""
_PIECE = struct.Struct("<IQQI")
_BLOCK = 2**20
_SEPARATE, _SHARED = 1, 2
"""Versions: each instance has a file of its own, or all share one."""
_LONGEST_FRAME = 2**30


class _Kind(IntEnum):
    HEAD = 1
    INSTANCES = 2
    NOTE = 3
    PIECE = 4
    PARENTS = 5
    ROW = 6


@attrs.frozen
class Claim:
    """Bytes that were written: of the instance at ``position``, with their CRC-32."""

    position: int
    offset: int
    size: int
    crc: int


@attrs.frozen
class Head:
    """What a staging area is; ``size`` is the bytes of all its instances.

    :ivar is_shared: whether they are in one file, one behind the other in their order.
    """

    folder: int
    path: str
    size: int
    held: tuple[int, ...]
    is_shared: bool = False


@attrs.define
class Contents:
    """What a log says.

    :ivar rows: positions of instances that were verified and whose row is in the log.
    """

    head: Head
    instances: tuple[Instance, ...]
    note: bytes
    claims: list[Claim]
    rows: set[int]


class StagingLog:
    """The log, open for appending; made by :func:`create_log` or :func:`open_log`."""

    def __init__(self, path: str, size: int, parents: dict[Parents, int]) -> None:
        self.path = path
        self._size = size
        self._has_tail = False
        self._parents = parents
        self._lock = threading.Lock()
        try:
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            os.ftruncate(self._descriptor, size)
        except OSError as error:
            raise disk_error(error, path) from error

    def append(self, claims: Iterable[Claim], rows: Iterable[tuple[int, Row]]) -> None:
        """Note bytes that were written, and instances that were verified.

        :raises StorageFull, StorageFailure: the disk refused; nothing is noted.
        """
        with self._lock:
            frames = [
                _frame(_Kind.PIECE, _PIECE.pack(c.position, c.offset, c.size, c.crc))
                for c in claims
            ]
            new: dict[Parents, int] = {}
            for position, row in rows:
                frames.extend(self._row(position, row, new))
            self._write(b"".join(frames))
            self._parents |= new

    def _row(self, position: int, row: Row, new: dict[Parents, int]) -> Iterator[bytes]:
        number = self._parents.get(row.parents, new.get(row.parents))
        if number is None:
            number = new[row.parents] = len(self._parents) + len(new)
            yield _json(_Kind.PARENTS, row.parents.chain)
        yield _json(
            _Kind.ROW,
            (position, row.id, row.uid, row.tags, row.transfer_syntax, row.sop_class, number),
        )

    def _write(self, data: bytes) -> None:
        view, offset = memoryview(data), self._size
        try:
            if self._has_tail:  # of a write that failed: whole frames of it must not come back
                os.ftruncate(self._descriptor, self._size)
                self._has_tail = False
            self._has_tail = True
            while view:
                written = os.pwrite(self._descriptor, view, offset)
                view, offset = view[written:], offset + written
            self._has_tail = False
        except OSError as error:
            raise disk_error(error, self.path) from error
        self._size = offset

    def rows(self, head: Head, instances: tuple[Instance, ...]) -> Iterator[Row]:
        """The rows of all instances that were verified, each once, up to a damage."""
        seen = bytearray(len(instances))
        chains: list[Parents] = []
        for kind, payload, _end in _frames(self.path):
            if kind == _Kind.PARENTS:
                chains.append(_parents(payload))
            elif kind == _Kind.ROW:
                position, id_, uid, tags, syntax, sop_class, number = msgspec.json.decode(payload)
                known = position < len(seen) and number < len(chains)
                # An instance is never shown below parents that are not its own.
                if known and not seen[position] and _is_below(id_, uid, chains[number]):
                    seen[position] = 1
                    instance = instances[position]
                    yield Row(
                        head.folder,
                        file_name(position),
                        instance.size,
                        instance.md5,
                        id_,
                        uid,
                        tags,
                        syntax,
                        sop_class,
                        chains[number],
                    )

    def repair(self) -> None:
        """Cut off what cannot be read, so that what is appended can be.

        :raises StorageFailure: the disk refused.
        """
        with self._lock:
            self._size = 0
            self._parents = {}
            for kind, payload, end in _frames(self.path):
                self._size = end
                if kind == _Kind.PARENTS:
                    self._parents[_parents(payload)] = len(self._parents)
            try:
                os.ftruncate(self._descriptor, self._size)
            except OSError as error:
                raise disk_error(error, self.path) from error

    def close(self) -> None:
        """Write no more; safe to call twice."""
        with self._lock:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1


SHARED_NAME = "all.dcm"
"""The name of the file that all instances of a staging area share."""


def file_name(position: int) -> str:
    """The name of the file of the instance at ``position``, in its staging folder."""
    return f"{position}.dcm"


def create_log(path: str, head: Head, instances: tuple[Instance, ...], note: bytes) -> StagingLog:
    """Make a log, whole or not at all: after a power cut it may be lost, and what is staged too.

    :raises StorageFull, StorageFailure: the disk refused.
    """
    made = f"{path}{UNFINISHED}"
    version = _SHARED if head.is_shared else _SEPARATE
    frames = (
        _json(_Kind.HEAD, (version, head.folder, head.path, head.size, head.held)),
        _json(_Kind.INSTANCES, [(i.id, i.size, i.md5) for i in instances]),
        _frame(_Kind.NOTE, note),
    )
    try:
        with open(made, "wb") as file:
            for frame in frames:
                file.write(frame)
        os.rename(made, path)
    except OSError as error:
        for name in (made, path):
            if os.path.exists(name):
                os.unlink(name)
        raise disk_error(error, path) from error
    return StagingLog(path, sum(len(frame) for frame in frames), {})


UNFINISHED = ".new"
"""The end of the name of a log that is being made."""


def read_head(path: str) -> Head | None:
    """The head of a log, if it is a whole one that this release knows."""
    for kind, payload, _end in _frames(path):
        return _head(payload) if kind == _Kind.HEAD else None
    return None


def open_log(path: str) -> tuple[StagingLog, Contents] | None:
    """Open a log again, and read it; None if it is not a whole one that this release knows.

    :raises StorageFailure: the disk refused.
    """
    head: Head | None = None
    instances: tuple[Instance, ...] | None = None
    note: bytes | None = None
    claims: list[Claim] = []
    rows: set[int] = set()
    parents: dict[Parents, int] = {}
    good = 0
    for kind, payload, end in _frames(path):
        good = end
        if kind == _Kind.PIECE:
            claims.append(Claim(*_PIECE.unpack(payload)))
        elif kind == _Kind.ROW:
            rows.add(msgspec.json.decode(payload)[0])
        elif kind == _Kind.PARENTS:
            parents[_parents(payload)] = len(parents)
        elif kind == _Kind.HEAD:
            head = _head(payload)
        elif kind == _Kind.INSTANCES:
            instances = tuple(Instance(*values) for values in msgspec.json.decode(payload))
        elif kind == _Kind.NOTE:
            note = payload
    if head is None or instances is None or note is None:
        return None
    return StagingLog(path, good, parents), Contents(head, instances, note, claims, rows)


def _is_below(id_: str, uid: str, parents: Parents) -> bool:
    patient, study, series = (link[1] for link in parents.chain)
    return hash_identifiers(DicomIdentifiers(patient, study, series, uid)).instance == id_


def _head(payload: bytes) -> Head | None:
    version, *values = msgspec.json.decode(payload)
    if version not in (_SEPARATE, _SHARED):
        return None
    folder, path, size, held = values
    return Head(folder, path, size, tuple(held), version == _SHARED)


def _parents(payload: bytes) -> Parents:
    return Parents(tuple((id_, uid, tags) for id_, uid, tags in msgspec.json.decode(payload)))


def _json(kind: _Kind, value: Any) -> bytes:
    return _frame(kind, msgspec.json.encode(value))


def _frame(kind: _Kind, payload: bytes) -> bytes:
    return _FRAME.pack(len(payload), zlib.crc32(payload, kind), kind) + payload


def _frames(path: str) -> Iterator[tuple[int, bytes, int]]:
    """Kind, payload and end of each frame, up to the first that is not whole."""
    try:
        with open(path, "rb", buffering=_BLOCK) as file:
            end = 0
            while len(start := file.read(_FRAME.size)) == _FRAME.size:
                size, crc, kind = _FRAME.unpack(start)
                payload = file.read(size) if size <= _LONGEST_FRAME else b""
                if len(payload) != size or zlib.crc32(payload, kind) != crc:
                    return
                end += _FRAME.size + size
                yield kind, payload, end
    except OSError as error:
        raise disk_error(error, path) from error
