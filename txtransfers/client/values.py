"""What a daemon tells, as frozen values. What comes has any form until it is read here.

A stock Orthanc tells less than txtransfers: what it does not tell is None, or zero.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import attrs

from ..errors import DaemonNonsense
from ..wire.messages import Level

T = TypeVar("T")

MB = 2**20
SUCCESS, FAILURE, PAUSED, RETRY = "Success", "Failure", "Paused", "Retry"

ENDED = frozenset({SUCCESS, FAILURE})


@attrs.frozen
class Job:
    """A job as it was when it was asked for.

    :ivar type: ``PushTransfer`` or ``PullTransfer``; of an Orthanc, any.
    :ivar state: Pending, Running, Retry, Paused, Success or Failure.
    :ivar fraction: how much is done, from 0 to 1.
    :ivar total_size: bytes of all instances, before compression; None before it is planned.
    :ivar done_size: of these, what has arrived or was there before.
    :ivar moved_size: besides, as far as it is known, what has travelled of that which is under way:
        for people who watch. It may go back.
    :ivar rate: bytes per second, as the daemon measures it; None where it does not.
    :ivar error: why it failed, or waits for another try; empty if it did not.
    :ivar description: a line for people; mostly empty.
    :ivar next_try: when it is tried again, as the daemon writes times (UTC).
    :ivar raw: all that the daemon told.
    """

    id: str
    type: str
    state: str
    peer: str
    fraction: float
    total_size: int | None
    done_size: int
    moved_size: int
    total_instances: int | None
    retries: int
    rate: float | None
    error: str
    created: str
    next_try: str
    description: str
    raw: Mapping[str, Any] = attrs.field(repr=False, eq=False)

    @property
    def is_ended(self) -> bool:
        """Whether nothing happens to it any more by itself."""
        return self.state in ENDED

    @property
    def is_success(self) -> bool:
        """Whether every byte is verified and stored."""
        return self.state == SUCCESS

    @property
    def is_sending(self) -> bool:
        """Whether the daemon that runs it sends."""
        return not self.type.startswith("Pull")


@attrs.frozen
class Sent:
    """A transfer that was asked for.

    :ivar job: its job at the daemon; empty where the peer pulls.
    :ivar remote_job: its job at the peer, where the peer pulls. :ivar remote_url: of that job, as
        the daemon sees it.
    """

    job: str = ""
    remote_job: str = ""
    remote_url: str = ""


@attrs.frozen
class Peer:
    """A peer of the daemon.

    :ivar state: ``disabled`` (not reachable, or no peer), ``installed`` or ``bidirectional``.
    :ivar pulls: whether it pulls what is sent to it.
    :ivar reason: why it is disabled. :ivar round_trip: seconds that it took to answer.
    :ivar version: what it is, in words. These three are empty or None where the daemon is an
        Orthanc.
    """

    name: str
    url: str
    state: str
    pulls: bool
    reason: str = ""
    round_trip: float | None = None
    version: str = ""

    @property
    def is_usable(self) -> bool:
        """Whether something can be sent to it, or received."""
        return self.state != "disabled"


@attrs.frozen
class Found:
    """A patient, study, series or instance.

    :ivar tags: DICOM keyword -> text, those of its patient included.
    :ivar children: identifiers of what is directly below it.
    """

    level: Level
    id: str
    tags: Mapping[str, str]
    children: tuple[str, ...]
    raw: Mapping[str, Any] = attrs.field(repr=False, eq=False)

    def tag(self, keyword: str) -> str:
        """A tag's text; empty where there is none."""
        return self.tags.get(keyword, "")


@attrs.frozen
class Stored:
    """An instance that was uploaded.

    :ivar already_stored: whether it was there before.
    """

    id: str
    study: str
    already_stored: bool


def read_job(value: Any) -> Job:
    """The job in an answer.

    :raises DaemonNonsense: there is none.
    """
    told = _object(value, "a job")
    content = _mapping(told.get("Content"))
    fraction = _number(told.get("Progress")) / 100
    size = _size(content, "TotalSize")
    done = _size(content, "UploadedSize")
    if done is None:
        done = _size(content, "DownloadedSize")
    skipped = _size(content, "SkippedSize") or 0
    done = (done or 0) + skipped
    if told.get("State") == SUCCESS and size is not None:
        done = size
    instances = content.get("TotalInstances", content.get("CountInstances"))
    return Job(
        id=_text(told, "ID"),
        type=_text(told, "Type"),
        state=_text(told, "State"),
        peer=str(content.get("Peer", "")),
        fraction=min(1.0, max(0.0, fraction)),
        total_size=size,
        done_size=done if size is None else min(done, size),
        moved_size=max(done, min(size or 0, skipped + _travelled(content))),
        total_instances=instances if isinstance(instances, int) else None,
        retries=int(_number(content.get("Retries"))),
        rate=_number(content.get("GoodputKBs")) * 1024 or None,
        error=_error(told),
        created=str(told.get("CreationTime", "")),
        next_try=str(told.get("NextTryTime", "")),
        description=str(content.get("Description", "")),
        raw=told,
    )


