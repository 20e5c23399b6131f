"""``OrthancPeers``: three forms of a peer -> one frozen value. Used by ``config.py`` alone."""

from collections.abc import Mapping
from types import MappingProxyType

import attrs

from txtransfers.config_bandwidth import BANDWIDTH, BandwidthSettings
from txtransfers.config_foreign import PEER_REFUSED
from txtransfers.config_keys import PEER_KEYS, PEER_URL_ALIAS, Key, Kind
from txtransfers.config_values import (
    SCALARS,
    BadValueError,
    check_line,
    check_refused,
    join,
    read_keys,
    read_object,
    unlike,
)

_FORM = Key("", "", Kind.PEER, None, "", secret=True)
_POSITIONS = ("Url", "Username", "Password")


@attrs.frozen
class PeerSettings:
    """One peer.

    :ivar url: ``http[s]://host[:port]/[path/]``, always with a slash at the end, no credentials.
    :ivar username: empty where the peer asks for none.
    :ivar headers: go with each request to the peer.
    :ivar timeout: seconds without progress; None for the global ``http_timeout``.
    :ivar remote_self: the peer's name for this daemon; None where it cannot pull from here.
    :ivar bandwidth: of the transfers that this daemon runs with it.
    :ivar certificate_file: an absolute path, as is ``certificate_key_file``; empty for none.
    :ivar extra: the user's own keys, as they stand in the file.
    """

    url: str
    username: str
    password: str = attrs.field(repr=False)
    headers: Mapping[str, str] = attrs.field(repr=False)
    timeout: float | None
    remote_self: str | None
    extra: Mapping[str, object] = attrs.field(repr=False)
    bandwidth: BandwidthSettings = attrs.field(factory=BandwidthSettings)
    certificate_file: str = ""
    certificate_key_file: str = ""
    certificate_key_password: str = attrs.field(default="", repr=False)

    @property
    def is_secure(self) -> bool:
        """Whether it is reached by TLS."""
        return self.url.lower().startswith("https:")


def read_peers(
    key: Key, value: object, path: str, problems: list[str]
) -> Mapping[str, PeerSettings]:
    """All peers that can be used; the others are among the problems."""
    peers = {}
    for name, form in read_object(key, value).items():
        here = join(path, name)
        try:
            if not name.strip():
                raise BadValueError("the name of a peer cannot be empty")
            check_line(name)
            peers[name] = _read_peer(_as_object(form), here, problems)
        except BadValueError as bad:
            problems.append(f"{here}: {bad}")
    return MappingProxyType(peers)


def _as_object(form: object) -> dict[str, object]:
    if isinstance(form, list) and len(form) in (1, 3):
        return dict(zip(_POSITIONS, form, strict=False))
    if isinstance(form, list):
        raise BadValueError(f"expected {Kind.PEER.value}, found an array of {len(form)}")
    if not isinstance(form, dict):
        raise unlike(_FORM, form)
    return _with_one_url(form)


def _with_one_url(form: dict[str, object]) -> dict[str, object]:
    if PEER_URL_ALIAS not in form:
        return form
    if "Url" in form:
        raise BadValueError('both "Url" and "URL" are given: remove one')
    return {"Url" if name == PEER_URL_ALIAS else name: value for name, value in form.items()}


def _read_peer(found: dict[str, object], path: str, problems: list[str]) -> PeerSettings:
    known = {key.name for key in (*PEER_KEYS, *PEER_REFUSED)}
    extra = {name: value for name, value in found.items() if name not in known}
    _check_case(known, extra, path, problems)
    check_refused(PEER_REFUSED, found, path, problems)
    if "Url" not in found:
        problems.append(f'{path}: has no "Url": add "Url" : "http://host:8042/"')
    values = read_keys(PEER_KEYS, found, path, problems, {**SCALARS, **BANDWIDTH})
    _check_login(values["username"], values["password"], path, problems)
    if values["certificate_key_file"] and not values["certificate_file"]:
        problems.append(f"{path}.CertificateKeyFile: is given without CertificateFile: add it")
    values["timeout"] = values["timeout"] or None
    values["remote_self"] = values["remote_self"] or None
    return PeerSettings(**values, extra=MappingProxyType(extra))


def _check_case(
    known: set[str], extra: Mapping[str, object], path: str, problems: list[str]
) -> None:
    """A user's own key that differs from a known one in its case only is a slip of the pen."""
    by_lower_case = {name.lower(): name for name in known}
    for name in extra:
        meant = by_lower_case.get(name.lower())
        if meant is not None:
            problems.append(f'{join(path, name)}: unknown key; did you mean "{meant}"?')


def _check_login(
    username: str | None, password: str | None, path: str, problems: list[str]
) -> None:
    if username and ":" in username:
        problems.append(f"{path}.Username: a user's name cannot contain a colon")
    if password and username == "":
        problems.append(f"{path}.Password: is given without Username: add it, or remove both")
