"""How the bytes of a bucket travel: as they are, or as one gzip member (RFC 1952).

Both ways stream. Whoever calls these is in a thread of the pool. A decoder never makes more than
one byte beyond the declared size: a gzip bomb costs nothing.
"""

from typing import Any, Protocol

from isal import isal_zlib

from ..errors import BadCompression, WrongLength
from .messages import Compression

GZIP_LEVEL = 1
"""isal's levels go from 0 to 3; 1 is about as small as zlib's 3 at several times its speed."""

_GZIP = 16 + 15

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
    """For :attr:`Compression.GZIP`."""

    def __init__(self) -> None:
        self._stream = isal_zlib.compressobj(GZIP_LEVEL, isal_zlib.DEFLATED, _GZIP)

    def encode(self, data: bytes) -> bytes:
        """See :meth:`IEncoder.encode`."""
        return bytes(self._stream.compress(data))

    def finish(self) -> bytes:
        """See :meth:`IEncoder.finish`."""
        return bytes(self._stream.flush())


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
