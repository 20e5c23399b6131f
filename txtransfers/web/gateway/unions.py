"""Answers of which one part is Orthanc's and the other ours: plugins, jobs, peers, metrics.

Orthanc's part is what it gives to this client: it is asked with the client's own credentials.
"""

import json
from collections.abc import Mapping
from typing import Any

from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import Request

from ...config import PeerSettings
from ...errors import BadState, OrthancUnreachable
from ...threads import IThreads
from ...transfer.peers import PLUGIN
from ..jobs import Jobs
from ..resource import JSON_UTF8, ApiResource, Reply, encode
from ..server import StreamingRequest
from ..system import Metrics, PeerNode, Plugins, peer_json
from .exchange import HandOn, client_of, headers_of
from .headers import handed_on, without_conditions
from .upstream import Fetched, Upstream

_LONGEST = 64 * 2**20
"""Bytes of Orthanc's part; of ten thousand jobs it has about 20 MB."""

_UNASKED = (401, 403)
_METHODS = ("GET", "HEAD")

log = Logger()


class Refused(Exception):
    """Orthanc's answer is not the part that was asked for: the client gets it as it is."""

    def __init__(self, fetched: Fetched) -> None:
        super().__init__(fetched.head.status)
        self.fetched = fetched

    def reply(self) -> Reply:
        """What the client gets."""
        return as_reply(self.fetched, self.fetched.body)


def as_reply(fetched: Fetched, body: bytes) -> Reply:
    """Orthanc's answer with another body: its status, its type, and how to log in."""
    head = fetched.head
    kind = [value for name, value in head.headers if name.lower() == b"content-type"]
    kept = (b"www-authenticate", b"cache-control", b"set-cookie", b"location")
    headers = {
        name.decode("latin-1"): value.decode("latin-1")
        for name, value in head.headers
        if name.lower() in kept
    }
    return Reply(body, kind[0].decode("latin-1") if kind else None, head.status, headers)


class Union(ApiResource):
    """Base: GET is ours, all other methods are Orthanc's."""

    def __init__(self, upstream: Upstream, threads: IThreads) -> None:
        super().__init__()
        self._upstream = upstream
        self._threads = threads
        self._hand_on = HandOn(upstream)

    async def handle(self, request: StreamingRequest, method: str) -> Any:
        """Answer, or hand it on."""
        if method not in _METHODS:
            return await self._hand_on.handle(request, method)
        try:
            return await super().handle(request, method)
        except Refused as refused:
            return refused.reply()

    async def theirs(self, request: StreamingRequest) -> Fetched:
        """Orthanc's answer to the same request.

        :raises Refused: its status is not 200.
        """
        headers = without_conditions(headers_of(request))
        headers = handed_on(headers, client_of(request), self._upstream.host)
        fetched = await self._upstream.fetch(request.uri, headers, _LONGEST)
        if fetched.head.status != 200:
            raise Refused(fetched)
        return fetched

    async def value(self, request: StreamingRequest, kind: type) -> Any:
        """The JSON value of that answer, an array or an object.

        :raises OrthancUnreachable: it is no JSON of this kind.
        """
        fetched = await self.theirs(request)
        try:
            value = await self._threads.run(json.loads, fetched.body)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, kind):
            path = request.path.decode("latin-1")
            raise OrthancUnreachable(
                f"Orthanc at {self._upstream.url} answered {path} with something else than it"
                " should: is Store.Url the address of an Orthanc?"
            )
        return value

    async def told(self, value: Any) -> Reply:
        """A JSON answer, possibly large, as Orthanc writes them."""
        text = await self._threads.run(json.dumps, value, indent=3, ensure_ascii=False)
        return Reply(encode(text), JSON_UTF8)

    def getChild(self, path: bytes, request: Request) -> Resource:
        """What is not ours is Orthanc's."""
        return self._hand_on


class PluginsUnion(Union):
    """``/plugins``."""

    async def get(self, request: StreamingRequest) -> Any:
        """Orthanc's and ours. Peers look here for us, whom Orthanc may not know."""
        try:
            theirs = await self.value(request, list)
        except Refused as refused:
            if refused.fetched.head.status not in _UNASKED:
                raise
            theirs = []
        return [*theirs, *(name for name in [PLUGIN] if name not in theirs)]

    def getChild(self, path: bytes, request: Request) -> Resource:
        """Ours, or one of Orthanc's."""
        if path == PLUGIN.encode():
            return Plugins().getChild(path, request)
        return super().getChild(path, request)


