"""The two messages that grow with the number of instances, packed to a fifth of their JSON.

On a long link a new connection carries 14 KB in its first round trip and twice as much in each that
follows: the JSON of 500 instances takes four, packed two. It is ours alone (``docs/protocol.md``).

A message is one zstd stream of::

    size (4)                  bytes of the head; all numbers are little endian
    head                      JSON: the message without its lists, of which it has the lengths
    ids (20), md5s (16)       of each instance, as bytes
    sizes (8)                 of each instance
    chunks (4)                of each bucket, how many it has
    instance (4)              of each chunk: position of its instance
    offset (8), size (8)      of each chunk

each line for all before the next; a lookup's answer ends after the sizes. Whoever calls these is in
a thread.
"""

import re
import struct
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import msgspec

from ..errors import BadMessage
from .codec import parse_codec
from .identifiers import is_identifier
from .messages import LookupAnswer, LookupHead, decode, lookup_answer, lookup_head
from .plan import MAX_INSTANCE_SIZE, Chunk, Instance
from .pushes import (
    ExtensionMessage,
    PushLimits,
    PushRequest,
    check_chunks,
    extension_json,
    read_extension,
)
from .zstd_library import zstd

PACKED = "application/vnd.txtransfers.packed"
"""The type of what is packed, in ``Content-Type``, and of a lookup in ``Accept``."""

LARGEST = 16 * 2**20
"""Bytes, before compression: about 300,000 instances. What is larger travels as JSON."""

_FREE = 2**20
_RATIO = 32
"""Times its size that a message may become, beyond what is free. Identifiers and MD5s are noise."""

_LEVEL = 3
_OPTIONS: Any = {zstd.DecompressionParameter.window_log_max: LARGEST.bit_length() - 1}

_SIZE = struct.Struct("<I")
_ID, _MD5 = 20, 16
_U32, _U64 = "I", "Q"
_BYTES = {_U32: 4, _U64: 8}
_HEX = re.compile(r"[0-9a-f]{32}\Z")


class _PushHead(msgspec.Struct):
    Instances: int
    Buckets: int
    Chunks: int
    Compression: str
    TxTransfers: ExtensionMessage | msgspec.UnsetType = msgspec.UNSET


class _LookupHead(LookupHead):
    Instances: int


def pack_push(request: PushRequest) -> bytes | None:
    """The body that opens a push; None where it cannot be packed."""
    positions = {instance.id: n for n, instance in enumerate(request.instances)}
    chunks = [chunk for bucket in request.buckets for chunk in bucket]
    head = extension_json(request.extension) | {
        "Instances": len(request.instances),
        "Buckets": len(request.buckets),
        "Chunks": len(chunks),
        "Compression": request.compression.value,
    }
    return _pack(
        head,
        request.instances,
        _column(_U32, [len(bucket) for bucket in request.buckets]),
        _column(_U32, [positions[chunk.id] for chunk in chunks]),
        _column(_U64, [chunk.offset for chunk in chunks]),
        _column(_U64, [chunk.size for chunk in chunks]),
    )


def parse_packed_push(body: bytes, limits: PushLimits | None = None) -> PushRequest:
    """What :func:`pack_push` made, from outside. :param limits: None for none."""
    reader = _Reader(body)
    head = decode(reader.head, _PushHead)
    reader.expect(head.Instances, head.Buckets, head.Chunks)
    if limits is not None:
        limits.check(head.Instances, head.Buckets, head.Chunks)
    compression = parse_codec(head.Compression)
    instances = reader.instances(head.Instances)
    lengths = reader.numbers(_U32, head.Buckets)
    if sum(lengths) != head.Chunks:
        raise BadMessage(f"Its buckets have {sum(lengths)} chunks, not {head.Chunks}")
    check_chunks(lengths)
    chunks = _chunks(
        instances,
        reader.numbers(_U32, head.Chunks),
        reader.numbers(_U64, head.Chunks),
        reader.numbers(_U64, head.Chunks),
    )
    plan = tuple(tuple(islice(chunks, length)) for length in lengths)
    return PushRequest(instances, plan, compression, read_extension(head.TxTransfers))


def pack_lookup(answer: LookupAnswer) -> bytes | None:
    """The answer to a lookup; None where it cannot be packed."""
    head = lookup_head(answer) | {"Instances": len(answer.instances)}
    return _pack(head, answer.instances)


