"""``Store``: where instances live -> one frozen value. Used by ``config.py`` alone."""

import ipaddress
import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import attrs

from txtransfers.config_keys import STORE_KEYS, Key, Kind
from txtransfers.config_values import (
    SCALARS,
    BadValueError,
    Converter,
    check_known,
    check_line,
    join,
    read_keys,
    read_object,
    unlike,
)

_ORTHANC = "Orthanc"
_TYPES = ("Embedded", _ORTHANC)


@attrs.frozen
class OrthancSettings:
    """The Orthanc whose archive is the store (``"Type" : "Orthanc"``).

    :ivar url: ``http[s]://host[:port]/[path/]``, always with a slash at the end, no credentials.
    :ivar username: empty where it asks for none.
    :ivar headers: go with each request to it.
    :ivar timeout: seconds without progress; None for the global ``http_timeout``.
    :ivar cache_size: bytes of disk for copies of its instances.
    :ivar proxy_timeout: seconds without progress, of a request that is handed on to it.
    :ivar explorer_root: where Orthanc Explorer 2 is, as ``/ui/``.
    :ivar https_verify: whether its certificate is checked.
    :ivar https_ca_certificates: an absolute path; empty for the authorities of the system. So are
        ``certificate_file`` and ``certificate_key_file``; empty: we show no certificate.
    """

    url: str
    username: str
    password: str = attrs.field(repr=False)
    headers: Mapping[str, str] = attrs.field(repr=False)
    timeout: float | None
    cache_size: int
    proxy_timeout: float
    explorer_root: str
    https_verify: bool
    https_ca_certificates: str
    certificate_file: str
    certificate_key_file: str
    certificate_key_password: str = attrs.field(repr=False)

    @property
    def is_secure(self) -> bool:
        """Whether it is reached by TLS."""
        return self.url.lower().startswith("https:")


def store_reader(folder: str) -> Converter:
    """A converter of ``Kind.STORE``; None where the store is our own.

    :param folder: what relative paths are relative to.
    """

    def file(key: Key, value: object, _path: str, _problems: list[str]) -> str:
        if not isinstance(value, str):
            raise unlike(key, value)
        check_line(value)
        return os.path.abspath(os.path.join(folder, value)) if value else ""

    def read(key: Key, value: object, path: str, problems: list[str]) -> OrthancSettings | None:
        return _read(read_object(key, value), path, problems, {**SCALARS, **converters})

    converters: dict[Kind, Converter] = {Kind.FILE: file, Kind.STORE_TYPE: _type}
    return read


def _type(key: Key, value: object, _path: str, _problems: list[str]) -> str:
    if not isinstance(value, str) or value not in _TYPES:
        raise unlike(key, value)
    return value


def _read(
    found: dict[str, object],
    path: str,
    problems: list[str],
    converters: Mapping[Kind, Converter],
) -> OrthancSettings | None:
    check_known([known.name for known in STORE_KEYS], found, path, problems)
    if found.get("Type", _TYPES[0]) == _TYPES[0]:
        problems.extend(
            f'{join(path, name)}: means something with "Type" : "Orthanc" only: add that, or'
            " remove the key"
            for name in found
            if name != "Type"
        )
        return None
    values = read_keys(STORE_KEYS, found, path, problems, converters)
    del values["type"]
    if "Url" not in found:
        raise BadValueError('has no "Url": add "Url" : "http://localhost:8042/"')
    if values["username"] and ":" in values["username"]:
        problems.append(f"{path}.Username: a user's name cannot contain a colon")
    if values["password"] and values["username"] == "":
        problems.append(f"{path}.Password: is given without Username: add it, or remove both")
    if bool(values["certificate_file"]) != bool(values["certificate_key_file"]):
        problems.append(f"{path}: CertificateFile and CertificateKeyFile go together: give both")
    values["timeout"] = values["timeout"] or None
    return OrthancSettings(**values)


def leads_to(settings: OrthancSettings, port: int) -> bool:
    """Whether the address is that of this machine at ``port``."""
    parts = urlsplit(settings.url)
    host = parts.hostname or ""
    actual: Any = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        is_here = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_here = host == "localhost"
    return is_here and actual == port
