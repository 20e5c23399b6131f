"""The messages of a push: opening it, its answer, and where it stands (protocol, section 2).

What is ours alone among them is in ``docs/protocol.md``, "What we add to a push".
"""

import re
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any

import attrs
import msgspec

from ..errors import BadMessage
from .abilities import NO_ABILITIES, Abilities, AbilitiesMessage, read_abilities
from .codec import Codec, codec_names, parse_codec, read_codecs
from .inflation import UNLIMITED, Inflation
from .messages import (
    InstanceMessage,
    OpenedMessage,
    decode,
    instance_json,
    read_instances,
    read_size,
)
from .plan import Chunk, Instance, Plan
from .ranges import from_ranges, to_ranges

MAX_CHUNKS_PER_BUCKET = 100_000

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z", re.ASCII)
_LONGEST_ERROR = 1000
_MOST_BUCKETS = 2**20
_MOST_AWAITED = 4096
"""More buckets than anybody has on their way at once."""


@attrs.frozen
class PushLimits:
    """What a push may have: instances, buckets, and chunks in all of these together.

    :ivar inflation: of a bucket.

    The names of the keys of the configuration are part of what is said.
    """

    instances: int = 2**31
    buckets: int = _MOST_BUCKETS
    chunks: int = 2**31
    inflation: Inflation = UNLIMITED

    def check(self, instances: int, buckets: int, chunks: int) -> None:
        """Refuse what has more.

        :raises BadMessage: names the limit, and both numbers.
        """
        for count, most, what, key in (
            (instances, self.instances, "instances", "MaxInstances"),
            (buckets, self.buckets, "buckets", "MaxBuckets"),
            (chunks, self.chunks, "chunks", "MaxChunks"),
        ):
            if count > most:
                raise BadMessage(f"It has {count} {what}, more than {most} ({key} in Limits here)")


UNLIMITED_PUSH = PushLimits()


@attrs.frozen
class PushExtension:
    """What is added to a push between daemons that know it (``docs/protocol.md``).

    :ivar key: a uuid that the sender chose: the same opening, repeated, finds its transaction.
    :ivar delta: whether instances that the receiver holds need not be sent.
    :ivar codecs: in which buckets may travel too, each as its PUT says.
    """

    key: str
    delta: bool
    codecs: frozenset[Codec] = frozenset()


@attrs.frozen
class PushRequest:
    """The body of ``POST /transfers/push``; its plan is not checked against its instances yet."""

    instances: tuple[Instance, ...]
    buckets: Plan
    compression: Codec
    extension: PushExtension | None = None


@attrs.frozen
class PushOpened:
    """The answer to it.

    :ivar already_stored: positions of the instances that need not be sent; None where the receiver
        does not know the extension.
    :ivar codecs: of those that were offered, the ones that the receiver takes.
    :ivar awaits: whether a commit may name buckets that are still on their way.
    :ivar abilities: what openings may be like that follow.
    """

    id: str
    path: str
    already_stored: frozenset[int] | None
    codecs: frozenset[Codec] = frozenset()
    awaits: bool = False
    abilities: Abilities = NO_ABILITIES


class PushState(Enum):
    """Where a push that is received stands; the value is how it is written."""

    RECEIVING = "Receiving"
    VERIFYING = "Verifying"
    COMMITTING = "Committing"
    COMMITTED = "Committed"


