"""How the bytes of a bucket travel: as they are, as one gzip member (RFC 1952), or in zstd.

All stream. Whoever calls these is in a thread of the pool. A decoder never makes more than
one byte beyond the declared size: a gzip bomb costs nothing.
"""

import struct
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from isal import isal_zlib

from ..errors import BadCompression, WrongLength
from .codec import GZIP_LEVEL, STORED, Codec, Coding
from .zstd_frames import ZstdDecoder, ZstdEncoder

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

    @property
    def has_more(self) -> bool:
        """Whether :meth:`decode` is to be called again, without data, before more is handed over.

        Little that travels can become very much: it is made piece by piece.

        :raises WrongLength, BadCompression: as :meth:`decode`.
        """

    def decode(self, data: bytes) -> bytes:
        """The next bytes of the bucket; may be empty.

        :raises WrongLength: more bytes than declared.
        :raises BadCompression: not what the codec makes, or damaged.
        """

    def finish(self) -> None:
        """Nothing more travels.

        :raises WrongLength: fewer bytes than declared.
        :raises BadCompression: what came is truncated.
        """


class IdentityEncoder:
    """For :attr:`Codec.NONE`."""

    def encode(self, data: bytes) -> bytes:
        """See :meth:`IEncoder.encode`."""
        return data

    def finish(self) -> bytes:
        """See :meth:`IEncoder.finish`."""
        return b""


class GzipEncoder:
    """For :attr:`Codec.GZIP`: one member, in which what does not shrink is *stored*.

    A slice of compressed pixels costs a look at a sample of it, and its checksum.
    """

    def __init__(self, level: int = GZIP_LEVEL) -> None:
        """:param level: :data:`STORED`: everything is."""
        self._stores = level == STORED
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
        if not self._stores and shrinks(data):
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
    """For :attr:`Codec.NONE`."""

    has_more = False

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
    """For :attr:`Codec.GZIP`: one member; bytes after it are ignored, as stock does."""

    has_more = False

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


def encoder(coding: Coding) -> IEncoder:
    """A new encoder for one bucket."""
    if coding.codec is Codec.GZIP:
        return GzipEncoder(coding.level)
    return ZstdEncoder(coding.level) if coding.codec is Codec.ZSTD else IdentityEncoder()


_DECODERS: Mapping[Codec, Callable[[int], IDecoder]] = {
    Codec.NONE: IdentityDecoder,
    Codec.GZIP: GzipDecoder,
    Codec.ZSTD: ZstdDecoder,
}


def decoder(codec: Codec, size: int) -> IDecoder:
    """A new decoder for one bucket of ``size`` bytes."""
    return _DECODERS[codec](size)
