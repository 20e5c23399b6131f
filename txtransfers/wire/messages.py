"""JSON bodies <-> frozen values (protocol, sections 2 and 4).

What comes from outside becomes a frozen, checked value here or a :class:`BadMessage` or
:class:`OutOfRange` whose text names the member. Unknown members are ignored: extensions live there.
"""

import json
import re
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any, TypeVar
from uuid import uuid4

import attrs
import msgspec

from ..errors import BadMessage, OutOfRange
from .plan import MAX_INSTANCE_SIZE, Chunk, Instance, Plan
from .ranges import from_ranges, to_ranges
from .relaxed_json import strip

MAX_MESSAGE_SIZE = 64 * 2**20
"""Bytes of a JSON body: a transaction of about 300,000 instances."""

MAX_CHUNKS_PER_BUCKET = 100_000
MAX_PRIORITY = 2**31 - 1

_DECIMAL = re.compile(r"\+?([0-9]{1,20})\Z", re.ASCII)
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z", re.ASCII)
_LONGEST_ERROR = 1000
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_MB = 2**20
_JSON = json.JSONDecoder()

T = TypeVar("T")


class Level(Enum):
    """A level of the DICOM model; the value is how it is written."""

    PATIENT = "Patient"
    STUDY = "Study"
    SERIES = "Series"
    INSTANCE = "Instance"


_LEVELS = {
    "PATIENT": Level.PATIENT,
    "PATIENTS": Level.PATIENT,
    "STUDY": Level.STUDY,
    "STUDIES": Level.STUDY,
    "SERIES": Level.SERIES,
    "INSTANCE": Level.INSTANCE,
    "INSTANCES": Level.INSTANCE,
    "IMAGE": Level.INSTANCE,
    "IMAGES": Level.INSTANCE,
}


class Compression(Enum):
    """How buckets travel; the value is how it is written."""

    NONE = "none"
    GZIP = "gzip"


@attrs.frozen
class Resource:
    """A resource to transfer: a level, and an Orthanc identifier (or what was given as one)."""

    level: Level
    id: str

    def to_json(self) -> dict[str, str]:
        """The value as it travels."""
        return {"Level": self.level.value, "ID": self.id}


@attrs.frozen
class TransferRequest:
    """The body of ``/transfers/send`` and ``/transfers/pull``."""

    resources: tuple[Resource, ...]
    compression: Compression
    peer: str
    priority: int = 0
    originator: str | None = None
    sender_transfer_id: str | None = None
    delta: bool | None = None


@attrs.frozen
class PushExtension:
    """What is added to a push between daemons that know it (``docs/protocol.md``).

    :ivar key: a uuid that the sender chose: the same opening, repeated, finds its transaction.
    :ivar delta: whether instances that the receiver holds need not be sent.
    """

    key: str
    delta: bool


@attrs.frozen
class PushRequest:
    """The body of ``POST /transfers/push``; its plan is not checked against its instances yet."""

    instances: tuple[Instance, ...]
    buckets: Plan
    compression: Compression
    extension: PushExtension | None = None


