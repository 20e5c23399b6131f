"""The part of Orthanc's REST API that the store uses, in memory, as an agent answers it.

It does what Debian's 1.10.1 was seen to do; attributes make it another version, or configuration.
"""

import hashlib
import json
from collections.abc import Callable
from io import BytesIO
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import attrs
from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent
from zope.interface import implementer

from txtransfers.config import OrthancSettings
from txtransfers.errors import BadDicom
from txtransfers.store.dicom import Header, read_header
from txtransfers.wire.messages import Level

PIECE = 1000
"""Bytes of a body that come at a time."""
_LEVELS = {"patients": Level.PATIENT, "studies": Level.STUDY, "series": Level.SERIES}
_CHILDREN = {"patients": ("Studies", "study"), "studies": ("Series", "series")}

Trouble = Callable[[str, str], "tuple[int, bytes] | Exception | None"]


def settings(**more: Any) -> OrthancSettings:
    """Those of a store, with nothing but what is given."""
    values: dict[str, Any] = {
        "url": "http://orthanc.test:8042/",
        "username": "",
        "password": "",
        "headers": {},
        "timeout": None,
        "proxy_timeout": 60.0,
        "explorer_root": "/ui/",
        "cache_size": 2**30,
        "https_verify": True,
        "https_ca_certificates": "",
        "certificate_file": "",
        "certificate_key_file": "",
        "certificate_key_password": "",
    }
    return OrthancSettings(**(values | more))


@attrs.define
class Stored:
    """An instance."""

    data: bytes
    header: Header
    uuid: str


@implementer(IAgent)
class FakeOrthanc:
    """See the module.

    :ivar asked: method and path of each request, in order.
    :ivar trouble: what a request is answered instead; called before it is done.
    :ivar silence: likewise, called after it was done: the answer is lost.
    """

    def __init__(self) -> None:
        self.stored: dict[str, Stored] = {}
        self.version = "1.10.1"
        self.overwrites = False
        self.has_md5s = True
        self.has_bulk = True
        self.has_ranges = False
        self.is_compressed = False
        self.filters: Callable[[Header], bool] = lambda _header: True
        self.changes: Callable[[bytes], bytes] = lambda data: data
        self.asked: list[tuple[str, str]] = []
        self.headers: list[Headers] = []
        self.trouble: Trouble = lambda _method, _path: None
        self.silence: Trouble = lambda _method, _path: None

    # What a test does to it

    def put(self, data: bytes) -> str:
        """Store a file, as somebody else would; gives its identifier."""
        header = read_header(BytesIO(data), len(data))
        self.stored[header.ids.instance] = Stored(data, header, str(uuid4()))
        return header.ids.instance

    def files(self) -> set[bytes]:
        """All that is stored."""
        return {stored.data for stored in self.stored.values()}

    def count(self, method: str, ending: str = "") -> int:
        """How many requests of that kind there were."""
        return sum(m == method and path.endswith(ending) for m, path in self.asked)

    # IAgent

    def request(
        self, method: bytes, uri: bytes, headers: Headers | None = None, bodyProducer: Any = None
    ) -> "Deferred[Any]":
        """See :class:`IAgent`."""
        path = urlsplit(uri).path.decode()
        named = headers if headers is not None else Headers()
        body = _Body()
        if bodyProducer is None:
            return self._answer(method.decode(), path, named, b"")
        produced: Deferred[None] = bodyProducer.startProducing(body)
        return produced.addCallback(
            lambda _none: self._answer(method.decode(), path, named, bytes(body.data))
        )

    def _answer(
        self, method: str, path: str, headers: Headers, body: bytes
    ) -> "Deferred[Response]":
        self.asked.append((method, path))
        self.headers.append(headers)
        given = self.trouble(method, path)
        if given is None:
            done = self._do(method, path, headers, body)
            given = self.silence(method, path)
            if given is None:
                return succeed(done)
        if isinstance(given, Exception):
            return fail(given)
        return succeed(Response(*given))

    def _do(self, method: str, path: str, headers: Headers, body: bytes) -> "Response":
        match (method, *path.strip("/").split("/")):
            case ("GET", "system"):
                more = {"StorageCompression": True} if self.is_compressed else {}
                return _json({"Version": self.version, "Name": "Fake", **more})
            case ("POST", "instances"):
                return self._store(body)
            case ("POST", "tools", "bulk-content") if self.has_bulk:
                ids = json.loads(body)["Resources"]
                return _json([self._instance(id_) for id_ in ids if id_ in self.stored])
            case ("GET", "patients" | "studies" | "series" as route, id_):
                return self._parent(route, id_)
            case (_, "instances", id_, *rest) if id_ in self.stored:
                return self._of_instance(method, id_, rest, headers)
        return Response(404, b"")

    def _of_instance(self, method: str, id_: str, rest: list[str], headers: Headers) -> "Response":
        stored = self.stored[id_]
        match (method, *rest):
            case ("GET",):
                return _json(self._instance(id_))
            case ("DELETE",):
                del self.stored[id_]
                return _json({"RemainingAncestor": None})
            case ("GET", "file"):
                return Response(200, stored.data)
            case ("GET", "attachments", "dicom", "md5") if self.has_md5s:
                return Response(200, md5(stored.data).encode())
            case ("GET", "attachments", "dicom", "data"):
                return self._data(stored, (headers.getRawHeaders("Range") or [""])[0])
        return Response(404, b"")

    def _data(self, stored: Stored, wanted: str) -> "Response":
        tag = {"ETag": f'"0-{md5(stored.data)}"'}
        if not self.has_ranges or not wanted:
            return Response(200, stored.data, tag)
        first, _dash, last = wanted.removeprefix("bytes=").partition("-")
        part = stored.data[int(first) : int(last) + 1]
        said = f"bytes {first}-{last}/{len(stored.data)}"
        return Response(206, part, tag | {"Content-Range": said})

    def _instance(self, id_: str) -> dict[str, Any]:
        stored = self.stored[id_]
        return {"ID": id_, "FileSize": len(stored.data), "FileUuid": stored.uuid}

    def _parent(self, route: str, id_: str) -> "Response":
        name = {"patients": "patient", "studies": "study", "series": "series"}[route]
        below = [s for s in self.stored.values() if getattr(s.header.ids, name) == id_]
        if not below:
            return Response(404, b"")
        child, attribute = _CHILDREN.get(route, ("Instances", "instance"))
        children = sorted({getattr(stored.header.ids, attribute) for stored in below})
        return _json({"ID": id_, child: children})

    def _store(self, sent: bytes) -> "Response":
        data = self.changes(sent)
        try:
            header = read_header(BytesIO(data), len(data))
        except BadDicom:
            return _refusal(400, 15, "Bad file format")
        id_ = header.ids.instance
        status = "Success"
        if not self.filters(header):
            status = "FilteredOut"
        elif id_ in self.stored and not self.overwrites:
            status = "AlreadyStored"
        else:
            self.put(data)
        return _json({"ID": id_, "Path": f"/instances/{id_}", "Status": status})


