"""``Transfers.Webhooks`` -> frozen values. Used by ``config.py`` alone; pure.

No error shows an address: some services put a token into it.
"""

import binascii
import re
from base64 import b64decode

import attrs

from txtransfers.config_keys import Key, Kind
from txtransfers.config_values import (
    BadValueError,
    check_authority,
    check_known,
    describe,
    join,
    unlike,
)

SHORTEST_SECRET = 24
"""Bytes; so says Standard Webhooks, as of the longest."""

LONGEST_SECRET = 64

_PREFIX = "whsec_"
_HOW = "make one with: openssl rand -base64 32"
_MEMBERS = ("Url", "Secret")
_URL_KEY = Key("Url", "url", Kind.URL, None, "", secret=True)


@attrs.frozen
class WebhookSettings:
    """Who is told.

    :ivar url: ``http`` or ``https``; it may hold a token, and is not for logs.
    :ivar secret: the key of the signatures.
    """

    url: str = attrs.field(repr=False)
    secret: bytes = attrs.field(repr=False)


def read_webhooks(
    key: Key, value: object, path: str, problems: list[str]
) -> tuple[WebhookSettings, ...]:
    """All webhooks that can be used; the others are among the problems."""
    if not isinstance(value, list | tuple):
        raise unlike(key, value)
    found: list[WebhookSettings] = []
    for number, form in enumerate(value):
        here = f"{path}[{number}]"
        if not isinstance(form, dict):
            problems.append(
                f'{here}: expected {{ "Url", "Secret" }}, found {describe(form, secret=True)}'
            )
            continue
        webhook = _read_webhook(form, here, problems)
        if webhook is None:
            continue
        if any(webhook.url == other.url for other in found):
            problems.append(f"{here}.Url: is that of an earlier webhook: remove one")
            continue
        found.append(webhook)
    return tuple(found)


def _read_webhook(
    form: dict[str, object], path: str, problems: list[str]
) -> WebhookSettings | None:
    check_known(_MEMBERS, form, path, problems)
    readers = {"Url": _url, "Secret": _secret}
    values: dict[str, object] = {}
    for name, read in readers.items():
        try:
            values[name] = read(form.get(name))
        except BadValueError as bad:
            problems.append(f"{join(path, name)}: {bad}")
    if len(values) < len(readers):
        return None
    return WebhookSettings(values["Url"], values["Secret"])  # type: ignore[arg-type]


def _url(value: object) -> str:
    if value is None:
        raise BadValueError('is missing: add "Url" : "https://host/path"')
    if not isinstance(value, str):
        raise unlike(_URL_KEY, value)
    scheme = value.partition(":")[0].lower()
    if scheme not in ("http", "https") or re.search(r"[^\x21-\x7e]|\\|#", value):
        raise BadValueError("expected an address such as https://host/path, without '#'")
    check_authority(_URL_KEY, value, "remove them, the signature tells who calls")
    return value


def _secret(value: object) -> bytes:
    if value is None:
        raise BadValueError(f"is missing: what is sent is signed with it; {_HOW}")
    if not isinstance(value, str):
        raise BadValueError(f"expected a text, found {describe(value, secret=True)}")
    try:
        secret = b64decode(value.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise BadValueError(f"is not base64; {_HOW}") from None
    if not SHORTEST_SECRET <= len(secret) <= LONGEST_SECRET:
        raise BadValueError(
            f"expected {SHORTEST_SECRET} to {LONGEST_SECRET} bytes in base64, found"
            f" {len(secret)}; {_HOW}"
        )
    return secret


WEBHOOKS = {Kind.WEBHOOKS: read_webhooks}
