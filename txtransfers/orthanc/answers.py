"""An answer of HTTP/1.1 as it is read from a blocking connection: strict, and bounded.

``http.client`` would do; it takes several times as long, which is most of what a small request
costs, and it takes a head that was cut for a whole one.
"""

import re
from collections.abc import Callable, Mapping
from typing import BinaryIO

import attrs
from twisted.internet import error as net
from twisted.web._newclient import ParseError

from ..errors import BodyTooLarge

_LONGEST_HEAD = 64 * 1024
"""Bytes up to the end of an answer's headers."""
_LONGEST_LINE = 1024
"""Bytes of the line before a chunk."""
_MOST_INTERIM = 10
"""Answers with a status of 1xx before the real one."""
_QUOTED = 60

_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: .*)?\Z", re.DOTALL)
_LENGTH = re.compile(rb"[0-9]{1,18}\Z")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;.*)?\r?\n\Z", re.DOTALL)
_WITHOUT_BODY = frozenset({204, 304})


@attrs.frozen
class Head:
    """The status and the headers of an answer.

    :ivar is_last: whether the connection ends behind it. :ivar headers: the first of each name, by
        the name in lower case.
    """

    status: int
    is_last: bool
    headers: Mapping[bytes, bytes]

    def find(self, name: str) -> str | None:
        """A header's text; None where there is none."""
        value = self.headers.get(name.lower().encode())
        return value.decode("latin-1") if value is not None else None


def read_answer(file: BinaryIO, limit_of: Callable[[int], int]) -> tuple[Head, bytes]:
    """Read the next answer, its body whole.

    :param limit_of: how many bytes the body of an answer with some status may have.
    :raises EOFError: the connection has ended where it should have begun.
    :raises ConnectionLost: it has ended within. :raises ParseError: it is no HTTP.
    :raises BodyTooLarge: the body is over the limit.
    """
    for _ in range(_MOST_INTERIM):
        head = _read_head(file)
        if head.status >= 200:
            return _read_body(file, head, limit_of(head.status))
    raise ParseError("nothing but interim answers", b"")


def _read_head(file: BinaryIO) -> Head:
    lines: list[bytes] = []
    left = _LONGEST_HEAD
    while (line := file.readline(left)) not in (b"\r\n", b"\n"):
        left -= len(line)
        if not line.endswith(b"\n"):
            if not left:
                raise ParseError(f"headers of more than {_LONGEST_HEAD} bytes", line[:_QUOTED])
            if not lines and not line:
                raise EOFError
            raise _cut()
        lines.append(line.rstrip(b"\r\n"))
    match = _STATUS.match(lines[0]) if lines else None
    if match is None:
        raise ParseError("no line with a status", b"".join(lines[:1])[:_QUOTED])
    headers: dict[bytes, bytes] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        if not colon or name != name.strip():
            raise ParseError("a header without its name", line[:_QUOTED])
        headers.setdefault(name.lower(), value.strip())
    said = headers.get(b"connection", b"").lower()
    is_last = b"close" in said or (match[1] == b"0" and b"keep-alive" not in said)
    return Head(int(match[2]), is_last, headers)


def _read_body(file: BinaryIO, head: Head, limit: int) -> tuple[Head, bytes]:
    if head.status in _WITHOUT_BODY:
        return head, b""
    coding = head.headers.get(b"transfer-encoding")
    if coding is not None:
        if coding.lower() != b"chunked":
            raise ParseError("a transfer coding that is not known", coding[:_QUOTED])
        return head, _read_chunks(file, limit)
    length = head.headers.get(b"content-length")
    if length is None:  # all that comes up to the end is the body
        data = file.read(limit + 1)
        _check(len(data), limit)
        return attrs.evolve(head, is_last=True), data
    if not _LENGTH.match(length):
        raise ParseError("a length that is none", length[:_QUOTED])
    _check(int(length), limit)
    return head, _read_exactly(file, int(length))


def _read_chunks(file: BinaryIO, limit: int) -> bytes:
    chunks: list[bytes] = []
    total = 0
    while size := _chunk_size(file):
        total += size
        _check(total, limit)
        chunks.append(_read_exactly(file, size))
        end = file.readline(2)
        if end in (b"", b"\r"):
            raise _cut()
        if end not in (b"\r\n", b"\n"):
            raise ParseError("a chunk that is longer than it says", b"")
    left = _LONGEST_HEAD
    while (line := file.readline(left)) not in (b"\r\n", b"\n"):
        left -= len(line)
        if not line.endswith(b"\n"):
            raise _cut()
    return b"".join(chunks)


def _chunk_size(file: BinaryIO) -> int:
    line = file.readline(_LONGEST_LINE)
    if not line.endswith(b"\n") and len(line) < _LONGEST_LINE:
        raise _cut()
    match = _CHUNK.match(line)
    if match is None:
        raise ParseError("a chunk without a size", line[:_QUOTED])
    return int(match[1], 16)


def _read_exactly(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise _cut()
    return data


def _check(size: int, limit: int) -> None:
    if size > limit:
        raise BodyTooLarge(f"The body has more than {limit} bytes")


def _cut() -> Exception:
    return net.ConnectionLost("the answer was cut")
