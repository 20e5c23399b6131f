"""How the bytes of a bucket travel: as they are, or as one gzip member (RFC 1952).

Both ways stream. Whoever calls these is in a thread of the pool. A decoder never makes more than
one byte beyond the declared size: a gzip bomb costs nothing.
"""

import struct
from typing import Any, Protocol

from isal import isal_zlib

from ..errors import BadCompression, WrongLength
from .messages import Compression

GZIP_LEVEL = 1
"""isal's levels go from 0 to 3; 1 is about as small as zlib's 3 at several times its speed."""

_GZIP = 16 + 15
_RAW = -15
_HEADER = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
_LAST_BLOCK = b"\x03\0"
"""An empty one."""
_LONGEST_STORED = 0xFFFF
_SAMPLE = 8 * 1024
_WORTH_IT = 0.95
"""A sample must become that much smaller, as a share of itself."""

GZIP_ERROR: Any = isal_zlib.error
"""What isal raises for a stream that is no gzip, or a damaged one."""


class IEncoder(Protocol):
    """Turns the bytes of a bucket into what travels."""

    def encode(self, data: bytes) -> bytes:
        """The next bytes that travel; may be empty."""

    def finish(self) -> bytes:
        """The last bytes that travel; called once, after the last :meth:`encode`."""


class IDecoder(Protocol):
    """Turns what travels back into the bytes of a bucket of known size."""

    def decode(self, data: bytes) -> bytes:
        """The next bytes of the bucket; may be empty.

        :raises WrongLength: more bytes than declared.
        :raises BadCompression: not a gzip member, or a damaged one.
        """

    def finish(self) -> None:
        """Nothing more travels.

        :raises WrongLength: fewer bytes than declared.
        :raises BadCompression: the gzip member is truncated.
        """


class IdentityEncoder:
    """For :attr:`Compression.NONE`."""

    def encode(self, data: bytes) -> bytes:
        """See :meth:`IEncoder.encode`."""
        return data

    def finish(self) -> bytes:
        """See :meth:`IEncoder.finish`."""
        return b""


class GzipEncoder:
    """For :attr:`Compression.GZIP`: one member, in which what does not shrink is *stored*.

    A slice of compressed pixels costs a look at a sample of it, and its checksum.
    """

    def __init__(self) -> None:
        self._stream = isal_zlib.compressobj(GZIP_LEVEL, isal_zlib.DEFLATED, _RAW)
        self._header = _HEADER
        self._crc = 0
        self._size = 0

    def encode(self, data: bytes) -> bytes:
        """See :meth:`IEncoder.encode`."""
        header, self._header = self._header, b""
        self._crc = isal_zlib.crc32(data, self._crc)
        self._size += len(data)
        blocks: list[bytes | memoryview]
        if shrinks(data):
            # A full flush: no later block may refer to what is before, as blocks come between.
            blocks = [self._stream.compress(data), self._stream.flush(isal_zlib.Z_FULL_FLUSH)]
        else:
            blocks = _stored(data)
        return b"".join([header, *blocks])

    def finish(self) -> bytes:
        """See :meth:`IEncoder.finish`."""
        return self._header + _LAST_BLOCK + struct.pack("<II", self._crc, self._size % 2**32)


def shrinks(data: bytes) -> bool:
    """Whether compressing is worth it, by samples."""
    if len(data) < 4 * _SAMPLE:
        return True
    view = memoryview(data)
    starts = (len(data) // 4, len(data) * 3 // 4 - _SAMPLE)
    sample = b"".join(view[start : start + _SAMPLE] for start in starts)
    return len(isal_zlib.compress(sample, GZIP_LEVEL)) < len(sample) * _WORTH_IT


def _stored(data: bytes) -> list[bytes | memoryview]:
    """Stored blocks (RFC 1951, 3.2.4), none of them the last."""
    view = memoryview(data)
    blocks: list[bytes | memoryview] = []
    for start in range(0, len(data), _LONGEST_STORED):
        block = view[start : start + _LONGEST_STORED]
        blocks += [struct.pack("<BHH", 0, len(block), len(block) ^ 0xFFFF), block]
    return blocks


class IdentityDecoder:
    """For :attr:`Compression.NONE`."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._taken = 0

    def decode(self, data: bytes) -> bytes:
        """See :meth:`IDecoder.decode`."""
        self._taken += len(data)
        if self._taken > self._size:
            raise WrongLength(f"More than the {self._size} bytes that were declared")
        return data

    def finish(self) -> None:
        """See :meth:`IDecoder.finish`."""
        _check_end(self._taken, self._size)


class GzipDecoder:
    """For :attr:`Compression.GZIP`: one member; bytes after it are ignored, as stock does."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._taken = 0
        self._stream: Any = isal_zlib.decompressobj(_GZIP)

    def decode(self, data: bytes) -> bytes:
        """See :meth:`IDecoder.decode`."""
        if self._stream.eof or not data:
            return b""
        try:
            # One byte beyond the declared size tells a bomb from an honest member.
            out = bytes(self._stream.decompress(data, self._size - self._taken + 1))
        except GZIP_ERROR as error:
            raise BadCompression(f"The body is no valid gzip member: {error}") from None
        self._taken += len(out)
        if self._taken > self._size:
            raise WrongLength(f"More than the {self._size} bytes that were declared, inflated")
        return out

    def finish(self) -> None:
        """See :meth:`IDecoder.finish`."""
        if not self._stream.eof:
            raise BadCompression("Truncated gzip input")
        _check_end(self._taken, self._size)


def _check_end(taken: int, size: int) -> None:
    if taken != size:
        raise WrongLength(f"{taken} bytes where {size} were declared")


def encoder(compression: Compression) -> IEncoder:
    """A new encoder for one bucket."""
    return GzipEncoder() if compression is Compression.GZIP else IdentityEncoder()


def decoder(compression: Compression, size: int) -> IDecoder:
    """A new decoder for one bucket of ``size`` bytes."""
    return GzipDecoder(size) if compression is Compression.GZIP else IdentityDecoder(size)
