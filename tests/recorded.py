"""Reads the exchanges recorded between stock peers (tests/data/wire/*.txt) into frozen values.

Conformance tests compare this project's requests and answers with them. A length that does not
agree, or a block that cannot be read, is an error: a test never runs on half a recording.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import attrs

WIRE = Path(__file__).parent / "data" / "wire"
"""Where the recordings are."""

_TITLE = re.compile(r"^======== (.*) ========$", re.MULTILINE)
_BLOCK = re.compile(r"\n>>>>>>>> request\n(.*?)<<<<<<<< response\n(.*)", re.DOTALL)
_BODY_END = re.compile(r"(?:^|\n)\[(end of body|empty body|binary body): (\d+) bytes(.*)\]")
_SUMMARY = re.compile(r", md5 ([0-9a-f]{32}), first 16 bytes ([0-9a-f]*), last 8 ([0-9a-f]*)")
_FIRST, _LAST = 16, 8  # bytes of a summarised body that the recording shows

Headers = tuple[tuple[str, str], ...]


@attrs.frozen
class Exchange:
    """One request with its answer. A body is None where the recording only summarises it."""

    title: str
    method: str
    target: str
    version: str
    request_headers: Headers
    request_body: bytes | None
    request_length: int
    request_md5: str
    status: int
    response_headers: Headers
    response_body: bytes | None
    response_length: int
    response_md5: str

    def request_header(self, name: str) -> str | None:
        """Return the request's first header of that name, whatever its case."""
        return _header(self.request_headers, name)

    def response_header(self, name: str) -> str | None:
        """Return the answer's first header of that name, whatever its case."""
        return _header(self.response_headers, name)

    def request_json(self) -> Any:
        """Return the request's body, parsed."""
        return _json(self.title, self.request_body)

    def response_json(self) -> Any:
        """Return the answer's body, parsed."""
        return _json(self.title, self.response_body)


def names() -> list[str]:
    """Return the names of all recordings, without their .txt, sorted."""
    return sorted(path.stem for path in WIRE.glob("*.txt"))


def load(name: str) -> list[Exchange]:
    """Return the exchanges of the recording of that name, in order."""
    return parse((WIRE / f"{name}.txt").read_text(encoding="utf-8"))


def parse(text: str) -> list[Exchange]:
    """Return the exchanges that a recording's text holds, in order."""
    _, *pieces = _TITLE.split(text)
    return [_exchange(*pair) for pair in zip(pieces[::2], pieces[1::2], strict=True)]


def _exchange(title: str, block: str) -> Exchange:
    found = _BLOCK.fullmatch(block)
    if found is None:
        raise ValueError(f"{title}: neither request nor response in {block[:80]!r}")
    request_line, request_headers, request_body = _message(title, found[1])
    status_line, response_headers, response_body = _message(title, found[2])
    method, rest = request_line.split(" ", 1)
    target, version = rest.rsplit(" ", 1)
    return Exchange(
        title,
        method,
        target,
        version,
        request_headers,
        *request_body,
        int(status_line.split(" ")[1]),
        response_headers,
        *response_body,
    )


def _message(title: str, text: str) -> tuple[str, Headers, tuple[bytes | None, int, str]]:
    head, _, body = text.partition("\n\n")
    first, *lines = head.split("\n")
    headers = tuple((name, value) for name, _, value in (line.partition(": ") for line in lines))
    return first, headers, _body(title, body)


def _body(title: str, text: str) -> tuple[bytes | None, int, str]:
    """Return (the body or None, its length, its MD5)."""
    end = _BODY_END.search(text)
    if end is None:
        raise ValueError(f"{title}: the end of the body is not marked in {text[:80]!r}")
    kind, length = end[1], int(end[2])
    if kind == "binary body":
        return _summarised(title, length, end[3])
    body = b"" if kind == "empty body" else text[: end.start()].encode()
    if len(body) != length:
        raise ValueError(f"{title}: the body has {len(body)} bytes, the recording tells {length}")
    return body, length, hashlib.md5(body).hexdigest()


def _summarised(title: str, length: int, summary: str) -> tuple[bytes | None, int, str]:
    """Rebuild a body that is short enough to be shown whole by its first and last bytes."""
    found = _SUMMARY.match(summary)
    if found is None:
        raise ValueError(f"{title}: unreadable summary {summary!r}")
    if length > _FIRST + _LAST:
        return None, length, found[1]
    first, last = bytes.fromhex(found[2]), bytes.fromhex(found[3])
    body = first + last[len(last) - max(0, length - len(first)) :]
    if hashlib.md5(body).hexdigest() != found[1]:
        raise ValueError(f"{title}: {body.hex()} does not have the MD5 {found[1]}")
    return body, length, found[1]


def _header(headers: Headers, name: str) -> str | None:
    return next((value for key, value in headers if key.lower() == name.lower()), None)


def _json(title: str, body: bytes | None) -> Any:
    if body is None:
        raise ValueError(f"{title}: the recording only summarises this body")
    return json.loads(body)