@attrs.frozen
class PushOpened:
    """The answer to it.

    :ivar already_stored: positions of the instances that need not be sent; None where the receiver
        does not know the extension.
    """

    id: str
    path: str
    already_stored: frozenset[int] | None


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
    :ivar received: bytes of bodies that arrived, as they travelled, in this life of the receiver;
        ``broken_off`` of these, in bodies that did not come to their end.
    """

    state: PushState
    missing: frozenset[int] = frozenset()
    already_stored: frozenset[int] = frozenset()
    different: frozenset[int] = frozenset()
    replaced: frozenset[int] = frozenset()
    error: str = ""
    received: int = 0
    broken_off: int = 0

    def to_json(self) -> dict[str, Any]:
        """The value as it travels."""
        return {
            "State": self.state.value,
            "Missing": to_ranges(self.missing),
            "AlreadyStored": to_ranges(self.already_stored),
            "Different": to_ranges(self.different),
            "Replaced": to_ranges(self.replaced),
            "Error": self.error,
            "Received": str(self.received),
            "BrokenOff": str(self.broken_off),
        }


@attrs.frozen
class LookupAnswer:
    """What ``/transfers/lookup`` answers: the instances, in order of ID, and who holds them."""

    instances: tuple[Instance, ...]
    originator: str

    def to_json(self) -> dict[str, Any]:
        """The value as it travels."""
        total = sum(instance.size for instance in self.instances)
        return {
            "CountInstances": len(self.instances),
            "Instances": [_instance_json(i) for i in self.instances],
            "Originator": self.originator,
            "TotalSize": str(total),
            "TotalSizeMB": total // _MB,
        }


class _Resource(msgspec.Struct):
    Level: str
    ID: str


class _Instance(msgspec.Struct):
    ID: str
    MD5: str
    Size: str


class _Chunk(msgspec.Struct):
    ID: str
    Offset: str
    Size: str


class _Extension(msgspec.Struct):
    Key: str
    Delta: bool = False


class _Push(msgspec.Struct):
    Instances: list[_Instance]
    Buckets: list[list[_Chunk]]
    Compression: str
    TxTransfers: _Extension | msgspec.UnsetType = msgspec.UNSET


class _Transfer(msgspec.Struct):
    Resources: list[_Resource]
    Compression: str
    Peer: str
    Priority: int = 0
    Originator: str | msgspec.UnsetType = msgspec.UNSET
    SenderTransferID: str | msgspec.UnsetType = msgspec.UNSET
    Delta: bool | msgspec.UnsetType = msgspec.UNSET


class _Lookup(msgspec.Struct):
    Instances: list[_Instance]
    Originator: str


class _Opened(msgspec.Struct):
    ID: str
    Path: str


class _Known(msgspec.Struct):
    AlreadyStored: list[list[int]]


class _PushOpened(_Opened):
    TxTransfers: _Known | msgspec.UnsetType = msgspec.UNSET


class _Status(msgspec.Struct):
    State: str
    Missing: list[list[int]] = []
    AlreadyStored: list[list[int]] = []
    Different: list[list[int]] = []
    Replaced: list[list[int]] = []
    Error: str = ""
    Received: str = "0"
    BrokenOff: str = "0"


class FindRequest(msgspec.Struct):
    """The body of ``/tools/find``."""

    Level: str
    Query: dict[str, str]
    Expand: bool = False
    CaseSensitive: bool = False
    Since: int = 0
    Limit: int = 0


def decode(body: bytes, type_: type[T]) -> T:
    """Read a JSON body as ``type_``, as leniently as stock peers do.

    :raises BadMessage: no JSON, a wrong type, a member that lacks; the text names it.
    """
    try:
        return msgspec.json.decode(body, type=type_)
    except msgspec.ValidationError as error:
        raise BadMessage(f"The JSON body has another form than expected: {error}") from None
    except RecursionError:
        raise BadMessage("The JSON body is nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _decode_relaxed(body, type_)


def _decode_relaxed(body: bytes, type_: type[T]) -> T:
    """Comments, a byte order mark, trailing commas, and text after the value: stock takes them."""
    if not body:
        raise BadMessage("The body is empty where JSON is expected")
    try:
        text = strip(body.decode("utf-8-sig"))
        value, _end = _JSON.raw_decode(text.lstrip())
        json.dumps(value, ensure_ascii=False).encode()  # half a character cannot be passed on
        return msgspec.convert(value, type=type_)
    except msgspec.ValidationError as error:
        raise BadMessage(f"The JSON body has another form than expected: {error}") from None
    except RecursionError:
        raise BadMessage("The JSON body is nested too deeply") from None
    except ValueError as error:
        raise BadMessage(f"The body is not JSON: {error}") from None


def parse_resources(body: bytes) -> tuple[Resource, ...]:
    """The body of ``/transfers/lookup``: a bare array of resources."""
    return _resources(decode(body, list[_Resource]))


def parse_transfer(body: bytes) -> TransferRequest:
    """The body of ``/transfers/send`` and ``/transfers/pull``."""
    raw = decode(body, _Transfer)
    if abs(raw.Priority) > MAX_PRIORITY:
        raise OutOfRange(f"Priority {raw.Priority} is not within +-{MAX_PRIORITY}")
    return TransferRequest(
        compression=parse_compression(raw.Compression),
        resources=_resources(raw.Resources),
        peer=raw.Peer,
        priority=raw.Priority,
        originator=_optional(raw.Originator),
        sender_transfer_id=check_transfer_id(_optional(raw.SenderTransferID)),
        delta=_optional(raw.Delta),
    )


def parse_push(body: bytes) -> PushRequest:
    """The body of ``POST /transfers/push``."""
    raw = decode(body, _Push)
    compression = parse_compression(raw.Compression)
    for number, bucket in enumerate(raw.Buckets):
        if len(bucket) > MAX_CHUNKS_PER_BUCKET:
            raise BadMessage(
                f"Bucket {number} has {len(bucket)} chunks, more than {MAX_CHUNKS_PER_BUCKET}"
            )
    instances = _instances(raw.Instances)
    names = {instance.id: instance.id for instance in instances}  # one text, not one a chunk
    return PushRequest(
        instances,
        tuple(tuple(_chunk(chunk, names) for chunk in bucket) for bucket in raw.Buckets),
        compression,
        _extension(raw.TxTransfers),
    )


def _extension(raw: _Extension | msgspec.UnsetType) -> PushExtension | None:
    if isinstance(raw, msgspec.UnsetType):
        return None
    if not is_transaction_id(raw.Key):
        raise BadMessage(f"TxTransfers.Key is {raw.Key[:40]!r}, not a uuid in lower case")
    return PushExtension(raw.Key, raw.Delta)


def is_transaction_id(text: str) -> bool:
    """Whether a text can be the identifier of a push transaction of ours: a uuid."""
    return _UUID.match(text) is not None


def parse_lookup_answer(body: bytes) -> LookupAnswer:
    """A peer's answer to ``/transfers/lookup``."""
    raw = decode(body, _Lookup)
    return LookupAnswer(_instances(raw.Instances), raw.Originator)


