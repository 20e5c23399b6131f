"""Getting to know the peers before they are needed: how far each is, and what it takes.

The first transfer on a long link would have to wait two round trips for that. So each peer is
visited once when the daemon starts; one that is not there is tried again some times, and otherwise
waits for its first transfer.
"""

from functools import partial

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from .directory import Directory
from .peers import Peer
from .slots import run_all

_AGAIN_S = (2.0, 15.0, 120.0)
"""Seconds until those that were not there are visited again."""

_AT_ONCE = 4

log = Logger()


class Acquaintance:
    """The round of visits; :meth:`start` it when the daemon listens: it may be a peer of itself."""

    def __init__(self, reactor: IReactorTime, peers: Directory) -> None:
        self._reactor = reactor
        self._peers = peers
        self._visiting: Deferred[None] | None = None

    def start(self) -> None:
        """Begin, in the background."""
        self._visiting = Deferred.fromCoroutine(self._visit_all())
        self._visiting.addErrback(lambda failure: failure.trap(CancelledError))
        self._visiting.addErrback(lambda failure: log.failure("No visits any more", failure))

    def stop(self) -> None:
        """End it; safe to call twice."""
        if self._visiting is not None:
            self._visiting.cancel()

    async def _visit_all(self) -> None:
        strangers = list(self._peers.values())
        for again in (*_AGAIN_S, None):
            absent: list[Peer] = []
            await run_all((partial(self._visit, peer, absent) for peer in strangers), _AT_ONCE)
            strangers = absent
            if not strangers or again is None:
                return
            await deferLater(self._reactor, again)

    async def _visit(self, peer: Peer, absent: list[Peer]) -> None:
        if await peer.get_acquainted():
            milliseconds = 1000 * (peer.link.round_trip or 0.0)
            log.debug("Peer {name} is {ms:.2f} ms away", name=peer.name, ms=milliseconds)
        else:
            absent.append(peer)
