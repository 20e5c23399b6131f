"""One JSON value of the configuration -> one checked value. Pure; used by ``config.py``
and its other parts.

A converter takes the key, the value, the key's path and the list of problems. It adds a sentence
to the list, or raises :class:`BadValueError` with one; the path goes in front of it.
"""

import difflib
import ipaddress
import json
import re
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from txtransfers.config_foreign import Refused
from txtransfers.config_keys import Key, Kind
from txtransfers.passwords import is_hash, problem_of_hash

Converter = Callable[[Key, object, str, list[str]], Any]

_PLAIN_NAME = re.compile(r"[\w-]+\Z")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""Line breaks, and halves of characters (lone surrogates), among them."""
_SHOWN = 40
"""How many characters of a text an error shows."""


class BadValueError(ValueError):
    """The value cannot be used; the text says what was found and what is expected."""


def join(path: str, name: str) -> str:
    """The path of a key in the object at ``path``; an unusual name is quoted."""
    shown = name if _PLAIN_NAME.match(name) else json.dumps(name)
    return f"{path}.{shown}" if path else shown


def describe(value: object, *, secret: bool = False) -> str:
    """What was found, for an error; of a secret only its type."""
    match value:
        case None:
            return "null"
        case dict():
            return "an object"
        case list():
            return "an array"
        case _ if secret:
            return "a text" if isinstance(value, str) else "a number, true or false"
        case str() if len(value) > _SHOWN:
            return f"the text {json.dumps(value[:_SHOWN])}..."
        case str():
            return f"the text {json.dumps(value)}"
        case bool():
            return json.dumps(value)
    return f"the number {str(value)[:_SHOWN]}"


def unlike(key: Key, value: object) -> BadValueError:
    """The error for a value of the wrong type."""
    return BadValueError(f"expected {key.kind.value}, found {describe(value, secret=key.secret)}")


def read_object(key: Key, value: object) -> dict[str, object]:
    """``value``, which must be a JSON object."""
    if not isinstance(value, dict):
        raise unlike(key, value)
    return value


def read_keys(
    keys: Iterable[Key],
    found: Mapping[str, object],
    path: str,
    problems: list[str],
    converters: Mapping[Kind, Converter],
) -> dict[str, Any]:
    """The fields of ``keys``: read from the object at ``path``, or the default.

    None for a field whose value is among the problems, or has no default.
    """
    values: dict[str, Any] = {}
    for key in keys:
        values[key.field] = None
        value = found.get(key.name, key.default)
        if value is None and key.name not in found:
            continue
        here = join(path, key.name)
        try:
            values[key.field] = converters[key.kind](key, value, here, problems)
        except BadValueError as bad:
            problems.append(f"{here}: {bad}")
    return values


def check_refused(
    refused: Iterable[Refused], found: Mapping[str, object], path: str, problems: list[str]
) -> None:
    """Complain about each key that asks for what this daemon does not do."""
    for key in refused:
        if key.name in found and not _is_one_of(found[key.name], key.harmless):
            problems.append(f"{join(path, key.name)}: {key.reason}")


def check_known(known: Iterable[str], found: Iterable[str], path: str, problems: list[str]) -> None:
    """Complain about each key that nobody knows, with the nearest that is known."""
    by_lower_case = {name.lower(): name for name in known}
    for name in found:
        if by_lower_case.get(name.lower()) != name:
            near = difflib.get_close_matches(name.lower(), by_lower_case, n=1)
            hint = f'did you mean "{by_lower_case[near[0]]}"?' if near else "remove it"
            problems.append(f"{join(path, name)}: unknown key; {hint}")


def _is_one_of(value: object, harmless: Iterable[object]) -> bool:
    return any(type(value) is type(one) and value == one for one in harmless)


def _boolean(key: Key, value: object, _path: str, _problems: list[str]) -> bool:
    if not isinstance(value, bool):
        raise unlike(key, value)
    return value


def _overwrite(key: Key, value: object, _path: str, _problems: list[str]) -> bool:
    if isinstance(value, bool):
        return value
    if value == "IfChanged":
        raise BadValueError('"IfChanged" is not supported yet: choose "Always" or "Never"')
    if value not in ("Always", "Never"):
        raise unlike(key, value)
    return value == "Always"


def _caching(key: Key, value: object, _path: str, _problems: list[str]) -> str | None:
    if value not in ("auto", "never", "revalidate", "shared"):
        raise unlike(key, value)
    return None if value == "auto" else str(value)


def _integer(key: Key, value: object, _path: str, _problems: list[str]) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise unlike(key, value)
    _check_range(key, value)
    return value * key.scale


def _integer_or_auto(key: Key, value: object, path: str, problems: list[str]) -> int | None:
    return None if value == "auto" else _integer(key, value, path, problems)


def _seconds(key: Key, value: object, _path: str, _problems: list[str]) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise unlike(key, value)
    _check_range(key, value)
    return value


def _delays(key: Key, value: object, _path: str, _problems: list[str]) -> tuple[float, ...]:
    if not isinstance(value, list | tuple):
        raise unlike(key, value)
    for seconds in value:
        if isinstance(seconds, bool) or not isinstance(seconds, int | float):
            raise BadValueError(f"expected {key.kind.value}, found {describe(seconds)} in it")
        _check_range(key, seconds)
    return tuple(value)


def _check_range(key: Key, value: float) -> None:
    if not key.minimum <= value <= key.maximum:
        unit = f" {key.unit}" if key.unit else ""
        limits = f"from {key.minimum} to {key.maximum}{unit}"
        raise BadValueError(f"expected {limits}, found {describe(value)}")


def _text(key: Key, value: object, _path: str, _problems: list[str]) -> str:
    if not isinstance(value, str):
        raise unlike(key, value)
    check_line(value)
    return value


def _texts(key: Key, value: object, _path: str, _problems: list[str]) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise unlike(key, value)
    for text in value:
        if not isinstance(text, str):
            raise BadValueError(f"expected {key.kind.value}, found {describe(text)} in it")
        check_line(text)
    return tuple(value)


def check_line(text: str) -> None:
    """Refuse control characters, line breaks among them."""
    if _CONTROL.search(text):
        raise BadValueError("contains a control character or a line break: remove it")


def _addresses(key: Key, value: object, _path: str, _problems: list[str]) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise unlike(key, value)
    for address in value:
        try:
            ipaddress.ip_address(address if isinstance(address, str) else "")
        except ValueError:
            raise BadValueError(
                f"expected {key.kind.value}, found {describe(address)} in it"
            ) from None
    return tuple(value)


def _users(key: Key, value: object, path: str, problems: list[str]) -> Mapping[str, str]:
    users = read_object(key, value)
    for user, password in users.items():
        problem = _user_problem(user, password)
        if problem:
            problems.append(f"{join(path, user)}: {problem}")
    return MappingProxyType(dict(users))  # type: ignore[arg-type]


def _user_problem(user: str, password: object) -> str:
    if not user or ":" in user or _CONTROL.search(user):
        return "a user's name cannot be empty, nor contain a colon or a control character"
    if not isinstance(password, str):
        return f"expected the password, a text, found {describe(password, secret=True)}"
    if _CONTROL.search(password):
        return "the password contains a control character or a line break: remove it"
    if is_hash(password) and (problem := problem_of_hash(password)):
        return f"the password {problem}"
    return ""


def _headers(key: Key, value: object, path: str, problems: list[str]) -> Mapping[str, str]:
    headers = read_object(key, value)
    for name, text in headers.items():
        if not _HEADER_NAME.match(name):
            problems.append(f"{join(path, name)}: not the name of a header: letters, digits, '-'")
        elif not isinstance(text, str):
            problems.append(
                f"{join(path, name)}: expected a text, found {describe(text, secret=True)}"
            )
        elif _CONTROL.search(text) or not text.isascii():
            problems.append(
                f"{join(path, name)}: a header holds plain ASCII, without control characters or "
                "line breaks: remove them"
            )
    return MappingProxyType(dict(headers))  # type: ignore[arg-type]


def _url(key: Key, value: object, _path: str, _problems: list[str]) -> str:
    """No error shows the address: it may hold a password."""
    if not isinstance(value, str):
        raise unlike(key, value)
    scheme = value.partition(":")[0].lower()
    if scheme not in ("http", "https") or re.search(r"[^\x21-\x7e]|\\", value):
        raise BadValueError(f"expected {key.kind.value}")
    return _checked_http(key, value)


def _checked_http(key: Key, value: str) -> str:
    check_authority(key, value, "move them to Username and Password")
    if "?" in value or "#" in value:
        raise BadValueError(f"expected {key.kind.value}, without '?' and '#'")
    return value if value.endswith("/") else value + "/"


def check_authority(key: Key, value: str, remedy: str) -> None:
    """Refuse an address without a host, with an impossible port, or with credentials in it.

    :param remedy: what to do with the credentials.
    """
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        raise BadValueError(f"expected {key.kind.value}; its host or port is none") from None
    if "@" in parts.netloc:
        raise BadValueError(f"holds credentials: {remedy}")
    if not parts.hostname or port == 0:
        raise BadValueError(f"expected {key.kind.value}; its host or port is none")


def _web_url(key: Key, value: object, _path: str, _problems: list[str]) -> str:
    """An address that may be https; no error shows it."""
    if not isinstance(value, str):
        raise unlike(key, value)
    scheme = value.partition(":")[0].lower()
    if scheme not in ("http", "https") or re.search(r"[^\x21-\x7e]|\\", value):
        raise BadValueError(f"expected {key.kind.value}")
    return _checked_http(key, value)


SCALARS: Mapping[Kind, Converter] = {
    Kind.BOOLEAN: _boolean,
    Kind.INTEGER: _integer,
    Kind.INTEGER_OR_AUTO: _integer_or_auto,
    Kind.SECONDS: _seconds,
    Kind.DELAYS: _delays,
    Kind.TEXT: _text,
    Kind.TEXTS: _texts,
    Kind.OVERWRITE: _overwrite,
    Kind.ADDRESSES: _addresses,
    Kind.CACHING: _caching,
    Kind.USERS: _users,
    Kind.HEADERS: _headers,
    Kind.URL: _url,
    Kind.WEB_URL: _web_url,
}
