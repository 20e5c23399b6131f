"""Instances -> buckets -> URLs (protocol, section 3), and the check of a plan made elsewhere.

Pure functions. A plan is a tuple of buckets; a bucket is a tuple of chunks; the bytes of a bucket
are those of its chunks laid end to end.
"""

from collections.abc import Container, Iterable, Sequence

import attrs

from ..errors import BadMessage
from .codec import Codec, Coding

MAX_URL_LENGTH = 2000
"""Characters of the URL of a ``chunks`` request, the peer's base URL included."""

MAX_INSTANCE_SIZE = 2**62
"""Bytes; what is declared larger is refused before any arithmetic is done on it."""

_URL_ARGUMENTS = len("?offset=&size=&compression=none") + 2 * 20
_CHUNKS_ROUTE = "/transfers/chunks/"


@attrs.frozen
class Instance:
    """One DICOM file as it travels: Orthanc identifier, size in bytes, MD5 in lower-case hex."""

    id: str
    size: int
    md5: str


@attrs.frozen
class Chunk:
    """A byte range of one instance."""

    id: str
    offset: int
    size: int


Bucket = tuple[Chunk, ...]
Plan = tuple[Bucket, ...]


def bucket_size(bucket: Bucket) -> int:
    """Bytes of a bucket before compression."""
    return sum(chunk.size for chunk in bucket)


def plan_buckets(
    instances: Iterable[Instance], target: int, base_url_length: int | None = None
) -> Plan:
    """Cut ``instances`` into buckets of about ``target`` bytes.

    :param base_url_length: for pull mode, the characters of the peer's base URL: a bucket is also
        closed before its URL passes :data:`MAX_URL_LENGTH`.
    """
    ordered = sorted(instances, key=lambda instance: instance.id)
    large = [i for i in ordered if i.size >= target]
    small = [i for i in ordered if 0 < i.size < target]
    split = [(chunk,) for instance in large for chunk in _split(instance, target)]
    return (*split, *_group(small, target, base_url_length))


def without(plan: Plan, held: Container[str]) -> Plan:
    """What is left of each bucket, in its place, when the chunks of some instances are not sent."""
    return tuple(tuple(chunk for chunk in bucket if chunk.id not in held) for bucket in plan)


def rest_of(bucket: Bucket, offset: int) -> Bucket:
    """What is left of a bucket behind its first ``offset`` bytes."""
    rest: list[Chunk] = []
    for chunk in bucket:
        if offset >= chunk.size:
            offset -= chunk.size
            continue
        rest.append(Chunk(chunk.id, chunk.offset + offset, chunk.size - offset))
        offset = 0
    return tuple(rest)


def _split(instance: Instance, target: int) -> list[Chunk]:
    if instance.size < 2 * target:
        return [Chunk(instance.id, 0, instance.size)]
    count = -(-instance.size // (2 * target))
    size = instance.size // count
    chunks = [Chunk(instance.id, n * size, size) for n in range(count - 1)]
    last = (count - 1) * size
    return [*chunks, Chunk(instance.id, last, instance.size - last)]


def _group(small: Sequence[Instance], target: int, base_url_length: int | None) -> list[Bucket]:
    buckets: list[Bucket] = []
    current: list[Chunk] = []
    held = 0
    for instance in small:
        if current and _is_url_full(base_url_length, len(current), len(instance.id)):
            buckets.append(tuple(current))
            current, held = [], 0
        current.append(Chunk(instance.id, 0, instance.size))
        held += instance.size
        if held >= target:
            buckets.append(tuple(current))
            current, held = [], 0
    if current:
        buckets.append(tuple(current))
    return buckets


def _is_url_full(base: int | None, count: int, id_length: int) -> bool:
    """Whether one more identifier than ``count`` would make the URL too long."""
    if base is None:
        return False
    length = base + len(_CHUNKS_ROUTE) + (count + 1) * (id_length + 1) + _URL_ARGUMENTS
    return length > MAX_URL_LENGTH


def chunks_path(bucket: Bucket, coding: Coding) -> str:
    """The route and arguments that ask a peer for ``bucket``; the bucket is not empty.

    A level is told to a peer of ours only: others have no zstd.
    """
    level = f"&level={coding.level}" if coding.codec is Codec.ZSTD else ""
    ids = ".".join(chunk.id for chunk in bucket)
    return (
        f"{_CHUNKS_ROUTE}{ids}?offset={bucket[0].offset}&size={bucket_size(bucket)}"
        f"&compression={coding.codec.value}{level}"
    )


def check_plan(instances: Sequence[Instance], plan: Plan) -> None:
    """Check a plan that a peer declares: every byte of every instance in exactly one bucket.

    :raises BadMessage: names the first instance that is listed twice, not listed, overrun,
        overlapped or not covered.
    """
    sizes: dict[str, int] = {}
    for instance in instances:
        if instance.id in sizes:
            raise BadMessage(f"Instance {instance.id} is listed twice in Instances")
        sizes[instance.id] = instance.size
    ranges: dict[str, list[tuple[int, int]]] = {}
    for number, bucket in enumerate(plan):
        for chunk in bucket:
            _check_chunk(number, chunk, sizes)
            if chunk.size:
                ranges.setdefault(chunk.id, []).append((chunk.offset, chunk.size))
    for instance in instances:
        _check_coverage(instance, ranges.get(instance.id, []))


def _check_chunk(number: int, chunk: Chunk, sizes: dict[str, int]) -> None:
    size = sizes.get(chunk.id)
    if size is None:
        raise BadMessage(
            f"Bucket {number} has a chunk of instance {chunk.id}, which Instances does not list"
        )
    if chunk.offset + chunk.size > size:
        raise BadMessage(
            f"Bucket {number} has a chunk of instance {chunk.id} that ends at byte "
            f"{chunk.offset + chunk.size}, but the instance has {size} bytes"
        )


def _check_coverage(instance: Instance, ranges: list[tuple[int, int]]) -> None:
    end = 0
    for offset, size in sorted(ranges):
        if offset < end:
            raise BadMessage(
                f"Two chunks of instance {instance.id} overlap: one ends at byte {end}, "
                f"another begins at byte {offset}"
            )
        if offset > end:
            break
        end = offset + size
    if end < instance.size:
        raise BadMessage(
            f"Byte {end} of instance {instance.id} ({instance.size} bytes) is in no bucket"
        )
