"""Reads chunks of instances from the files of the embedded store, as one stream of bytes."""

import os
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

from twisted.internet.defer import Deferred
from zope.interface import implementer

from .. import errors
from ..disk import disk_error
from ..wire.plan import Chunk
from . import index
from .interfaces import IInstanceReader

if TYPE_CHECKING:
    from .embedded import EmbeddedStore


class ClosableReader:
    """The part of a reader that is closed at any time: what a read uses is given back after it."""

    def __init__(self) -> None:
        self.closed = False
        self._reading = False

    def fetch(self, limit: int) -> "Deferred[bytes]":
        """Read; see :meth:`IInstanceReader.read`."""
        raise NotImplementedError

    def give_back(self) -> None:
        """Give back what is open; it may be called twice."""
        raise NotImplementedError

    def read(self, limit: int) -> "Deferred[bytes]":
        """See :meth:`IInstanceReader.read`."""
        self._reading = True
        return self.fetch(limit).addBoth(self._after_read)

    def _after_read(self, result: Any) -> Any:
        self._reading = False
        if self.closed:
            self.close()
        return result

    def close(self) -> None:
        """See :meth:`IInstanceReader.close`."""
        self.closed = True
        if not self._reading:
            self.give_back()


@implementer(IInstanceReader)
class EmbeddedReader(ClosableReader):
    """See :class:`IInstanceReader`: one hop to a thread a read, however many files it covers."""

    def __init__(
        self, store: "EmbeddedStore", chunks: Sequence[Chunk], md5s: Mapping[str, str] | None
    ) -> None:
        super().__init__()
        self._md5s = md5s or {}
        self._store = store
        self._chunks = deque(chunk for chunk in chunks if chunk.size)
        self._paths: dict[str, str] | None = None
        self._file: BinaryIO | None = None
        self._done = 0

    def fetch(self, limit: int) -> "Deferred[bytes]":
        """See :meth:`IInstanceReader.read`."""
        return self._store.threads.run(self._read, limit)

    def give_back(self) -> None:
        """See :meth:`IInstanceReader.close`."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _read(self, limit: int) -> bytes:
        parts: list[bytes] = []
        left = limit
        while left and self._chunks and not self.closed:
            chunk = self._chunks[0]
            if parts and chunk.size > left:  # it is better read whole, next time
                break
            data = self._read_chunk(chunk, left)
            parts.append(data)
            left -= len(data)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _read_chunk(self, chunk: Chunk, limit: int) -> bytes:
        path = self._store.path(self._path(chunk.id))
        wanted = min(limit, chunk.size - self._done)
        try:
            if self._file is None:
                self._file = open(path, "rb", buffering=0)  # noqa: SIM115
            data = os.pread(self._file.fileno(), wanted, chunk.offset + self._done)
        except FileNotFoundError:
            raise errors.UnknownResource(f"Instance {chunk.id} was deleted meanwhile") from None
        except OSError as error:
            raise disk_error(error, path) from error
        if len(data) != wanted:
            raise errors.StorageFailure(
                f"The file {path} of instance {chunk.id} is shorter than the index says"
            )
        self._done += wanted
        if self._done == chunk.size:
            self._file.close()
            self._file, self._done = None, 0
            self._chunks.popleft()
        return data

    def _path(self, id_: str) -> str:
        if self._paths is None:
            ids = {chunk.id for chunk in self._chunks}
            found = self._store.database.read(lambda db: index.find_files(db, ids))
            for instance, _path in found.values():
                if self._md5s.get(instance.id, instance.md5) != instance.md5:
                    raise errors.UnknownResource(f"Instance {instance.id} was replaced meanwhile")
            self._paths = {key: path for key, (_instance, path) in found.items()}
        if id_ not in self._paths:
            raise errors.UnknownResource(f"Instance {id_} is not here any more")
        return self._paths[id_]
