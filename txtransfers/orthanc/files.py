"""A file as the body of a request, read in threads; and a download into a file."""

import hashlib
import os
from collections.abc import Callable
from typing import Any

from ..disk import disk_error
from ..errors import StorageFailure
from ..threads import IThreads
from ..transfer.streams import Sink

_SLICE = 2**20
"""Bytes of a file that are read at once: most instances have fewer."""


class FileSlices:
    """The slices of a part of a file; see :class:`.streams.ISlices`. Opened at the first read."""

    def __init__(self, threads: IThreads, path: str, size: int, start: int) -> None:
        self._threads = threads
        self._path = path
        self._size = size
        self._start = start
        self._done = 0

    async def read(self) -> bytes:
        """See :meth:`.streams.ISlices.read`."""
        wanted = min(_SLICE, self._size - self._done)
        if not wanted:
            return b""
        offset = self._start + self._done
        data: bytes = await self._threads.run(read_at, self._path, offset, wanted)
        if len(data) != wanted:
            raise StorageFailure(f"{self._path} was cut short by somebody else")
        self._done += wanted
        return data

    def close(self) -> None:
        """See :meth:`.streams.ISlices.close`: nothing is open between two reads."""


class Download:
    """Bytes that come, into a file.

    :ivar taken: how many have come. :ivar sink: takes them.
    """

    def __init__(
        self, threads: IThreads, file: int, path: str, on_bytes: Callable[[int], None]
    ) -> None:
        """:param file: open for writing; the caller closes it.

        :param on_bytes: called with the number of bytes that have come in all. What it raises
            ends the download.
        """
        self.taken = 0
        self.sink = Sink(self._consume, self._finish)
        self._threads = threads
        self._file = file
        self._path = path
        self._on_bytes = on_bytes
        self._digest = hashlib.md5(usedforsecurity=False)

    @property
    def md5(self) -> str:
        """Of what has come."""
        return self._digest.hexdigest()

    async def _consume(self, data: bytes) -> None:
        await self._threads.run(_append, self._file, self._path, self.taken, data, self._digest)
        self.taken += len(data)
        self._on_bytes(self.taken)

    async def _finish(self) -> None:
        """All has come."""


def make_file(path: str) -> int:
    """Open a file for writing; blocking."""
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise disk_error(error, path) from error


def _append(file: int, path: str, offset: int, data: bytes, digest: Any) -> None:
    view = memoryview(data)
    try:
        while view:
            written = os.pwrite(file, view, offset)
            view, offset = view[written:], offset + written
    except OSError as error:
        raise disk_error(error, path) from error
    digest.update(data)


def read_at(path: str, offset: int, size: int) -> bytes:
    """Bytes of a file, fewer where it ends before; blocking."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.pread(file, size, offset)
        finally:
            os.close(file)
    except OSError as error:
        raise disk_error(error, path) from error
