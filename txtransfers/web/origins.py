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

_DEFAULT_PORTS = (":80", ":443")


def is_foreign(
    method: str, origin: str | None, fetch_site: str | None, host: str, allowed: Collection[str]
) -> bool:
    """Whether a request that changes something was made by a page of somebody else.

    :param origin: the header ``Origin``; programs that are no browsers send none.
    :param fetch_site: ``Sec-Fetch-Site``. :param host: ``Host``.
    :param allowed: ``AllowedOrigins``.
    """
    if method in HARMLESS or origin in allowed:
        return False
    if origin is None:
        return fetch_site not in (None, "none", "same-origin")
    netloc = urlsplit(origin).netloc if "\n" not in origin else ""
    return not netloc or _plain(netloc) != _plain(host)


def _plain(place: str) -> str:
    """A host and port, without a port that a browser leaves out."""
    place = place.lower()
    for port in _DEFAULT_PORTS:
        place = place.removesuffix(port)
    return place