@attrs.frozen
class PushStatus:
    """The answer to ``GET /transfers/push/T`` (an extension).

    :ivar missing: numbers of buckets that must still come.
    :ivar already_stored: positions of instances that need not be sent; after the commit, that were
        there; ``different`` of instances that were there with other content and were left,
        ``replaced`` of those that were replaced.
    :ivar error: why the last commit failed.
    :ivar partial: of missing buckets, how many of their first bytes need not come again.
    :ivar received: bytes of bodies that arrived, as they travelled, in this life of the receiver;
        ``wasted`` of these, that came to nothing as their body did not come to its end.
    """

    state: PushState
    missing: frozenset[int] = frozenset()
    already_stored: frozenset[int] = frozenset()
    different: frozenset[int] = frozenset()
    replaced: frozenset[int] = frozenset()
    error: str = ""
    partial: Mapping[int, int] = {}
    received: int = 0
    wasted: int = 0

    def to_json(self) -> dict[str, Any]:
        """The value as it travels."""
        return {
            "State": self.state.value,
            "Missing": to_ranges(self.missing),
            "AlreadyStored": to_ranges(self.already_stored),
            "Different": to_ranges(self.different),
            "Replaced": to_ranges(self.replaced),
            "Error": self.error,
            "Partial": {str(number): str(size) for number, size in self.partial.items()},
            "Received": str(self.received),
            "Wasted": str(self.wasted),
        }


class _Chunk(msgspec.Struct):
    ID: str
    Offset: str
    Size: str


class ExtensionMessage(msgspec.Struct):
    """What an opening has beside the protocol's members."""

    Key: str
    Delta: bool = False
    Codecs: list[str] = []


class _Push(msgspec.Struct):
    Instances: list[InstanceMessage]
    Buckets: list[list[_Chunk]]
    Compression: str
    TxTransfers: ExtensionMessage | msgspec.UnsetType = msgspec.UNSET


class _Known(AbilitiesMessage, kw_only=True):
    AlreadyStored: list[list[int]]
    Codecs: list[str] = []
    Awaits: bool = False


class _After(msgspec.Struct):
    After: list[list[int]]


class _Commit(msgspec.Struct):
    TxTransfers: _After | msgspec.UnsetType = msgspec.UNSET


class _PushOpened(OpenedMessage):
    TxTransfers: _Known | msgspec.UnsetType = msgspec.UNSET


class _Status(msgspec.Struct):
    State: str
    Missing: list[list[int]] = []
    AlreadyStored: list[list[int]] = []
    Different: list[list[int]] = []
    Replaced: list[list[int]] = []
    Error: str = ""
    Received: str = "0"
    Wasted: str = "0"
    Partial: dict[str, str] = {}


def parse_push(body: bytes, limits: PushLimits | None = None) -> PushRequest:
    """The body of ``POST /transfers/push``. :param limits: None for none."""
    raw = decode(body, _Push)
    if limits is not None:
        limits.check(len(raw.Instances), len(raw.Buckets), sum(map(len, raw.Buckets)))
    compression = parse_codec(raw.Compression)
    check_chunks([len(bucket) for bucket in raw.Buckets])
    instances = read_instances(raw.Instances)
    names = {instance.id: instance.id for instance in instances}  # one text, not one a chunk
    return PushRequest(
        instances,
        tuple(tuple(_chunk(chunk, names) for chunk in bucket) for bucket in raw.Buckets),
        compression,
        read_extension(raw.TxTransfers),
    )


def check_chunks(lengths: Iterable[int]) -> None:
    """Refuse a bucket of too many chunks.

    :param lengths: of each bucket.
    """
    for number, length in enumerate(lengths):
        if length > MAX_CHUNKS_PER_BUCKET:
            raise BadMessage(
                f"Bucket {number} has {length} chunks, more than {MAX_CHUNKS_PER_BUCKET}"
            )


def read_extension(raw: ExtensionMessage | msgspec.UnsetType) -> PushExtension | None:
    """Check what an opening has beside the protocol's members."""
    if isinstance(raw, msgspec.UnsetType):
        return None
    if not is_transaction_id(raw.Key):
        raise BadMessage(f"TxTransfers.Key is {raw.Key[:40]!r}, not a uuid in lower case")
    return PushExtension(raw.Key, raw.Delta, read_codecs(raw.Codecs))


def is_transaction_id(text: str) -> bool:
    """Whether a text can be the identifier of a push transaction of ours: a uuid."""
    return _UUID.match(text) is not None


