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
from .codec import Codec, codec_names, read_codecs
from .plan import MAX_INSTANCE_SIZE, Instance
from .relaxed_json import strip

MAX_MESSAGE_SIZE = 64 * 2**20
"""Bytes of a JSON body: a transaction of about 300,000 instances."""

MAX_PRIORITY = 2**31 - 1

_MOST_ARRAYS = 2**20 + 2**16
"""Arrays in a body: an empty one of 3 bytes takes 64 of memory. A bucket of a push is one."""

_LARGEST_RELAXED = 8 * 2**20
"""Bytes of a body up to which it is read leniently; all of it is kept in memory then."""

_DECIMAL = re.compile(r"\+?([0-9]{1,20})\Z", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_LONGEST_DESCRIPTION = 200
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
    """What is wished of a transfer; the value is how it is written.

    ``AUTO`` is ours alone: the sender, or who pulls, chooses a codec by what the link is like.
    """

    NONE = "none"
    GZIP = "gzip"
    AUTO = "auto"


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
    """The body of ``/transfers/send`` and ``/transfers/pull``.

    :ivar wants_job: whether who sends it looks for a job here, whoever moves the bytes.
    :ivar description: what it is, for people: a patient's name, for instance.
    """

    resources: tuple[Resource, ...]
    compression: Compression
    peer: str
    priority: int = 0
    originator: str | None = None
    sender_transfer_id: str | None = None
    delta: bool | None = None
    wants_job: bool = False
    description: str | None = None


@attrs.frozen
class LookupAnswer:
    """What ``/transfers/lookup`` answers: the instances, in order of ID, and who holds them.

    :ivar codecs: what ``chunks`` can be had in beside none and gzip; told who asks for it only,
        by those who know that (else None).
    """

    instances: tuple[Instance, ...]
    originator: str
    codecs: frozenset[Codec] | None = None

    def to_json(self) -> dict[str, Any]:
        """The value as it travels."""
        total = sum(instance.size for instance in self.instances)
        return lookup_head(self) | {
            "CountInstances": len(self.instances),
            "Instances": [instance_json(i) for i in self.instances],
            "TotalSize": str(total),
            "TotalSizeMB": total // _MB,
        }


class _Resource(msgspec.Struct):
    Level: str
    ID: str


class InstanceMessage(msgspec.Struct):
    """An instance as it travels."""

    ID: str
    MD5: str
    Size: str


class _Wish(msgspec.Struct):
    Compression: str | msgspec.UnsetType = msgspec.UNSET


class _Transfer(msgspec.Struct):
    Resources: list[_Resource]
    Compression: str
    Peer: str
    Priority: int = 0
    Originator: str | msgspec.UnsetType = msgspec.UNSET
    SenderTransferID: str | msgspec.UnsetType = msgspec.UNSET
    Delta: bool | msgspec.UnsetType = msgspec.UNSET
    Synchronous: Any = msgspec.UNSET
    Asynchronous: Any = msgspec.UNSET
    Description: str | msgspec.UnsetType = msgspec.UNSET
    TxTransfers: _Wish | msgspec.UnsetType = msgspec.UNSET


class _Codecs(msgspec.Struct):
    Codecs: list[str] = []


class LookupHead(msgspec.Struct, kw_only=True):
    """The answer to a lookup, without its instances."""

    Originator: str
    TxTransfers: _Codecs | msgspec.UnsetType = msgspec.UNSET


class _Lookup(LookupHead, kw_only=True):
    Instances: list[InstanceMessage]


class OpenedMessage(msgspec.Struct):
    """An answer that names a job, or a transaction."""

    ID: str
    Path: str


class OrderMessage(msgspec.Struct):
    """One criterion of ``OrderBy``."""

    Type: str
    Key: str
    Direction: str


class FindRequest(msgspec.Struct):
    """The body of ``/tools/find``, and of ``/tools/count-resources``."""

    Level: str
    Query: dict[str, str]
    Expand: bool = False
    CaseSensitive: bool = False
    Since: int = 0
    Limit: int = 0
    OrderBy: list[OrderMessage] = []
    RequestedTags: list[str] = []
    ResponseContent: list[str] | None = None
    ParentPatient: str = ""
    ParentStudy: str = ""
    ParentSeries: str = ""


def decode(body: bytes, type_: type[T]) -> T:
    """Read a JSON body as ``type_``, as leniently as stock peers do.

    :raises BadMessage: no JSON, a wrong type, a member that lacks; the text names it.
    """
    if len(body) > _MOST_ARRAYS and body.count(b"[") > _MOST_ARRAYS:
        raise BadMessage(f"The JSON body has more than {_MOST_ARRAYS} arrays")
    try:
        return msgspec.json.decode(body, type=type_)
    except msgspec.ValidationError as error:
        raise BadMessage(f"The JSON body has another form than expected: {error}") from None
    except RecursionError:
        raise BadMessage("The JSON body is nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        if len(body) > _LARGEST_RELAXED:
            raise BadMessage(
                f"The body is not JSON as RFC 8259 has it: of more than {_LARGEST_RELAXED} bytes"
                " nothing else is read"
            ) from None
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
    compression = parse_compression(raw.Compression)
    wish = _optional(raw.TxTransfers)
    if wish is not None and not isinstance(wish.Compression, msgspec.UnsetType):
        compression = parse_compression(wish.Compression)
    return TransferRequest(
        compression=compression,
        resources=_resources(raw.Resources),
        peer=raw.Peer,
        priority=check_priority(raw.Priority),
        originator=_optional(raw.Originator),
        sender_transfer_id=check_transfer_id(_optional(raw.SenderTransferID)),
        delta=_optional(raw.Delta),
        wants_job=any(way is not msgspec.UNSET for way in (raw.Synchronous, raw.Asynchronous)),
        description=shorten_description(_optional(raw.Description)),
    )


def parse_lookup_answer(body: bytes) -> LookupAnswer:
    """A peer's answer to ``/transfers/lookup``."""
    raw = decode(body, _Lookup)
    return lookup_answer(raw, read_instances(raw.Instances))


def lookup_answer(head: LookupHead, instances: tuple[Instance, ...]) -> LookupAnswer:
    """A peer's answer to a lookup, from its parts."""
    added = _optional(head.TxTransfers)
    codecs = read_codecs(added.Codecs) if added is not None else None
    return LookupAnswer(instances, head.Originator, codecs)


def lookup_head(answer: LookupAnswer) -> dict[str, Any]:
    """Those members of an answer that do not grow with its instances."""
    head: dict[str, Any] = {"Originator": answer.originator}
    if answer.codecs is not None:
        head["TxTransfers"] = {"Codecs": codec_names(answer.codecs)}
    return head


def parse_opened(body: bytes) -> tuple[str, str]:
    """A peer's ``{"ID","Path"}`` answer, to opening a push or to ``/transfers/pull``."""
    raw = decode(body, OpenedMessage)
    return raw.ID, raw.Path


def parse_object(body: bytes) -> dict[str, Any]:
    """Any JSON object."""
    return decode(body, dict[str, Any])


def check_priority(priority: int) -> int:
    """Refuse a priority that is too high or too low.

    :raises OutOfRange: it is.
    """
    if abs(priority) > MAX_PRIORITY:
        raise OutOfRange(f"Priority {priority} is not within +-{MAX_PRIORITY}")
    return priority


def parse_compression(text: str) -> Compression:
    """Read a compression, as it is written: case matters.

    :raises OutOfRange: it is another.
    """
    try:
        return Compression(text)
    except ValueError:
        raise OutOfRange(
            f'Unknown compression "{text[:40]}": it is "none", "gzip" or "auto"'
        ) from None


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


def shorten_description(text: str | None) -> str | None:
    """What people read in a list: one line, not too long."""
    return _CONTROL.sub(" ", text)[:_LONGEST_DESCRIPTION].strip() or None if text else None


def new_transfer_id() -> str:
    """An identifier for a transfer whose sender gave none."""
    return str(uuid4())


def pull_json(request: TransferRequest, originator: str, peer: str) -> bytes:
    """The body that asks a peer to pull from us, who are ``peer`` to it.

    A stock peer knows no "auto": it reads "gzip", and ignores the member that says more.
    """
    added: dict[str, Any] = {} if request.delta is None else {"Delta": request.delta}
    compression = request.compression
    if compression is Compression.AUTO:
        added["TxTransfers"] = {"Compression": compression.value}
        compression = Compression.GZIP
    return msgspec.json.encode(
        added
        | {
            "Compression": compression.value,
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


def read_size(text: str, what: str) -> int:
    """Read a size in bytes.

    :raises BadMessage: it is none, or beyond any instance's; the text names ``what``.
    """
    try:
        value = parse_decimal(text)
    except ValueError:
        raise BadMessage(f'{what} is "{text[:40]}", not a decimal number') from None
    if value > MAX_INSTANCE_SIZE:
        raise BadMessage(f"{what} is {value}, more than {MAX_INSTANCE_SIZE}")
    return value


def read_instances(raw: list[InstanceMessage]) -> tuple[Instance, ...]:
    """Check the instances of a message."""
    return tuple(Instance(i.ID, read_size(i.Size, f"Size of instance {i.ID}"), i.MD5) for i in raw)


def _resources(raw: list[_Resource]) -> tuple[Resource, ...]:
    return tuple(Resource(parse_level(r.Level), r.ID) for r in raw)


def _optional(value: T | msgspec.UnsetType) -> T | None:
    return None if isinstance(value, msgspec.UnsetType) else value


def instance_json(instance: Instance) -> dict[str, str]:
    """An instance as it travels."""
    return {"ID": instance.id, "MD5": instance.md5, "Size": str(instance.size)}
