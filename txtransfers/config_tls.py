"""``HttpProxy``, and where the files of certificates are. Used by ``config.py`` alone."""

import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

import attrs

from txtransfers.config_keys import Key, Kind
from txtransfers.config_values import BadValueError, Converter, check_line, unlike

FILES = ("ssl_certificate", "ssl_trusted_client_certificates", "https_ca_certificates", "audit_log")
PEER_FILES = ("certificate_file", "certificate_key_file")


@attrs.frozen
class HttpProxy:
    """A proxy by which peers are reached.

    :ivar username: empty where it asks for none.
    """

    host: str
    port: int
    username: str = attrs.field(default="", repr=False)
    password: str = attrs.field(default="", repr=False)


def _proxy(key: Key, value: object, _path: str, _problems: list[str]) -> HttpProxy | None:
    """No error shows it: it may hold a password."""
    if not isinstance(value, str):
        raise unlike(key, value)
    check_line(value)
    if not value:
        return None
    scheme, separator, rest = value.partition("://")
    if separator and scheme.lower() != "http":
        raise BadValueError("is reached by http alone, without TLS: expected " + key.kind.value)
    # A password may hold an "@", as Orthanc's may: the last one counts.
    login, _at, place = (rest if separator else value).rpartition("@")
    username, _colon, password = login.partition(":")
    try:
        parts = urlsplit(f"//{place}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or not port or parts.path.strip("/") or parts.query or parts.fragment:
        raise BadValueError(f"expected {key.kind.value}; its host or port is missing")
    return HttpProxy(host, port, unquote(username), unquote(password))


TLS: Mapping[Kind, Converter] = {Kind.PROXY: _proxy}


def make_absolute(values: dict[str, Any], names: tuple[str, ...], folder: str) -> None:
    """Files are named relative to the folder of the configuration; an empty name is none."""
    for name in names:
        if values.get(name):
            values[name] = os.path.abspath(os.path.join(folder, values[name]))
