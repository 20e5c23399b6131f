"""Instances -> buckets -> URLs (protocol, section 3), and the check of a plan made elsewhere.

Pure functions. A plan is a tuple of buckets; a bucket is a tuple of chunks; the bytes of a bucket
are those of its chunks laid end to end.
"""

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from hashlib import sha256

import attrs

from ..errors import BadMessage
from .codec import Codec, Coding

MAX_URL_LENGTH = 2000
"""Characters of the URL of a ``chunks`` request, the peer's base URL included."""

MAX_INSTANCE_SIZE = 2**62
"""Bytes; what is declared larger is refused before any arithmetic is done on it."""

_CONTENT_LENGTH = 32
"""Characters that tell a content."""

_URL_ARGUMENTS = (
    len("?offset=&size=&compression=none") + 2 * 20 + len("&level=7&content=") + _CONTENT_LENGTH
)
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


@attrs.frozen
class Cut:
    """How large buckets are made; sizes in bytes.

    :ivar target: what a bucket should have; it may have twice as many.
    :ivar parts: towards the end buckets become smaller, so that the last ones end together: one
        has at most that part of what is still to be cut. 0: all have the target.
    :ivar least: smaller ones are not made for that.
    :ivar first: what the very first has, where buckets become smaller and its instance is larger:
        so little that it has arrived, and shows progress, before a connection's window is open.
        0: as the others.
    """

    target: int
    parts: int = 0
    least: int = 1
    first: int = 0

    def at(self, left: int) -> int:
        """The target when ``left`` bytes are still to be cut."""
        if not self.parts:
            return self.target
        return min(self.target, max(self.least, left // self.parts))


def plan_buckets(
    instances: Iterable[Instance], cut: Cut, base_url_length: int | None = None
) -> Plan:
    """Cut ``instances`` into buckets, those from the target's size on first, then in order of ID.

    :param base_url_length: for pull mode, the characters of the peer's base URL: a bucket is also
        closed before its URL passes :data:`MAX_URL_LENGTH`.
    """
    ordered = sorted((i for i in instances if i.size), key=lambda instance: instance.id)
    large = [i for i in ordered if i.size >= cut.target]
    small = [i for i in ordered if i.size < cut.target]
    left = sum(instance.size for instance in ordered)
    buckets: list[Bucket] = []
    group: list[Chunk] = []
    held = 0
    ordered = [*large, *small]
    start = _first_size(ordered, cut)
    if start:
        buckets.append((Chunk(ordered[0].id, 0, start),))
        left -= start
    for instance in ordered:
        target, size = cut.at(left), instance.size - start
        if size >= target:
            if group:  # it would come last, and be the largest of the last
                buckets.append(tuple(group))
                group, held = [], 0
            buckets += [(chunk,) for chunk in _split(instance, cut, left, start)]
            left -= size
            start = 0
            continue
        if group and _is_url_full(base_url_length, len(group), len(instance.id)):
            buckets.append(tuple(group))
            group, held = [], 0
        group.append(Chunk(instance.id, start, size))
        held += size
        left -= size
        start = 0
        if held >= target:
            buckets.append(tuple(group))
            group, held = [], 0
    if group:
        buckets.append(tuple(group))
    return tuple(buckets)


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


def _first_size(ordered: Sequence[Instance], cut: Cut) -> int:
    """Bytes of the first instance that travel first, alone."""
    if not cut.parts or not ordered or ordered[0].size <= cut.first:
        return 0
    return cut.first


def _split(instance: Instance, cut: Cut, left: int, start: int) -> Iterator[Chunk]:
    """The chunks of a large instance: equal ones, or towards the end smaller and smaller ones.

    :param left: bytes that are still to be cut, this instance's among them.
    :param start: of it, the first byte that is to be cut.
    """
    if not cut.parts:
        yield from _equal(instance, cut.target)
        return
    done = start
    while done < instance.size:
        size, rest = cut.at(left - (done - start)), instance.size - done
        if rest < size * 3 // 2:
            size = rest
        yield Chunk(instance.id, done, size)
        done += size


def _equal(instance: Instance, target: int) -> Iterator[Chunk]:
    count = -(-instance.size // (2 * target)) if instance.size >= 2 * target else 1
    size = instance.size // count
    for number in range(count - 1):
        yield Chunk(instance.id, number * size, size)
    last = (count - 1) * size
    yield Chunk(instance.id, last, instance.size - last)


def _is_url_full(base: int | None, count: int, id_length: int) -> bool:
    """Whether one more identifier than ``count`` would make the URL too long."""
    if base is None:
        return False
    length = base + len(_CHUNKS_ROUTE) + (count + 1) * (id_length + 1) + _URL_ARGUMENTS
    return length > MAX_URL_LENGTH


def content_of(bucket: Bucket, instances: Mapping[str, Instance]) -> str:
    """What tells the content of a bucket's instances, as far as their MD5s do."""
    md5s = " ".join(instances[chunk.id].md5 for chunk in bucket)
    return sha256(md5s.encode()).hexdigest()[:_CONTENT_LENGTH]


def chunks_path(bucket: Bucket, coding: Coding, content: str = "") -> str:
    """The route and arguments that ask a peer for ``bucket``; the bucket is not empty.

    A level is told to a peer of ours only: others have no zstd; and so is ``content``, of
    :func:`content_of`, so that a cache on the way can never give another.
    """
    level = f"&level={coding.level}" if coding.codec is Codec.ZSTD else ""
    ids = ".".join(chunk.id for chunk in bucket)
    return (
        f"{_CHUNKS_ROUTE}{ids}?offset={bucket[0].offset}&size={bucket_size(bucket)}"
        f"&compression={coding.codec.value}{level}{f'&content={content}' if content else ''}"
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
