"""A bucket in zstd: frames of a slice each, 16-bit pixels cut into their bytes before.

Of a 16-bit image one half of the bytes hardly changes and the other is noise. Laid apart
(*shuffled*), both compress better, and faster, than mixed. What helps is found slice by slice from
a small sample; what does not shrink is *stored*.

A frame is a header of 13 bytes (little endian) and a payload::

    kind (1)   0 stored, 1 zstd, 2 shuffled, then zstd
    raw (4)    bytes of the slice, 1 to 2**20
    wire (4)   bytes of the payload, 1 to raw
    crc (4)    CRC-32 of the nine bytes before and the payload

Nothing marks the end: the size of a bucket is known. Whoever calls these is in a thread.
"""

import struct
from collections.abc import Iterator
from typing import Any

from isal import isal_zlib

from ..errors import BadCompression, WrongLength
from .zstd_library import zstd

MAX_FRAME = 2**20
"""Bytes of a slice, at most: what a decoder makes, and holds, at a time."""

STORED, PLAIN, SHUFFLED = range(3)

_HEAD = struct.Struct("<BII")
_CRC = struct.Struct("<I")
_HEADER_SIZE = _HEAD.size + _CRC.size
_SAMPLE = 4 * 1024
_WORTH_IT = 0.95
"""A sample must become that much smaller, as a share of itself; so must shuffling make it."""

_AT_A_TIME = 512 * 1024
"""Bytes after which a decoder hands over what it has made."""

_OPTIONS: Any = {zstd.DecompressionParameter.window_log_max: MAX_FRAME.bit_length() - 1}


def shuffle(data: bytes | memoryview) -> bytes:
    """The bytes at even places, then those at odd ones."""
    plain = bytes(data)  # slicing bytes by steps is several times faster than slicing a view
    return plain[::2] + plain[1::2]


def unshuffle(data: bytes) -> bytes:
    """What :func:`shuffle` was given."""
    half = (len(data) + 1) // 2
    plain = bytearray(len(data))
    plain[::2] = data[:half]
    plain[1::2] = data[half:]
    return bytes(plain)


def best_kind(data: bytes) -> int:
    """How a slice becomes smallest, by samples of it.

    isal looks, as it is quicker with so little than zstd, and of the same opinion.
    """
    view = memoryview(data)
    if len(data) < 4 * _SAMPLE:
        sample = data
    else:
        starts = (len(data) // 4 & ~1, (len(data) * 3 // 4 - _SAMPLE) & ~1)
        sample = b"".join(view[start : start + _SAMPLE] for start in starts)
    plain = len(isal_zlib.compress(sample, 1))
    shuffled = len(isal_zlib.compress(shuffle(sample), 1))
    if min(plain, shuffled) >= len(sample) * _WORTH_IT:
        return STORED
    return SHUFFLED if shuffled < plain * _WORTH_IT else PLAIN


class ZstdEncoder:
    """See :class:`.codecs.IEncoder`."""

    def __init__(self, level: int) -> None:
        self._compressor = zstd.ZstdCompressor(level)

    def encode(self, data: bytes) -> bytes:
        """See :meth:`.codecs.IEncoder.encode`."""
        if len(data) <= MAX_FRAME:
            return b"".join(self._frame(data)) if data else b""
        view = memoryview(data)
        starts = range(0, len(data), MAX_FRAME)
        slices = (bytes(view[start : start + MAX_FRAME]) for start in starts)
        return b"".join(part for each in slices for part in self._frame(each))

    def _frame(self, data: bytes) -> Iterator[bytes]:
        kind, payload = best_kind(data), data
        if kind != STORED:
            payload = self._compressor.compress(
                shuffle(data) if kind == SHUFFLED else data, self._compressor.FLUSH_FRAME
            )
            if len(payload) >= len(data):
                kind, payload = STORED, data
        head = _HEAD.pack(kind, len(data), len(payload))
        yield head
        yield _CRC.pack(isal_zlib.crc32(payload, isal_zlib.crc32(head)))
        yield payload

    def finish(self) -> bytes:
        """See :meth:`.codecs.IEncoder.finish`."""
        return b""


class ZstdDecoder:
    """See :class:`.codecs.IDecoder`. Holds one frame, and makes one slice more than it returns.

    A frame that claims more than the bucket has left is refused before anything is made of it.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._taken = 0
        self._waiting = bytearray()
        self._start = 0

    @property
    def has_more(self) -> bool:
        """See :attr:`.codecs.IDecoder.has_more`."""
        return self._frame_size() is not None

    def decode(self, data: bytes) -> bytes:
        """See :meth:`.codecs.IDecoder.decode`."""
        del self._waiting[: self._start]
        self._start = 0
        self._waiting += data
        made, slices = 0, []
        while made < _AT_A_TIME and (size := self._frame_size()) is not None:
            end = self._start + size
            frame, self._start = bytes(self._waiting[self._start : end]), end
            slices.append(_open(frame))
            made += len(slices[-1])
            self._taken += len(slices[-1])
        return slices[0] if len(slices) == 1 else b"".join(slices)

    def _frame_size(self) -> int | None:
        """Bytes of the next frame; None as long as it is not there whole."""
        if len(self._waiting) - self._start < _HEAD.size:
            return None
        kind, raw, wire = _HEAD.unpack_from(self._waiting, self._start)
        if kind > SHUFFLED or not 0 < wire <= raw <= MAX_FRAME or (kind == STORED) != (wire == raw):
            raise BadCompression("The body is no sequence of zstd frames, or a damaged one")
        if self._taken + raw > self._size:
            raise WrongLength(f"More than the {self._size} bytes that were declared, inflated")
        size = _HEADER_SIZE + int(wire)
        return size if len(self._waiting) - self._start >= size else None

    def finish(self) -> None:
        """See :meth:`.codecs.IDecoder.finish`."""
        if len(self._waiting) > self._start:
            raise BadCompression("Truncated zstd input")
        if self._taken != self._size:
            raise WrongLength(f"{self._taken} bytes where {self._size} were declared")


def _open(frame: bytes) -> bytes:
    """The slice of a frame whose header is sound.

    :raises BadCompression: it is damaged, or holds another number of bytes than it claims.
    """
    kind, raw, _wire = _HEAD.unpack_from(frame)
    payload = memoryview(frame)[_HEADER_SIZE:]
    crc = isal_zlib.crc32(payload, isal_zlib.crc32(frame[: _HEAD.size]))
    if (crc,) != _CRC.unpack_from(frame, _HEAD.size):
        raise BadCompression("A zstd frame is damaged: its checksum differs")
    if kind == STORED:
        return bytes(payload)
    stream = zstd.ZstdDecompressor(options=_OPTIONS)
    try:
        data = stream.decompress(payload, raw + 1)
    except zstd.ZstdError as error:
        raise BadCompression(f"A zstd frame cannot be inflated: {error}") from None
    if len(data) != raw or not stream.eof or stream.unused_data:
        raise BadCompression(f"A zstd frame does not hold the {raw} bytes that it claims")
    return unshuffle(data) if kind == SHUFFLED else data
