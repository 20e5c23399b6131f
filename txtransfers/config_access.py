"""Who may come in and what they may do: keys of the configuration -> checked values.

Used by ``config.py`` alone; the names of permissions are used by ``web/permissions.py`` too.
"""

from collections.abc import Iterator, Mapping
from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from txtransfers.config_keys import Key, Kind
from txtransfers.config_values import (
    BadValueError,
    Converter,
    check_line,
    describe,
    join,
    read_object,
    unlike,
)
from txtransfers.passwords import problem_of_token

if TYPE_CHECKING:
    from txtransfers.config import Settings


class Permission(Enum):
    """What a user may do; the value is how the configuration writes it."""

    READ = "read"
    RECEIVE = "receive"
    PUSH = "push"
    SEND = "send"
    MONITOR = "monitor"
    ADMINISTER = "administer"


EVERYTHING = frozenset(Permission)


def _tokens(key: Key, value: object, path: str, problems: list[str]) -> Mapping[str, str]:
    tokens = {}
    for name, token in read_object(key, value).items():
        here = join(path, name)
        try:
            check_line(name)
            if not name:
                raise BadValueError("the name of a token cannot be empty")
            if not isinstance(token, str):
                raise BadValueError(f"expected a token, found {describe(token, secret=True)}")
            if problem := problem_of_token(token):
                raise BadValueError(f"the token {problem}")
            tokens[name] = token
        except BadValueError as bad:
            problems.append(f"{here}: {bad}")
    return MappingProxyType(tokens)


def _permissions(
    key: Key, value: object, path: str, problems: list[str]
) -> Mapping[str, frozenset[Permission]]:
    table = {}
    known = ", ".join(f'"{permission.value}"' for permission in Permission)
    for name, wanted in read_object(key, value).items():
        here = join(path, name)
        if not isinstance(wanted, list):
            problems.append(f"{here}: expected an array of permissions, found {describe(wanted)}")
            continue
        found = {p for p in Permission if p.value in wanted}
        problems.extend(
            f"{here}: {describe(each)} is no permission; there are {known}"
            for each in wanted
            if each not in [p.value for p in found]
        )
        table[name] = frozenset(found)
    return MappingProxyType(table)


def _origins(key: Key, value: object, _path: str, _problems: list[str]) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise unlike(key, value)
    for origin in value:
        if not _is_origin(origin):
            raise BadValueError(f"expected {key.kind.value}, found {describe(origin)} in it")
    return tuple(value)


def _is_origin(value: object) -> bool:
    try:
        parts = urlsplit(value) if isinstance(value, str) else urlsplit("")
    except ValueError:  # brackets that are no IPv6 address
        return False
    return parts.scheme in ("http", "https") and f"{parts.scheme}://{parts.netloc}" == value


ACCESS: Mapping[Kind, Converter] = {
    Kind.TOKENS: _tokens,
    Kind.PERMISSIONS: _permissions,
    Kind.ORIGINS: _origins,
}


def check_access(settings: "Settings", problems: list[str]) -> None:
    """Complain about what would let in somebody who was not meant, or nobody."""
    problems.extend(_access_problems(settings))


def _access_problems(settings: "Settings") -> Iterator[str]:
    if (
        settings.remote_access_allowed
        and not settings.authentication_enabled
        and not (settings.ssl_enabled and settings.ssl_verify_peers)
        and not settings.remote_access_without_users
    ):
        yield (
            "RemoteAccessAllowed: whoever reaches the port could read and delete everything, since "
            "AuthenticationEnabled is false: set it to true and add users, or say"
            ' "RemoteAccessWithoutUsers" : true'
        )
    names = {*settings.registered_users, *settings.bearer_tokens}
    for name in sorted(set(settings.registered_users) & set(settings.bearer_tokens)):
        yield f"BearerTokens.{join('', name)}: is a user, too: give the script another name"
    if settings.permissions:
        for name in sorted(names - set(settings.permissions)):
            yield (
                f"Permissions: does not say what {join('', name)} may do: add it, with"
                ' [ "administer" ] for everything, or [ ] for nothing'
            )
        for name in sorted(set(settings.permissions) - names):
            yield f"Permissions.{join('', name)}: is in neither RegisteredUsers nor BearerTokens"
