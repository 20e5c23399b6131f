"""Which daemon is meant, and who we are to it: from options, the environment, a configuration."""

import ipaddress
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from ..client import Client
from ..client.http import checked_url
from ..config import Settings, load
from ..errors import ConfigurationError
from ..passwords import is_hash

DEFAULT_URL = "http://127.0.0.1:8042/"

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


@attrs.frozen
class Wishes:
    """What the options say; None where they do not.

    :ivar as_json: whether programs read the output.
    """

    url: str | None = None
    config: str | None = None
    credentials: str | None = None
    authorities: str | None = None
    as_json: bool | None = None

    def over(self, other: "Wishes") -> "Wishes":
        """These, and those of ``other`` where these say nothing."""
        mine = {name: value for name, value in attrs.asdict(self).items() if value is not None}
        return attrs.evolve(other, **mine)


@attrs.frozen
class Place:
    """A daemon, and what is known of it.

    :ivar settings: its configuration, where that was named.
    """

    url: str
    user: str
    password: str = attrs.field(repr=False)
    authorities: bytes | None
    settings: Settings | None

    def client(self, reactor: Any, **more: Any) -> Client:
        """A client of it."""
        return Client(
            reactor, self.url, self.user, self.password, authorities=self.authorities, **more
        )


def find_place(wishes: Wishes, environment: Mapping[str, str]) -> Place:
    """The daemon that is meant. Blocking.

    :raises ConfigurationError: a file cannot be read, or what is in it cannot be used.
    """
    settings = load(wishes.config, environment) if wishes.config is not None else None
    url = checked_url(wishes.url or (url_of(settings) if settings is not None else DEFAULT_URL))
    user, password = _credentials(wishes, environment, settings)
    authorities = None if wishes.authorities is None else _read(wishes.authorities)
    return Place(url, user, password, authorities, settings)


def url_of(settings: Settings) -> str:
    """Where a daemon of this configuration listens, seen from its own host."""
    addresses = settings.http_bind_addresses
    host = addresses[0] if addresses else "127.0.0.1"
    address = ipaddress.ip_address(host)
    if address.is_unspecified:
        host = "::1" if address.version == 6 else "127.0.0.1"
    shown = f"[{host}]" if ":" in host else host
    scheme = "https" if settings.ssl_enabled else "http"
    return f"{scheme}://{shown}:{settings.http_port}/"


def _credentials(
    wishes: Wishes, environment: Mapping[str, str], settings: Settings | None
) -> tuple[str, str]:
    """Those of the file, else of the environment, else of the configuration.

    The configuration's are for its own daemon alone; passwords that it keeps as hashes are not
    known.
    """
    if wishes.credentials is not None:
        return _from_file(wishes.credentials)
    user = environment.get("TXTRANSFERS_USER", "")
    if user:
        return user, environment.get("TXTRANSFERS_PASSWORD", "")
    if settings is not None and wishes.url is None and settings.authentication_enabled:
        usable = (pair for pair in settings.registered_users.items() if not is_hash(pair[1]))
        return next(usable, ("", ""))
    return "", ""


def _from_file(path: str) -> tuple[str, str]:
    data = _read(path)
    if os.stat(path).st_mode & _OTHERS:
        raise ConfigurationError(
            f"{path}: others may read these credentials, and they may not: chmod 600 {path}"
        )
    try:
        text = data.decode().strip("\r\n")
    except UnicodeDecodeError:
        text = ""
    user, colon, password = text.partition(":")
    if not user or not colon or "\n" in text:
        raise ConfigurationError(f"{path}: expected one line, user:password, in UTF-8")
    return user, password


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from None
