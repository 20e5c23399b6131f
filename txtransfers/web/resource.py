"""Async resources, and the one table that turns an error of the domain into an HTTP answer.

A resource has coroutines named after the methods it allows: ``get``, ``post``, ``put``,
``delete``. Each returns what the client is to get: a JSON value, a :class:`Reply`, or None where it
has written the answer itself.
"""

import json
from collections.abc import Mapping
from typing import Any, cast
from uuid import uuid4

import attrs
import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import NOT_MODIFIED, RESPONSES
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from .. import errors
from ..transfer.client import Stall
from ..transfer.flow import Flow
from ..transfer.streams import ISlices, SliceProducer, collecting_sink
from ..wire import codes
from ..wire.messages import parse_decimal
from .server import ClientGone, StreamingRequest

METHODS = ("GET", "POST", "PUT", "DELETE")
JSON = "application/json"
JSON_UTF8 = "application/json; charset=utf-8"

_STATUSES: tuple[tuple[type[errors.TransfersError], int], ...] = (
    (errors.BadMessage, 400),
    (errors.OutOfRange, 400),
    (errors.BadParameter, 400),
    (errors.BadDicom, 400),
    (errors.BadCompression, 400),
    (errors.JobActionRefused, 400),
    (errors.Forbidden, 403),
    (errors.UnknownJob, 404),
    (errors.UnknownResource, 404),
    (errors.BadState, 409),
    (errors.BodyTooLarge, 413),
    (errors.UrlTooLong, 414),
    (errors.ForeignOrigin, 403),
    (errors.TooBusy, 503),
    (errors.StoreUnavailable, 503),
    (errors.StorageFull, 507),
    (errors.PeerIncomplete, 400),
    (errors.PeerError, 502),
    (errors.OrthancSilent, 504),
    (errors.OrthancUnreachable, 502),
)

log = Logger()


@attrs.frozen
class Reply:
    """An answer whose body is in memory.

    :ivar has_length: whether ``body`` is as long as what is answered to GET.
    """

    body: bytes
    content_type: str | None = None
    status: int = 200
    headers: Mapping[str, str] = {}
    has_length: bool = True


def compact(value: Any) -> Reply:
    """A JSON answer for programs, possibly large."""
    return Reply(msgspec.json.encode(value), JSON)


def status_of(error: BaseException) -> int:
    """The HTTP status of an error."""
    for type_, status in _STATUSES:
        if isinstance(error, type_):
            return status
    return 500


class ApiResource(Resource):
    """Base of all resources here; see the module.

    :cvar json_type: the Content-Type of its JSON values; Orthanc's own routes tell the charset.
    """

    json_type = JSON_UTF8

    async def handle(self, request: StreamingRequest, method: str) -> Any:
        """Call the coroutine of a method, or refuse the method."""
        if method == "HEAD" and hasattr(self, "get"):
            method = "GET"
        if method in ("HEAD", "OPTIONS"):
            return Reply(b"", status=404)
        handler = getattr(self, method.lower(), None) if method in METHODS else None
        if handler is None:
            allowed = ",".join(m for m in METHODS if hasattr(self, m.lower()))
            return Reply(b"", status=405, headers={"Allow": allowed})
        return await handler(request)

    def getChild(self, path: bytes, request: Request) -> Resource:
        """A segment that no resource has."""
        return NotFound()

    def render(self, request: Request) -> int:
        """Answer, now or later."""
        streaming = cast(StreamingRequest, request)
        method = request.method.decode("latin-1")
        request.setHeader("X-Content-Type-Options", "nosniff")
        request.responseHeaders.removeHeader("Server")
        answer = Deferred.fromCoroutine(self.handle(streaming, method))
        answer.addCallback(_answer, streaming, self.json_type)
        answer.addErrback(_answer_error, streaming)
        answer.addErrback(_give_up, streaming)
        return NOT_DONE_YET


class TransfersResource(ApiResource):
    """A node of the accelerator, which (unlike Orthanc itself) tells no charset of its JSON."""

    json_type = JSON


class NotFound(ApiResource):
    """No such route."""

    async def handle(self, request: StreamingRequest, method: str) -> Any:
        """Refuse."""
        if method in ("HEAD", "OPTIONS"):
            return Reply(b"", status=404)
        raise errors.UnknownResource("There is no such route")

    def getChild(self, path: bytes, request: Request) -> Resource:
        """Nor one below it."""
        return self


class NotFoundParent(NotFound):
    """A node that is nothing itself, but has children."""

    def getChild(self, path: bytes, request: Request) -> Resource:
        """A segment that it has not."""
        return NotFound()


async def read_body(request: StreamingRequest, limit: int | None = None) -> bytes:
    """The whole body; a large one waits until there is room for it.

    :param limit: bytes; None for ``MaxMessageSize``.
    :raises BodyTooLarge: it has more.
    """
    site = request.site
    most = site.limits.message_size
    limit = most if limit is None else min(limit, most)
    length = request.content_length
    if (length or 0) > limit:
        if limit == most:
            site.refusals.note("MaxMessageSize", request.address)
        raise errors.BodyTooLarge(f"The body has {length} bytes, more than {limit}")
    size, host = limit if length is None else length, request.address
    await site.load.message(size, request.notifyFinish)
    sink, parts = collecting_sink(limit)
    with site.load.in_time(size, host, request.abort):
        await request.body.into(sink)
    await sink.finish()
    return b"".join(parts)