class _Body:
    """The consumer of a request's body."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: bytes) -> None:
        """See ``IConsumer``."""
        self.data += data


class Response:
    """See ``IResponse``."""

    version = (b"HTTP", 1, 1)
    phrase = b""
    request = None
    previousResponse = None

    def __init__(self, code: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.code = code
        self.length = len(body)
        self.headers = Headers({name: [text] for name, text in (headers or {}).items()})
        self._body = body

    def deliverBody(self, protocol: Any) -> None:
        """All of it at once, as far as the protocol wants it."""
        transport = _Transport()
        protocol.makeConnection(transport)
        for start in range(0, len(self._body), PIECE):
            if not transport.aborted:
                protocol.dataReceived(self._body[start : start + PIECE])
        protocol.connectionLost(Failure(ResponseDone()))


class _Transport:
    """The connection of an answer."""

    aborted = False

    def pauseProducing(self) -> None:
        """It cannot wait."""

    def resumeProducing(self) -> None:
        """See above."""

    def abortConnection(self) -> None:
        """No more is wanted."""
        self.aborted = True


def md5(data: bytes) -> str:
    """As it travels."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _json(value: Any) -> Response:
    return Response(200, json.dumps(value).encode(), {"Content-Type": "application/json"})


def _refusal(status: int, code: int, message: str) -> Response:
    said = {"HttpStatus": status, "OrthancStatus": code, "OrthancError": message}
    return Response(status, json.dumps(said | {"Message": message}).encode())


def refusal(status: int, code: int, message: str) -> tuple[int, bytes]:
    """What Orthanc answers when it refuses."""
    response = _refusal(status, code, message)
    return status, response._body