def parse_packed_lookup(body: bytes) -> LookupAnswer:
    """What :func:`pack_lookup` made, from outside."""
    reader = _Reader(body)
    head = decode(reader.head, _LookupHead)
    reader.expect(head.Instances)
    return lookup_answer(head, reader.instances(head.Instances))


# Packing


def _pack(head: dict[str, Any], instances: Sequence[Instance], *columns: bytes) -> bytes | None:
    if not all(is_identifier(i.id) and _HEX.match(i.md5) for i in instances):
        return None
    told = msgspec.json.encode(head)
    ids = bytes.fromhex("".join(i.id for i in instances).replace("-", ""))
    md5s = bytes.fromhex("".join(i.md5 for i in instances))
    sizes = _column(_U64, [i.size for i in instances])
    data = b"".join((_SIZE.pack(len(told)), told, ids, md5s, sizes, *columns))
    return zstd.compress(data, _LEVEL) if len(data) <= LARGEST else None


def _column(kind: str, numbers: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(numbers)}{kind}", *numbers)


# Reading


class _Reader:
    """The parts of a message, one after the other.

    :raises BadMessage: it is none, or would be too large.
    """

    def __init__(self, body: bytes) -> None:
        most = min(LARGEST, _FREE + _RATIO * len(body))
        stream = zstd.ZstdDecompressor(options=_OPTIONS)
        try:
            self._data = memoryview(stream.decompress(body, most + 1))
        except zstd.ZstdError as error:
            raise BadMessage(f"The packed body cannot be inflated: {error}") from None
        if len(self._data) > most:
            raise BadMessage(f"The packed body of {len(body)} bytes becomes more than {most}")
        if not stream.eof or stream.unused_data:
            raise BadMessage("The packed body is cut short, or more than one")
        self._at = 0
        (size,) = _SIZE.unpack(self._take(_SIZE.size))
        self.head = bytes(self._take(size))

    def _take(self, size: int) -> memoryview:
        part = self._data[self._at : self._at + size]
        if len(part) != size:
            raise BadMessage(f"The packed body has {len(self._data)} bytes, too few")
        self._at += size
        return part

    def expect(self, instances: int, buckets: int = 0, chunks: int = 0) -> None:
        """Refuse it unless its lists have these lengths."""
        if min(instances, buckets, chunks) < 0:
            raise BadMessage("The packed body has a length below 0")
        wanted = (_ID + _MD5 + 8) * instances + 4 * buckets + (4 + 8 + 8) * chunks
        if len(self._data) - self._at != wanted:
            raise BadMessage(
                f"The packed body has {len(self._data) - self._at} bytes of lists, not {wanted}"
            )

    def instances(self, count: int) -> tuple[Instance, ...]:
        """The instances."""
        ids, md5s = self._take(_ID * count), self._take(_MD5 * count)
        sizes = self.numbers(_U64, count)
        if count and max(sizes) > MAX_INSTANCE_SIZE:
            raise BadMessage(f"An instance has {max(sizes)} bytes, more than {MAX_INSTANCE_SIZE}")
        return tuple(
            Instance(
                ids[_ID * n : _ID * (n + 1)].hex("-", 4),
                sizes[n],
                md5s[_MD5 * n : _MD5 * (n + 1)].hex(),
            )
            for n in range(count)
        )

    def numbers(self, kind: str, count: int) -> tuple[int, ...]:
        """A column of numbers."""
        return struct.unpack(f"<{count}{kind}", self._take(count * _BYTES[kind]))


def _chunks(
    instances: Sequence[Instance],
    positions: Sequence[int],
    offsets: Sequence[int],
    sizes: Sequence[int],
) -> Iterator[Chunk]:
    if max(positions, default=-1) >= len(instances):
        raise BadMessage(f"A chunk is of instance {max(positions)}, of {len(instances)}")
    largest = max(max(offsets, default=0), max(sizes, default=0))
    if largest > MAX_INSTANCE_SIZE:
        raise BadMessage(f"A chunk has the offset or size {largest}, over {MAX_INSTANCE_SIZE}")
    for position, offset, size in zip(positions, offsets, sizes, strict=True):
        yield Chunk(instances[position].id, offset, size)