async def stream(request: StreamingRequest, source: ISlices, flow: Flow | None = None) -> None:
    """Write the answer's body as it is read; the source is closed at the end.

    :param flow: how fast it may be; None for as fast as it can.

    An answer that cannot be given whole, or that the client does not take, ends with a cut
    connection, never with fewer bytes.
    """
    if request.method == b"HEAD":
        source.close()
    else:
        try:
            async with request.site.load.download(request.address):
                if request._disconnected:
                    raise ClientGone("The client went away while it waited for its turn")
                await _produce(request, source, flow)
        finally:
            source.close()
    request.finish()


async def _produce(request: StreamingRequest, source: ISlices, flow: Flow | None) -> None:
    producer = SliceProducer(source, flow)
    stall = Stall(request.site.reactor, request.site.patience)
    if flow is not None:
        flow.watched_by(stall)
    request.registerProducer(producer, True)
    try:
        await stall.watch(producer.start(request, lambda _size: stall.touch()))
    finally:
        request.unregisterProducer()


def argument(request: StreamingRequest, name: str) -> str | None:
    """The first value of a URL argument, whose name is read without regard to case."""
    wanted = name.lower()
    for key, values in (request.args or {}).items():
        if key.decode("latin-1").lower() == wanted:
            return str(values[0], "utf-8", "replace")
    return None


def size_argument(request: StreamingRequest, name: str) -> int:
    """The number of bytes that a URL argument tells; 0 without it.

    :raises BadParameter: it is no number.
    """
    text = argument(request, name)
    if text is None:
        return 0
    try:
        return parse_decimal(text)
    except ValueError:
        raise errors.BadParameter(
            f"The argument {name}={text[:40]} is not a number of bytes"
        ) from None


def error_json(
    error: BaseException, status: int, request: StreamingRequest, details: str
) -> dict[str, Any]:
    """The body of an error (protocol, section 4)."""
    code, text = codes.code_of(error)
    body = {
        "HttpError": RESPONSES.get(status, b"Error").decode(),
        "HttpStatus": status,
        "Message": text,
        "Method": request.method.decode("latin-1"),
        "OrthancError": text,
        "OrthancStatus": code,
        "Uri": "/" + "/".join(_segments(request)),
    }
    return {"Details": details, **body} if details else body


def _segments(request: StreamingRequest) -> list[str]:
    path = request.path.decode("utf-8", "replace")
    return [segment for segment in path.split("/") if segment]


def _answer(value: Any, request: StreamingRequest, json_type: str = JSON_UTF8) -> None:
    if value is None or request._disconnected:
        return
    if not isinstance(value, Reply):
        text = json.dumps(value, indent=3, ensure_ascii=False)
        value = Reply(encode(text) + b"\n" if value != {} else b"{}", json_type)
    request.setResponseCode(value.status)
    if value.content_type is None:
        request.defaultContentType = None
    else:
        request.setHeader("Content-Type", value.content_type)
    for name, text in value.headers.items():
        request.setHeader(name, text)
    if value.has_length and value.status != NOT_MODIFIED:
        request.setHeader("Content-Length", str(len(value.body)))
    if value.body:
        request.write(value.body)
    request.finish()


def _answer_error(failure: Failure, request: StreamingRequest) -> None:
    error = failure.value
    assert error is not None
    if isinstance(error, ClientGone | CancelledError) or request._disconnected:
        if not _is_whole(request):
            log.info(
                "{method} {uri}: the client went away",
                method=request.method.decode("latin-1"),
                uri=request.uri[:200].decode("latin-1"),
            )
        request.abort()
        return
    if request.startedWriting:
        log.error(
            "{method} {uri}: cut short: {error}",
            method=request.method,
            uri=request.uri,
            error=error,
        )
        request.abort()
        return
    status = status_of(error)
    request.responseHeaders.removeHeader("ETag")
    headers = {"Cache-Control": "no-store"}
    if isinstance(error, errors.TransfersError):
        details = encode(str(error)).decode()
        log.info(
            "{method} {uri}: {status} {details}",
            method=request.method.decode("latin-1"),
            uri=request.uri[:200].decode("latin-1"),
            status=status,
            details=details,
        )
    else:
        incident = uuid4().hex[:12]
        details = f"A defect of txtransfers; its log has more under the incident {incident}"
        log.failure("Incident {incident}", failure, incident=incident)
    request.facts["Error"] = details
    if isinstance(error, errors.TooBusy):
        headers["Retry-After"] = str(error.retry_after)
    body = json.dumps(error_json(error, status, request, details), indent="\t", ensure_ascii=False)
    _answer(Reply(encode(body) + b"\n", "text/plain", status, headers), request)


def _is_whole(request: StreamingRequest) -> bool:
    """Whether the answer was written: a client that has it all may close before we are told."""
    length = (request.responseHeaders.getRawHeaders("Content-Length") or [""])[0]
    return bool(length == str(request.sentLength))


def encode(text: str) -> bytes:
    """Text as it travels; half a character, which UTF-8 cannot carry, becomes a JSON escape."""
    return text.encode("utf-8", "backslashreplace")


def _give_up(failure: Failure, request: StreamingRequest) -> None:
    log.failure("An answer could not be written", failure)
    request.abort()
