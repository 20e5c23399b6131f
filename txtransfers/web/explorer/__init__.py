"""The page for people, at ``/transfers/explorer/``: files of this package, kept in memory.

Plain HTML, CSS and JavaScript, made by no build step and loading nothing from elsewhere. All but
the first file lie below a name that changes with their content, so that browsers keep them.
"""

import gzip
import hashlib
import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
from twisted.web.resource import Resource
from twisted.web.server import Request

from ... import __version__
from ..origins import HEADERS
from ..resource import ApiResource, NotFound, NotFoundParent, Reply
from ..server import StreamingRequest

FOLDER = Path(__file__).parent / "static"
_INDEX = "index.html"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self'",
    "connect-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
    "require-trusted-types-for": "'script'",
    "trusted-types": "'none'",
}
_HEADERS = {
    **HEADERS,
    "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in _POLICY.items()),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Vary": "Accept-Encoding",
}
_ALWAYS_ASK = "no-cache"
_FOR_EVER = "private, max-age=31536000, immutable"
_TAG_SIZE = 16


@attrs.frozen
class Asset:
    """A file, ready to be sent. :ivar tag: tells its content from any other."""

    plain: bytes
    packed: bytes
    type: str
    tag: str
    caching: str

    def reply(self, request: StreamingRequest) -> Reply:
        """The answer to a request for it."""
        headers = {**_HEADERS, "Cache-Control": self.caching, "ETag": f'"{self.tag}"'}
        if self.tag in (request.getHeader(b"If-None-Match") or b"").decode("latin-1"):
            return Reply(b"", None, 304, headers)
        accepted = (request.getHeader(b"Accept-Encoding") or b"").decode("latin-1")
        if any(each.strip().split(";")[0] == "gzip" for each in accepted.split(",")):
            return Reply(self.packed, self.type, 200, {**headers, "Content-Encoding": "gzip"})
        return Reply(self.plain, self.type, 200, headers)


def make_asset(data: bytes, suffix: str, caching: str) -> Asset:
    """Pack a file, and name its content."""
    packed = gzip.compress(data, mtime=0)
    return Asset(data, packed, _TYPES[suffix], _name(data), caching)


def _name(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:_TAG_SIZE]


class Explorer(ApiResource):
    """``/transfers/explorer/``. Reads the files at once: it is made at the start."""

    def __init__(self, name: str, has_archive: bool) -> None:
        """:param name: of the daemon. :param has_archive: whether there is one to show."""
        super().__init__()
        files = {path.name: path.read_bytes() for path in sorted(FOLDER.iterdir())}
        index = files.pop(_INDEX).decode()
        version = _name(b"".join(files.values()))
        for word, value in (
            ("{{assets}}", version),
            ("{{name}}", name),
            ("{{version}}", __version__),
            ("{{archive}}", "yes" if has_archive else "no"),
        ):
            index = index.replace(word, html.escape(value))
        self._index = make_asset(index.encode(), Path(_INDEX).suffix, _ALWAYS_ASK)
        assets = {n: make_asset(data, Path(n).suffix, _FOR_EVER) for n, data in files.items()}
        self._version = version
        self._assets = Assets(assets)

    async def get(self, request: StreamingRequest) -> Reply:
        """The page; without the slash at its end, the way to it."""
        if not request.path.endswith(b"/"):
            return redirection("explorer/")
        return self._index.reply(request)

    def getChild(self, path: bytes, request: Request) -> Resource:
        """Its other files."""
        return self._assets if path == self._version.encode() else NotFound()


class Assets(NotFoundParent):
    """The files of one version of the page."""

    def __init__(self, assets: Mapping[str, Asset]) -> None:
        super().__init__()
        self._files = assets

    def getChild(self, path: bytes, request: Request) -> Resource:
        """One file."""
        asset = self._files.get(path.decode("latin-1"))
        return AssetNode(asset) if asset is not None else NotFound()


class AssetNode(ApiResource):
    """A file."""

    def __init__(self, asset: Asset) -> None:
        super().__init__()
        self._asset = asset

    async def get(self, request: StreamingRequest) -> Any:
        """Send it."""
        return self._asset.reply(request)


def redirection(to: str) -> Reply:
    """The way to another path, relative, so that it holds behind a proxy too."""
    return Reply(b"", None, 307, {"Location": to})


class Front(NotFoundParent):
    """``/``, which leads to the page."""

    async def handle(self, request: StreamingRequest, method: str) -> Any:
        """Lead there."""
        if method in ("GET", "HEAD"):
            return redirection("transfers/explorer/")
        return await super().handle(request, method)
