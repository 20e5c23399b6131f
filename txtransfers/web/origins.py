"""Whether a request was made by a page of another site, in somebody's browser. Pure.

A browser sends what such a page wants together with the user's password, or from within the
network that is let in; it says so, in headers that a page cannot change.
"""

from collections.abc import Callable
from urllib.parse import urlsplit

SAFE_METHODS = frozenset({b"GET", b"HEAD", b"OPTIONS"})
_OWN_SITES = ("same-origin", "none")


def is_foreign(method: bytes, header: Callable[[bytes], bytes | None]) -> bool:
    """Whether to refuse it. What only reads is not refused: its answer stays unread.

    :param header: gives a header of the request, or None.
    """
    if method in SAFE_METHODS:
        return False
    site = header(b"Sec-Fetch-Site")
    if site is not None:
        return site.decode("latin-1").strip().lower() not in _OWN_SITES
    origin = header(b"Origin")
    if origin is None:  # no browser, or an old one that has not left its page
        return False
    # The name that the browser knows may be that of a proxy, which tells it.
    names = (header(b"Host"), header(b"X-Forwarded-Host"))
    return _host(origin.decode("latin-1")) not in {
        name.decode("latin-1").strip().lower() for name in names if name
    }


def _host(origin: str) -> str | None:
    """Name and port of an origin, as in ``Host``; of an opaque one, None."""
    try:
        return urlsplit(origin.strip()).netloc.lower() or None
    except ValueError:
        return None
