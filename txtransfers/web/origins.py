"""Which page of a browser a request comes from: pages of others may change nothing here. Pure."""

from collections.abc import Collection, Mapping
from urllib.parse import urlsplit

HARMLESS = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing."""

HEADERS: Mapping[str, str] = {
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""What each answer tells browsers, unless its resource tells them something else: it is no page, no
frame of one, no script or image in one.
"""

_OWN = ("none", "same-origin")
_DEFAULT_PORTS = (":80", ":443")


def is_foreign(
    method: str,
    origin: str | None,
    fetch_site: str | None,
    hosts: Collection[str],
    allowed: Collection[str],
) -> bool:
    """Whether a request that changes something was made by a page of somebody else.

    :param origin: the header ``Origin``; programs that are no browsers send none.
    :param fetch_site: ``Sec-Fetch-Site``, which a page cannot change.
    :param hosts: ``Host``, and ``X-Forwarded-Host`` where a proxy tells it. A page of another
        address could add the latter only if we let it.
    :param allowed: ``AllowedOrigins``.
    """
    if method in HARMLESS or origin in allowed:
        return False
    if fetch_site is not None:
        return fetch_site.strip().lower() not in _OWN
    if origin is None:
        return False
    place = _netloc(origin)
    return not place or _plain(place) not in {_plain(host) for host in hosts}


def _netloc(origin: str) -> str:
    """Its host and port; of an opaque one, empty."""
    try:
        return urlsplit(origin).netloc if "\n" not in origin else ""
    except ValueError:
        return ""


def _plain(place: str) -> str:
    """A host and port, without a port that a browser leaves out."""
    place = place.strip().lower()
    for port in _DEFAULT_PORTS:
        place = place.removesuffix(port)
    return place
