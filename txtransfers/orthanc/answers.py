"""The answer of an HTTP/1.1 server, read as it arrives: its head, and where its body ends.

Pure: bytes in, calls out. Hostile until parsed: what is no HTTP, or could be read in two ways, is
refused (RFC 9112, 6.3).
"""

import re
from collections.abc import Callable
from typing import Protocol

import attrs
from twisted.web.http import _ChunkedTransferDecoder, _MalformedChunkedDataError

Header = tuple[bytes, bytes]
"""Name and value, as they came."""

_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: ([\x20-\x7e\x80-\xff\t]*))?\Z")
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_VALUE = re.compile(rb"[^\x00-\x08\x0a-\x1f\x7f]*\Z")
_LENGTH = re.compile(rb"[0-9]{1,18}\Z")
_LONGEST_HEAD = 64 * 1024
"""Bytes of a head; all of Orthanc's are shorter than 1 KB."""
_MOST_INTERIM = 16
_INTERIM = range(100, 200)
_SWITCHING = 101
_WITHOUT_BODY = (204, 304)


class NoHttpError(Exception):
    """What came is no answer, or could be read in two ways."""


@attrs.frozen
class Head:
    """Status and headers of an answer."""

    version: int
    status: int
    phrase: bytes
    headers: tuple[Header, ...]

    def values(self, wanted: bytes) -> list[bytes]:
        """The values of a header; lists are cut at their commas."""
        return [
            part.strip()
            for name, value in self.headers
            if name.lower() == wanted
            for part in value.split(b",")
        ]


class IReceiver(Protocol):
    """Who waits for an answer."""

    def interim(self, head: Head) -> None:
        """An answer before the answer (1xx)."""

    def head(self, head: Head) -> None:
        """Status and headers have come."""

    def data(self, data: bytes) -> None:
        """The next bytes of the body have come."""

    def end(self) -> None:
        """The last byte has come. Nothing is called after this."""

    def failed(self, error: BaseException) -> None:
        """The rest will not come. Nothing is called after this."""


class Reading:
    """One answer."""

    def __init__(self, method: bytes, receiver: IReceiver, on_end: Callable[[bytes], None]) -> None:
        """:param on_end: called after the last byte, with what came beyond it."""
        self._method = method
        self._receiver = receiver
        self._on_end = on_end
        self._buffer = b""
        self._interim = 0
        self._take: Callable[[bytes], None] = self._take_head
        self.left = 0
        """Bytes of the body that are still to come, where that is known."""
        self.has_begun = False
        """Whether any byte has come."""
        self.ends_with_connection = False
        self.persists = False
        """Whether the server keeps the connection for another request."""
        self.keeps_s: float | None = None
        """Seconds that the server says it does so."""

    def feed(self, data: bytes) -> None:
        """The next bytes.

        :raises NoHttpError: they are not what they should be.
        """
        self.has_begun = True
        self._take(data)

    def _take_head(self, data: bytes) -> None:
        self._buffer += data
        while True:
            end = self._buffer.find(b"\r\n\r\n")
            if max(end, len(self._buffer) if end < 0 else 0) > _LONGEST_HEAD:
                raise NoHttpError(f"headers of more than {_LONGEST_HEAD} bytes")
            if end < 0:
                return
            head = parse_head(self._buffer[:end])
            self._buffer = self._buffer[end + 4 :]
            if head.status not in _INTERIM:
                break
            self._interim += 1
            if head.status == _SWITCHING or self._interim > _MOST_INTERIM:
                raise NoHttpError(f"an unexpected status {head.status}")
            self._receiver.interim(head)
        self._begin(head)

    def _begin(self, head: Head) -> None:
        rest, self._buffer = self._buffer, b""
        connection = {token.lower() for token in head.values(b"connection")}
        self.persists = b"close" not in connection if head.version else b"keep-alive" in connection
        self.keeps_s = _keep_alive(head)
        length = _length(head)
        codings = [coding.lower() for coding in head.values(b"transfer-encoding")]
        if self._method == b"HEAD" or head.status in _WITHOUT_BODY:
            length, codings = 0, []
        self._receiver.head(head)
        if codings == [b"chunked"]:
            self._chunks = _ChunkedTransferDecoder(self._receiver.data, self._end)
            self._take = self._take_chunks
        elif codings:
            raise NoHttpError("an unknown Transfer-Encoding")
        elif length is None:
            self.ends_with_connection, self.persists = True, False
            self._take = self._receiver.data
        else:
            self.left = length
            self._take = self._take_counted
            if not length:
                self._end(rest)
                return
        if rest:
            self._take(rest)

    def _take_counted(self, data: bytes) -> None:
        size = len(data)
        if size < self.left:
            self.left -= size
            self._receiver.data(data)
            return
        left, self.left = self.left, 0
        self._receiver.data(data if size == left else data[:left])
        self._end(data[left:])

    def _take_chunks(self, data: bytes) -> None:
        try:
            self._chunks.dataReceived(data)
        except _MalformedChunkedDataError as error:
            raise NoHttpError(f"a malformed chunk: {error}") from None

    def _end(self, rest: bytes) -> None:
        self._take = self._ignore
        self._on_end(rest)

    def _ignore(self, data: bytes) -> None:
        pass


def parse_head(data: bytes) -> Head:
    """Status line and headers, without the empty line.

    :raises NoHttpError: it is none.
    """
    first, *lines = data.split(b"\r\n")
    found = _STATUS.match(first)
    if found is None:
        raise NoHttpError(f"no status line: {first[:60]!r}")
    headers = []
    for line in lines:
        name, colon, value = line.partition(b":")
        value = value.strip(b" \t")
        if not colon or not _NAME.match(name) or not _VALUE.match(value):
            raise NoHttpError(f"no header: {line[:60]!r}")
        headers.append((name, value))
    return Head(int(found[1]), int(found[2]), found[3] or b"", tuple(headers))


def _length(head: Head) -> int | None:
    lengths = set(head.values(b"content-length"))
    if not lengths:
        return None
    if len(lengths) > 1 or not _LENGTH.match(min(lengths)):
        raise NoHttpError(f"a Content-Length of {b', '.join(sorted(lengths))[:60]!r}")
    if head.values(b"transfer-encoding"):
        raise NoHttpError("both Content-Length and Transfer-Encoding")
    return int(lengths.pop())


def _keep_alive(head: Head) -> float | None:
    for parameter in head.values(b"keep-alive"):
        name, _, value = parameter.partition(b"=")
        if name.strip().lower() == b"timeout" and _LENGTH.match(value.strip()):
            return float(value)
    return None
