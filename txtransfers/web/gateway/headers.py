"""What travels with a request that is handed on, and with its answer. Pure functions.

What concerns one connection only stays there (RFC 9110, 7.6.1); all else goes as it came.
"""

from collections.abc import Iterable, Sequence

import attrs

from ...orthanc.answers import Header

_OF_ONE_CONNECTION = frozenset(
    {
        *(b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"upgrade"),
        *(b"proxy-authenticate", b"proxy-authorization", b"transfer-encoding"),
    }
)
_NEVER_NAMED = frozenset({b"host", b"content-length"})
"""Headers without which a message cannot be read: ``Connection`` cannot have them removed."""

_OF_ONE_ANSWER = frozenset(
    {
        *(b"accept-encoding", b"content-length", b"content-type", b"expect", b"if-match"),
        *(b"if-modified-since", b"if-none-match", b"if-range", b"if-unmodified-since", b"range"),
    }
)
"""Headers of a request whose answer would not fit a part of an answer that we make of it."""

_VIA = b"1.1 txtransfers"
_MOST_GATEWAYS = 4
"""That a request passes on its way to an Orthanc."""


@attrs.frozen
class Client:
    """Who asks. :ivar address: its IP address. :ivar host: the ``Host`` that it asked for."""

    address: bytes
    host: bytes
    is_secure: bool


def passed_on(headers: Iterable[Header]) -> list[Header]:
    """Those that are meant for the other end."""
    headers = list(headers)
    named = {
        token.strip().lower()
        for name, value in headers
        if name.lower() == b"connection"
        for token in value.split(b",")
    }
    dropped = _OF_ONE_CONNECTION | (named - _NEVER_NAMED)
    return [(name, value) for name, value in headers if name.lower() not in dropped]


def handed_on(headers: Iterable[Header], client: Client, host: bytes | None) -> list[Header]:
    """The headers of a request to Orthanc, without those that tell the length of the body.

    :param host: the ``Host`` that Orthanc is to see; None for what the client asked for.
    """
    dropped = {b"host", b"content-length", b"via", b"x-forwarded-for"}
    came = passed_on(headers)
    kept = [(name, value) for name, value in came if name.lower() not in dropped]
    kept.insert(0, (b"Host", host or client.host or b"localhost"))
    kept.append((b"X-Forwarded-For", _and(_joined(came, b"x-forwarded-for"), client.address)))
    there = {name.lower() for name, _value in kept}
    if client.host and b"x-forwarded-host" not in there:
        kept.append((b"X-Forwarded-Host", client.host))
    if b"x-forwarded-proto" not in there:
        kept.append((b"X-Forwarded-Proto", b"https" if client.is_secure else b"http"))
    kept.append((b"Via", _and(_joined(came, b"via"), _VIA)))
    return kept


def goes_round(headers: Iterable[Header]) -> bool:
    """Whether a request has passed so many gateways that it will never reach an Orthanc."""
    return _joined(list(headers), b"via").count(_VIA) >= _MOST_GATEWAYS


def without_conditions(headers: Iterable[Header]) -> list[Header]:
    """Those of a request that go with a further one, made to learn Orthanc's part of an answer."""
    return [(name, value) for name, value in headers if name.lower() not in _OF_ONE_ANSWER]


def request_head(method: bytes, target: bytes, headers: Iterable[Header]) -> bytes:
    """A request up to its body."""
    lines = [b"%s %s HTTP/1.1" % (method, target)]
    lines += [b"%s: %s" % header for header in headers]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def _joined(headers: Sequence[Header], wanted: bytes) -> bytes:
    return b", ".join(value for name, value in headers if name.lower() == wanted)


def _and(before: bytes, added: bytes) -> bytes:
    return b"%s, %s" % (before, added) if before else added
