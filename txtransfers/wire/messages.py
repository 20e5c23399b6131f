"""JSON bodies <-> frozen values (protocol, sections 2 and 4).

What comes from outside becomes a frozen, checked value here or a :class:`BadMessage` or
:class:`OutOfRange` whose text names the member. Unknown members are ignored: extensions live there.
"""

import json
import re
from collections.abc import Iterable
from enum import Enum
from typing import Any, TypeVar
from uuid import uuid4

import attrs
import msgspec

from ..errors import BadMessage, OutOfRange
from .plan import MAX_INSTANCE_SIZE, Chunk, Instance, Plan
from .relaxed_json import strip

MAX_MESSAGE_SIZE = 64 * 2**20
"""Bytes of a JSON body: a transaction of about 300,000 instances."""

MAX_CHUNKS_PER_BUCKET = 100_000
MAX_PRIORITY = 2**31 - 1

_DECIMAL = re.compile(r"\+?([0-9]{1,20})\Z", re.ASCII)
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


@attrs.frozen
class PushRequest:
    """The body of ``POST /transfers/push``; its plan is not checked against its instances yet."""

    instances: tuple[Instance, ...]
    buckets: Plan
    compression: Compression


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


class _Push(msgspec.Struct):
    Instances: list[_Instance]
    Buckets: list[list[_Chunk]]
    Compression: str


class _Transfer(msgspec.Struct):
    Resources: list[_Resource]
    Compression: str
    Peer: str
    Priority: int = 0
    Originator: str | msgspec.UnsetType = msgspec.UNSET
    SenderTransferID: str | msgspec.UnsetType = msgspec.UNSET


class _Lookup(msgspec.Struct):
    Instances: list[_Instance]
    Originator: str


class _Opened(msgspec.Struct):
    ID: str
    Path: str


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
    return PushRequest(
        _instances(raw.Instances),
        tuple(tuple(_chunk(chunk) for chunk in bucket) for bucket in raw.Buckets),
        compression,
    )


def parse_lookup_answer(body: bytes) -> LookupAnswer:
    """A peer's answer to ``/transfers/lookup``."""
    raw = decode(body, _Lookup)
    return LookupAnswer(_instances(raw.Instances), raw.Originator)


def parse_opened(body: bytes) -> tuple[str, str]:
    """A peer's ``{"ID","Path"}`` answer, to opening a push or to ``/transfers/pull``."""
    raw = decode(body, _Opened)
    return raw.ID, raw.Path


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


def push_json(instances: Iterable[Instance], plan: Plan, compression: Compression) -> bytes:
    """The body that opens a push transaction."""
    return msgspec.json.encode(
        {
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
    return msgspec.json.encode(
        {
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


def _chunk(raw: _Chunk) -> Chunk:
    return Chunk(
        raw.ID,
        _size(raw.Offset, f"Offset of a chunk of {raw.ID}"),
        _size(raw.Size, f"Size of a chunk of {raw.ID}"),
    )


def _resources(raw: list[_Resource]) -> tuple[Resource, ...]:
    return tuple(Resource(parse_level(r.Level), r.ID) for r in raw)


def _optional(value: str | msgspec.UnsetType) -> str | None:
    return None if isinstance(value, msgspec.UnsetType) else value


def _instance_json(instance: Instance) -> dict[str, str]:
    return {"ID": instance.id, "MD5": instance.md5, "Size": str(instance.size)}
