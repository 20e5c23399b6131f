"""The daemon's TLS: of its door, and to its peers. Files that change are read anew.

Made by :mod:`.assembly`, started and stopped by :mod:`..service`.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import attrs
from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from ..config import PeerSettings, Settings
from ..orthanc.connection import OF_STORE, store_context, store_tls
from ..orthanc.connection import files_of as files_of_store
from ..reloading import Reloadable, Reloading
from ..threads import IThreads
from ..tls import warning_of
from ..transfer import trust
from ..transfer.trust import PeerTls
from ..web.tls import ServerTls, files_of, server_context

_WATCHING_S = 5.0
"""Seconds between two looks whether a file of TLS has changed."""

_REMINDING_S = 24 * 3600.0
"""Seconds between two reminders of a certificate that expires."""

log = Logger()


@attrs.frozen
class Contexts:
    """Of TLS: of the server, where it speaks it, and of each peer that is reached by it.

    :ivar store: of the Orthanc that is the store, where that is reached by it.
    :ivar others: for peers that only Orthanc's configuration has.
    """

    server: SSL.Context | None = None
    peers: Mapping[str, SSL.Context] = attrs.Factory(dict)
    store: SSL.Context | None = None
    others: SSL.Context | None = None


def make_contexts(settings: Settings) -> Contexts:
    """Read the certificates.

    :raises ConfigurationError: one cannot be used.
    """
    store = settings.store
    return Contexts(
        server_context(settings) if settings.ssl_enabled else None,
        {
            name: trust.peer_context(settings, name, peer)
            for name, peer in settings.peers.items()
            if peer.is_secure
        },
        store_context(store) if store is not None and store.is_secure else None,
        trust.authorities_context(settings) if store is not None else None,
    )


class Certificates:
    """What uses the contexts, and has them made anew.

    :ivar door: of those who come in; None where it is plain HTTP.
    :ivar store: to the Orthanc that is the store; None where it is plain HTTP, or our own.
    """

    def __init__(
        self, reactor: Any, settings: Settings, contexts: Contexts, threads: IThreads
    ) -> None:
        self._reactor = reactor
        self._settings = settings
        self._threads = threads
        self._others = contexts.others
        self.door = ServerTls(contexts.server) if contexts.server is not None else None
        self.store: PeerTls | None = None
        if settings.store is not None and contexts.store is not None:
            self.store = store_tls(reactor, settings.store, contexts.store)
        self._peers = {
            name: self._make(settings.peers[name], context)
            for name, context in contexts.peers.items()
        }
        self._reloading = Reloading(threads, self._reloadables())
        self._loops = [LoopingCall(self.look), LoopingCall(self._remind)]
        for loop in self._loops:
            loop.clock = reactor

    def _make(self, peer: PeerSettings, context: SSL.Context) -> PeerTls:
        host = urlsplit(peer.url).hostname or ""
        return PeerTls(self._reactor, host, context, self._settings.https_verify_peers)

    def _reloadables(self) -> list[Reloadable]:
        settings = self._settings
        items = [
            Reloadable(
                f"The TLS of peer {name}",
                trust.files_of(settings, settings.peers[name]),
                partial(trust.peer_context, settings, name, settings.peers[name]),
                tls.use,
            )
            for name, tls in self._peers.items()
        ]
        if settings.store is not None and self.store is not None:
            load = partial(store_context, settings.store)
            files = files_of_store(settings.store)
            items.append(Reloadable("The TLS of Store", files, load, self.store.use))
        if self.door is not None:
            load = partial(server_context, settings)
            items.append(Reloadable("SslCertificate", files_of(settings), load, self.door.use))
        return items

    def to_peer(self, name: str, peer: PeerSettings) -> PeerTls | None:
        """What a peer is reached by; None: plain HTTP."""
        if name in self._peers or not peer.is_secure or self._others is None:
            return self._peers.get(name)
        return self._make(peer, self._others)

    def start(self) -> None:
        """Watch the files, and remind of those that expire."""
        watching, reminding = self._loops
        watching.start(_WATCHING_S, now=False)
        reminding.start(_REMINDING_S)

    def stop(self) -> None:
        """Watch no more; safe to call twice."""
        for loop in self._loops:
            if loop.running:
                loop.stop()

    def look(self, everything: bool = False) -> "Deferred[None]":
        """Read the files anew that have changed; never fails.

        :param everything: those too that look as they did.
        """
        return Deferred.fromCoroutine(self._reloading.look(everything)).addErrback(
            lambda failure: log.failure("Certificates could not be read anew", failure)
        )

    def _remind(self) -> "Deferred[None]":
        settings = self._settings
        files = [("SslCertificate", settings.ssl_certificate)] if settings.ssl_enabled else []
        if settings.store is not None and settings.store.certificate_file:
            files.append((OF_STORE.certificate, settings.store.certificate_file))
        for name, peer in settings.peers.items():
            if peer.certificate_file:
                files.append((f"OrthancPeers.{name}.CertificateFile", peer.certificate_file))

        async def remind() -> None:
            for name, path in files:
                warning = await self._threads.run(warning_of, name, path, datetime.now(UTC))
                if warning:
                    log.warn("{warning}", warning=warning)

        return Deferred.fromCoroutine(remind()).addErrback(
            lambda failure: log.failure("Certificates could not be looked at", failure)
        )