class JobsUnion(Union):
    """``/jobs``."""

    def __init__(self, upstream: Upstream, threads: IThreads, ours: Jobs) -> None:
        super().__init__(upstream, threads)
        self._ours = ours

    async def get(self, request: StreamingRequest) -> Any:
        """Orthanc's and ours. Without Orthanc, ours: they may be failing for just that."""
        ours = await self._ours.get(request)
        try:
            return await self.told([*await self.value(request, list), *ours])
        except OrthancUnreachable as error:
            log.info("/jobs: only our own: {error}", error=error)
            return ours

    def getChild(self, path: bytes, request: Request) -> Resource:
        """A job of ours, or one of Orthanc's."""
        if self._ours.has(path.decode("utf-8", "replace")):
            return self._ours.getChild(path, request)
        return super().getChild(path, request)


class PeersUnion(Union):
    """``/peers``: of two with the same name, ours."""

    def __init__(
        self, upstream: Upstream, threads: IThreads, ours: Mapping[str, PeerSettings]
    ) -> None:
        super().__init__(upstream, threads)
        self._ours = ours

    async def get(self, request: StreamingRequest) -> Any:
        """Ours, then what only Orthanc has."""
        if b"expand" in (request.args or {}):
            expanded = await self.value(request, dict)
            ours = {name: peer_json(peer) for name, peer in self._ours.items()}
            return await self.told(expanded | ours)
        names = await self.value(request, list)
        return [*self._ours, *(name for name in names if name not in self._ours)]

    def getChild(self, path: bytes, request: Request) -> Resource:
        """A peer of ours, or one of Orthanc's."""
        name = path.decode("utf-8", "replace")
        if name in self._ours:
            return OurPeer(name, self._ours, self._hand_on)
        return super().getChild(path, request)


class OurPeer(PeerNode):
    """``/peers/NAME`` of ours; Orthanc's own way to send to a peer is Orthanc's, if it knows it."""

    def __init__(self, name: str, peers: Mapping[str, PeerSettings], hand_on: HandOn) -> None:
        super().__init__(name, peers)
        self._hand_on = hand_on

    async def handle(self, request: StreamingRequest, method: str) -> Any:
        """Show it; it is changed in the file only."""
        if method not in _METHODS:
            raise BadState(
                f'The peer "{self._name}" is in OrthancPeers of txtransfers, and wins over one of'
                " Orthanc's: change it in that file, and restart txtransfers"
            )
        return await super().handle(request, method)

    def getChild(self, path: bytes, request: Request) -> Resource:
        """Its configuration is ours."""
        child = super().getChild(path, request)
        return self if child is self else self._hand_on


class MetricsUnion(Union):
    """``/tools/metrics-prometheus``: of two with the same name, ours."""

    def __init__(self, upstream: Upstream, threads: IThreads, ours: Metrics) -> None:
        super().__init__(upstream, threads)
        self._ours = ours

    async def get(self, request: StreamingRequest) -> Reply:
        """Orthanc's and ours, and whether Orthanc answered."""
        ours = await self._ours.get(request)
        try:
            theirs, is_up = (await self.theirs(request)).body, 1
        except OrthancUnreachable as error:
            log.info("The metrics: only our own: {error}", error=error)
            theirs, is_up = b"", 0
        body = merge_metrics(theirs, ours.body, is_up)
        return Reply(body, ours.content_type)


def merge_metrics(theirs: bytes, ours: bytes, is_up: int) -> bytes:
    """Lines of both; a name that both have is ours."""
    names = {line.split()[0] for line in ours.splitlines() if line.strip()}
    kept = [line for line in theirs.splitlines() if _metric(line) not in names]
    return b"\n".join([*kept, b"txtransfers_orthanc_up %d" % is_up, ours])


def _metric(line: bytes) -> bytes:
    """The name that a line is about; comments name it after their keyword."""
    words = line.replace(b"{", b" ", 1).split()
    if words[:1] == [b"#"]:
        return words[2] if len(words) > 2 else b""
    return words[0] if words else b""