def parse_opened(body: bytes) -> tuple[str, str]:
    """A peer's ``{"ID","Path"}`` answer, to opening a push or to ``/transfers/pull``."""
    raw = decode(body, _Opened)
    return raw.ID, raw.Path


def parse_push_opened(body: bytes, instances: int) -> PushOpened:
    """A peer's answer to opening a push of so many instances."""
    raw = decode(body, _PushOpened)
    known = raw.TxTransfers
    already = (
        None
        if isinstance(known, msgspec.UnsetType)
        else from_ranges(known.AlreadyStored, instances, "AlreadyStored")
    )
    return PushOpened(raw.ID, raw.Path, already)


def push_opened_json(id_: str, already_stored: Iterable[int] | None) -> dict[str, Any]:
    """Our answer to opening a push; None to a sender that does not know the extension."""
    answer: dict[str, Any] = {"ID": id_, "Path": f"/transfers/push/{id_}"}
    if already_stored is not None:
        answer["TxTransfers"] = {"AlreadyStored": to_ranges(already_stored)}
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
        _size(raw.Received, "Received"),
        _size(raw.BrokenOff, "BrokenOff"),
    )


def parse_compression(text: str) -> Compression:
    """Read a compression, as it is written: case matters.

    :raises OutOfRange: it is another.
    """
    try:
        return Compression(text)
    except ValueError:
        raise OutOfRange(f'Unknown compression "{text}": it is "none" or "gzip"') from None


def parse_level(text: str) -> Level:
    """Read a level without regard to case.

    :raises OutOfRange: it is another.
    """
    level = _LEVELS.get(text.upper())
    if level is None:
        raise OutOfRange(f"Invalid resource type '{text}'")
    return level


def check_transfer_id(text: str | None) -> str | None:
    """Refuse a ``SenderTransferID`` that would inject HTTP headers (protocol, section 2)."""
    if text is not None and _CONTROL.search(text):
        raise BadMessage("SenderTransferID has control characters, which a header cannot carry")
    return text


def new_transfer_id() -> str:
    """An identifier for a transfer whose sender gave none."""
    return str(uuid4())


def push_json(
    instances: Iterable[Instance],
    plan: Plan,
    compression: Compression,
    extension: PushExtension | None = None,
) -> bytes:
    """The body that opens a push transaction."""
    added = {}
    if extension is not None:
        added["TxTransfers"] = {"Key": extension.key, "Delta": extension.delta}
    return msgspec.json.encode(
        added
        | {
            "Buckets": [
                [{"ID": c.id, "Offset": str(c.offset), "Size": str(c.size)} for c in bucket]
                for bucket in plan
            ],
            "Compression": compression.value,
            "Instances": [_instance_json(i) for i in instances],
        }
    )


def pull_json(request: TransferRequest, originator: str, peer: str) -> bytes:
    """The body that asks a peer to pull from us, who are ``peer`` to it."""
    added = {} if request.delta is None else {"Delta": request.delta}
    return msgspec.json.encode(
        added
        | {
            "Compression": request.compression.value,
            "Originator": originator,
            "Peer": peer,
            "Resources": [resource.to_json() for resource in request.resources],
        }
    )


def resources_json(resources: Iterable[Resource]) -> bytes:
    """The body of a lookup."""
    return msgspec.json.encode([resource.to_json() for resource in resources])


def parse_decimal(text: str) -> int:
    """Read a decimal string of this protocol; a sign ``+`` and leading zeros are allowed.

    :raises ValueError: it is none, or beyond 64 bits.
    """
    match = _DECIMAL.match(text)
    if match is None or int(match[1]) >= 2**64:
        raise ValueError(f'"{text}" is not a decimal number')
    return int(match[1])


def _size(text: str, what: str) -> int:
    try:
        value = parse_decimal(text)
    except ValueError:
        raise BadMessage(f'{what} is "{text[:40]}", not a decimal number') from None
    if value > MAX_INSTANCE_SIZE:
        raise BadMessage(f"{what} is {value}, more than {MAX_INSTANCE_SIZE}")
    return value


def _instances(raw: list[_Instance]) -> tuple[Instance, ...]:
    return tuple(Instance(i.ID, _size(i.Size, f"Size of instance {i.ID}"), i.MD5) for i in raw)


def _chunk(raw: _Chunk, names: Mapping[str, str]) -> Chunk:
    return Chunk(
        names.get(raw.ID, raw.ID),
        _size(raw.Offset, f"Offset of a chunk of {raw.ID}"),
        _size(raw.Size, f"Size of a chunk of {raw.ID}"),
    )


def _resources(raw: list[_Resource]) -> tuple[Resource, ...]:
    return tuple(Resource(parse_level(r.Level), r.ID) for r in raw)


def _optional(value: T | msgspec.UnsetType) -> T | None:
    return None if isinstance(value, msgspec.UnsetType) else value


def _instance_json(instance: Instance) -> dict[str, str]:
    return {"ID": instance.id, "MD5": instance.md5, "Size": str(instance.size)}