def parse_push_opened(body: bytes, instances: int) -> PushOpened:
    """A peer's answer to opening a push of so many instances."""
    raw = decode(body, _PushOpened)
    known = raw.TxTransfers
    if isinstance(known, msgspec.UnsetType):
        return PushOpened(raw.ID, raw.Path, None)
    already = from_ranges(known.AlreadyStored, instances, "AlreadyStored")
    return PushOpened(
        raw.ID,
        raw.Path,
        already,
        read_codecs(known.Codecs),
        known.Awaits,
        read_abilities(known),
    )


def push_opened_json(opened: PushOpened) -> dict[str, Any]:
    """Our answer to opening a push."""
    answer: dict[str, Any] = {"ID": opened.id, "Path": opened.path}
    if opened.already_stored is not None:
        answer["TxTransfers"] = {
            "AlreadyStored": to_ranges(opened.already_stored),
            "Awaits": opened.awaits,
            **opened.abilities.to_json(),
        }
        if opened.codecs:
            answer["TxTransfers"]["Codecs"] = codec_names(opened.codecs)
    return answer


def parse_push_status(body: bytes, instances: int, buckets: int) -> PushStatus:
    """A peer's answer to ``GET /transfers/push/T``, of a push of so many instances, buckets."""
    raw = decode(body, _Status)
    try:
        state = PushState(raw.State)
    except ValueError:
        raise BadMessage(f"State is {raw.State[:40]!r}") from None
    return PushStatus(
        state,
        from_ranges(raw.Missing, buckets, "Missing"),
        from_ranges(raw.AlreadyStored, instances, "AlreadyStored"),
        from_ranges(raw.Different, instances, "Different"),
        from_ranges(raw.Replaced, instances, "Replaced"),
        raw.Error[:_LONGEST_ERROR],
        {
            read_size(number, "A bucket of Partial"): read_size(size, "A size of Partial")
            for number, size in raw.Partial.items()
        },
        read_size(raw.Received, "Received"),
        read_size(raw.Wasted, "Wasted"),
    )


def commit_json(after: Iterable[int]) -> bytes:
    """The body of a commit that is to wait for these buckets."""
    return msgspec.json.encode({"TxTransfers": {"After": to_ranges(after)}})


def parse_commit(body: bytes) -> frozenset[int] | None:
    """The buckets that a commit is to wait for; None where it does not say, as the protocol's.

    What else the body is counts for nothing.
    """
    try:
        raw = decode(body, _Commit)
    except BadMessage:
        return None
    known = raw.TxTransfers
    if isinstance(known, msgspec.UnsetType):
        return None
    if sum(pair[-1] - pair[0] + 1 for pair in known.After if pair) > _MOST_AWAITED:
        raise BadMessage(f"After names more than {_MOST_AWAITED} buckets")
    return from_ranges(known.After, _MOST_BUCKETS, "After")


def push_json(
    instances: Iterable[Instance],
    plan: Plan,
    compression: Codec,
    extension: PushExtension | None = None,
) -> bytes:
    """The body that opens a push transaction."""
    return msgspec.json.encode(
        extension_json(extension)
        | {
            "Buckets": [
                [{"ID": c.id, "Offset": str(c.offset), "Size": str(c.size)} for c in bucket]
                for bucket in plan
            ],
            "Compression": compression.value,
            "Instances": [instance_json(i) for i in instances],
        }
    )


def extension_json(extension: PushExtension | None) -> dict[str, Any]:
    """The member of an opening that is ours, if any."""
    if extension is None:
        return {}
    told: dict[str, Any] = {"Key": extension.key, "Delta": extension.delta}
    if extension.codecs:
        told["Codecs"] = codec_names(extension.codecs)
    return {"TxTransfers": told}


def _chunk(raw: _Chunk, names: Mapping[str, str]) -> Chunk:
    return Chunk(
        names.get(raw.ID, raw.ID),
        read_size(raw.Offset, f"Offset of a chunk of {raw.ID}"),
        read_size(raw.Size, f"Size of a chunk of {raw.ID}"),
    )
