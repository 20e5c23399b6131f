"""``/transfers/peers``: who can be reached, what works with a peer, and what it holds."""

from typing import Any

import attrs
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IReactorTime
from twisted.web.resource import Resource
from twisted.web.server import Request

from ..errors import BadMessage, PeerRefused
from ..threads import IThreads
from ..transfer.directory import Directory
from ..transfer.examination import Examination, Result
from ..transfer.peers import Peer
from ..wire.messages import decode
from .resource import NotFound, Reply, TransfersResource, argument, compact, read_body
from .server import StreamingRequest

_MS = 1000
_BODY_SIZE = 2**20
_MOST_FOUND = 200
"""Resources that are asked for at a time."""

_NOT_THERE = (404, 405)


@attrs.frozen
class PeerParts:
    """What the nodes of peers share.

    :ivar timeout: ``PeerConnectivityTimeout``, in seconds, of each peer by itself.
    :ivar here: the name of this daemon.
    """

    peers: Directory
    threads: IThreads
    clock: IReactorTime
    timeout: float
    here: str


class ProbePeers(TransfersResource):
    """``/transfers/peers``, whose children are peers."""

    def __init__(self, parts: PeerParts) -> None:
        super().__init__()
        self._parts = parts

    async def get(self, request: StreamingRequest) -> Any:
        """Which peers have the accelerator; all are asked at the same time."""
        expand = argument(request, "expand") is not None
        peers, timeout = self._parts.peers, self._parts.timeout
        await peers.refresh()
        names = sorted(peers)
        ask = describe if expand else _probe
        probes = [Deferred.fromCoroutine(ask(peers[name], timeout)) for name in names]
        results = await DeferredList(probes, consumeErrors=True)
        return {name: state for name, (_ok, state) in zip(names, results, strict=True)}

    def getChild(self, path: bytes, request: Request) -> Resource:
        """One peer."""
        return PeerNode(path.decode("utf-8", "replace"), self._parts)


async def _probe(peer: Peer, timeout: float) -> Any:
    return _state(peer, await peer.has_accelerator(timeout))


def _state(peer: Peer, accelerated: bool) -> str:
    if not accelerated:
        return "disabled"
    return "bidirectional" if peer.settings.remote_self else "installed"


async def describe(peer: Peer, timeout: float) -> Any:
    """A peer for people; it is asked for ``timeout`` seconds at the most."""
    greeting = await peer.greet(timeout)
    return {
        "Name": peer.name,
        "State": _state(peer, greeting.accelerated),
        "Mode": "pull" if peer.settings.remote_self else "push",
        "Url": peer.settings.url,
        "RemoteSelf": peer.settings.remote_self or "",
        "Reason": greeting.reason,
        "RoundTripMs": round(greeting.seconds * _MS, 2),
        "RemoteName": greeting.name,
        "Version": greeting.version,
        "TxtransfersVersion": greeting.own_version,
        "PluginVersion": greeting.plugin_version,
    }


class OfPeer(TransfersResource):
    """A node of one peer."""

    def __init__(self, name: str, parts: PeerParts) -> None:
        super().__init__()
        self._name = name
        self._parts = parts

    async def _peer(self) -> Peer:
        await self._parts.peers.refresh()
        return self._parts.peers.find(self._name)


class PeerNode(OfPeer):
    """``/transfers/peers/NAME``, and what can be done with it."""

    async def get(self, request: StreamingRequest) -> Any:
        """What is known of it at this moment."""
        return await describe(await self._peer(), self._parts.timeout)

    def getChild(self, path: bytes, request: Request) -> Resource:
        """An action."""
        node = {b"test": PeerTest, b"find": PeerFind}.get(path)
        return node(self._name, self._parts) if node is not None else NotFound()


class PeerTest(OfPeer):
    """``/transfers/peers/NAME/test``."""

    async def post(self, request: StreamingRequest) -> Any:
        """Try step by step what a transfer needs; the body counts for nothing."""
        peer, parts = await self._peer(), self._parts
        steps = await Examination(peer, parts.clock, parts.timeout, parts.here).run()
        return {
            "Peer": peer.name,
            "Passed": all(step.result is not Result.FAILED for step in steps),
            "Steps": [step.to_json() for step in steps],
        }


class PeerFind(OfPeer):
    """``/transfers/peers/NAME/find``."""

    async def post(self, request: StreamingRequest) -> Reply:
        """Hand a ``/tools/find`` on to the peer, and its answer back."""
        peer, threads = await self._peer(), self._parts.threads
        wanted = await threads.run(decode, await read_body(request, _BODY_SIZE), dict[str, Any])
        limit = wanted.get("Limit")
        if not isinstance(limit, int) or not 0 < limit <= _MOST_FOUND:
            raise BadMessage(f"Limit must be a number from 1 to {_MOST_FOUND}")
        try:
            found = await peer.ask("POST", "/tools/find", wanted)
        except PeerRefused as error:
            if error.status not in _NOT_THERE:
                raise
            raise PeerRefused(
                f'Peer "{peer.name}" cannot be searched: it answers no /tools/find. What is'
                " known by its Orthanc identifier can be fetched from it all the same",
                error.status,
            ) from error
        reply: Reply = await threads.run(compact, found)
        return reply
