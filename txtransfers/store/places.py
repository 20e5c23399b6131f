"""Where the bytes of one staged instance are: in a file of its own, or in one that all share.

A file of its own can stay where it is when it is shown. What only passes through is in one file: to
make and remove many costs more than to write them. Blocking; errors are the system's.
"""

import io
import os
from typing import BinaryIO, cast

import attrs


@attrs.frozen
class Place:
    """See the module.

    :ivar start: where in the file the instance begins. :ivar is_shared: whether others have it,
        too: then it is there.
    """

    path: str
    start: int = 0
    is_shared: bool = False

    def write(self, offset: int, data: memoryview | bytes, is_new: bool) -> None:
        """Write bytes of the instance.

        :param is_new: whether its file is to be made; one that is gone is not made again.
        """
        flags = os.O_WRONLY | os.O_CREAT if is_new else os.O_WRONLY
        descriptor = os.open(self.path, flags | os.O_CLOEXEC, 0o640)
        try:
            view, offset = memoryview(data), self.start + offset
            while view:
                written = os.pwrite(descriptor, view, offset)
                view, offset = view[written:], offset + written
        finally:
            os.close(descriptor)

    def read(self, offset: int, size: int) -> bytes:
        """Bytes of the instance, fewer where the file ends before."""
        descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.pread(descriptor, size, self.start + offset)
        finally:
            os.close(descriptor)

    def open(self, size: int) -> BinaryIO:
        """The instance of ``size`` bytes as a file to be read."""
        return cast(BinaryIO, io.BufferedReader(_Section(self, size)))


class _Section(io.RawIOBase):
    """A part of a file as a file."""

    def __init__(self, place: Place, size: int) -> None:
        self._descriptor = os.open(place.path, os.O_RDONLY | os.O_CLOEXEC)
        self._start = place.start
        self._size = size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: "memoryview") -> int:  # type: ignore[override]
        wanted = max(0, min(len(buffer), self._size - self._position))
        read = os.preadv(
            self._descriptor, [memoryview(buffer)[:wanted]], self._start + self._position
        )
        self._position += read
        return read

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()
