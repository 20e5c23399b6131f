"""The peers as the configuration names them, and the Orthanc that the daemon stands in front of."""

from functools import partial
from typing import Any

from ..config import PeerSettings, Settings
from ..orthanc.connection import endpoint
from ..threads import IThreads
from ..transfer.asking import Asking
from ..transfer.concurrency import START, START_LOSS_BASED
from ..transfer.congestion import Congestion
from ..transfer.directory import Directory
from ..transfer.link import Link
from ..transfer.peers import Peer
from ..web.gateway.peers import OrthancPeers
from ..web.gateway.tree import Gateway
from ..web.gateway.upstream import Upstream
from .certificates import Certificates

_CONNECT_S = 10.0
"""Seconds that a connection to the Orthanc behind us may take."""


def make_gateway(reactor: Any, settings: Settings, certificates: Certificates) -> Gateway | None:
    """What hands requests on to the Orthanc that is the store."""
    store = settings.store
    if store is None:
        return None
    there = endpoint(reactor, store, _CONNECT_S, certificates.store)
    upstream = Upstream(reactor, there, store.url, store.proxy_timeout)
    return Gateway(upstream, store.explorer_root)


def make_peers(
    reactor: Any,
    settings: Settings,
    threads: IThreads,
    certificates: Certificates,
    congestion: Congestion,
    gateway: Gateway | None,
) -> Directory:
    """The directory of peers; with those of the Orthanc behind us, where there is one."""
    make = partial(_make_peer, reactor, settings, threads, certificates, congestion)
    ours = {name: make(name, peer) for name, peer in settings.peers.items()}
    if settings.store is None or gateway is None:
        return Directory(ours)
    return OrthancPeers(ours, gateway.upstream, settings.store, threads, make)


def _make_peer(
    reactor: Any,
    settings: Settings,
    threads: IThreads,
    certificates: Certificates,
    congestion: Congestion,
    name: str,
    peer: PeerSettings,
) -> Peer:
    transfers = settings.transfers
    start = START_LOSS_BASED if congestion.is_loss_based else START
    return Peer(
        Asking(
            reactor,
            threads,
            name,
            peer,
            settings.http_timeout,
            Link(reactor, transfers.threads, transfers.max_threads, start),
            congestion,
            certificates.to_peer(name, peer),
            settings.http_proxy,
        )
    )