def _travelled(content: Mapping[str, Any]) -> int:
    """Bytes that have travelled and need not again; compressed, they stand for more."""
    on_the_line, again, under_way = (
        _size(content, name) or 0 for name in ("NetworkSize", "RepeatedSize", "UnderWaySize")
    )
    return max(0, on_the_line - again + under_way)


def _error(told: Mapping[str, Any]) -> str:
    if not _number(told.get("ErrorCode")):
        return ""
    return str(told.get("ErrorDetails") or told.get("ErrorDescription") or "no reason was given")


def read_found(value: Any) -> Found:
    """The resource in an answer.

    :raises DaemonNonsense: there is none.
    """
    told = _object(value, "a resource")
    try:
        level = Level(told["Type"])
    except (KeyError, ValueError):
        raise DaemonNonsense("The daemon described a resource of an unknown type") from None
    children = next(
        (told[name] for name in ("Studies", "Series", "Instances") if _is_list(told.get(name))), ()
    )
    tags = {**_mapping(told.get("PatientMainDicomTags")), **_mapping(told.get("MainDicomTags"))}
    return Found(
        level,
        _text(told, "ID"),
        {str(key): str(text) for key, text in tags.items()},
        tuple(str(child) for child in children),
        told,
    )


def read_stored(value: Any) -> tuple[Stored, ...]:
    """The instances in the answer to an upload: of a file, or of an archive of files."""
    told = value if _is_list(value) else [value]
    return tuple(
        Stored(
            _text(each, "ID"),
            str(each.get("ParentStudy", "")),
            each.get("Status") == "AlreadyStored",
        )
        for each in (_object(one, "an instance") for one in told)
    )


def read_peers(states: Any, known: Any) -> tuple[Peer, ...]:
    """The peers in the answers of ``/transfers/peers`` and ``/peers?expand``."""
    details = _object(known, "a list of peers")
    return tuple(
        _read_peer(name, state, _mapping(details.get(name)))
        for name, state in sorted(_object(states, "a list of peers").items())
    )


def _read_peer(name: str, told: Any, details: Mapping[str, Any]) -> Peer:
    """:param told: its state alone, or all that is known of it."""
    if isinstance(told, str):
        return Peer(name, str(details.get("Url", "")), told, bool(details.get("RemoteSelf")))
    value = _object(told, "a peer")
    milliseconds = _number(value.get("RoundTripMs"))
    return Peer(
        name,
        str(value.get("Url", "")),
        _text(value, "State"),
        bool(value.get("RemoteSelf")),
        str(value.get("Reason", "")),
        milliseconds / 1000 if milliseconds else None,
        _version(value),
    )


def _version(value: Mapping[str, Any]) -> str:
    if value.get("TxtransfersVersion"):
        return f"txtransfers {value['TxtransfersVersion']}"
    return f"Orthanc {value['Version']}" if value.get("Version") else ""


def read_sent(value: Any) -> Sent:
    """What was asked for with a transfer."""
    told = _object(value, "a transfer")
    if "RemoteJob" in told:
        return Sent("", _text(told, "RemoteJob"), _text(told, "URL"))
    return Sent(_text(told, "ID"))


def read_list(value: Any, what: str) -> Sequence[Any]:
    """An array.

    :raises DaemonNonsense: it is none.
    """
    if not isinstance(value, list):
        raise DaemonNonsense(f"The daemon answered with something else than {what}")
    return value


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _object(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise DaemonNonsense(f"The daemon answered with something else than {what}")
    return value


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(told: Mapping[str, Any], name: str) -> str:
    value = told.get(name)
    if not isinstance(value, str):
        raise DaemonNonsense(f"The daemon's answer lacks {name}")
    return value


def _number(value: Any) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number else 0.0


def _size(content: Mapping[str, Any], name: str) -> int | None:
    """Bytes: a decimal text, or of a stock peer a number of MB."""
    value = content.get(name)
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 20:
        return int(value)
    megabytes = content.get(f"{name}MB")
    return int(_number(megabytes) * MB) if megabytes is not None else None
