"""The connections to Orthanc: plain or TLS, warm ones first."""

from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import attrs
from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IProtocolFactory, IReactorTime, IStreamClientEndpoint
from twisted.python.failure import Failure
from twisted.web.client import URI, Agent
from twisted.web.iweb import IAgent
from zope.interface import implementer

from ..config import OrthancSettings
from ..tls import KeyFiles
from ..transfer.client import PlainAgent, WideEndpointFactory
from ..transfer.congestion import Congestion
from ..transfer.connection import Connection
from ..transfer.pool import Pool, Unused
from ..transfer.trust import PeerTls, TlsKeys, client_context

_MOST_IDLE = 64

OF_STORE = TlsKeys("Store.Url", "Store.HttpsCACertificates", "Store.CertificateFile")


def store_context(settings: OrthancSettings) -> SSL.Context:
    """The context of the connections to it; blocking.

    :raises ConfigurationError: a file cannot be used.
    """
    own = None
    if settings.certificate_file:
        own = KeyFiles(
            OF_STORE.certificate,
            settings.certificate_file,
            "Store.CertificateKeyFile",
            settings.certificate_key_file,
            settings.certificate_key_password,
        )
    return client_context(OF_STORE.authorities, settings.https_ca_certificates, own)


def files_of(settings: OrthancSettings) -> tuple[str, ...]:
    """What :func:`store_context` reads."""
    files = (
        settings.https_ca_certificates,
        settings.certificate_file,
        settings.certificate_key_file,
    )
    return tuple(path for path in files if path)


def store_tls(clock: IReactorTime, settings: OrthancSettings, context: SSL.Context) -> PeerTls:
    """TLS to it."""
    host = urlsplit(settings.url).hostname or ""
    return PeerTls(clock, host, context, settings.https_verify, OF_STORE)


async def _nothing_to_close() -> None:
    pass


@attrs.frozen
class Agents:
    """Those who make requests.

    :ivar warm: takes a connection that has been used. :ivar fresh: takes none that has.
    """

    warm: IAgent
    fresh: IAgent
    close: Callable[[], Awaitable[None]] = _nothing_to_close


def connect(reactor: Any, timeout: float, tls: PeerTls | None = None) -> Agents:
    """Agents with a pool of connections. :param tls: where its address is https."""
    endpoints = _Endpoints(reactor, timeout, tls)

    def served(connection: Connection) -> None:
        if tls is not None:
            tls.remember(connection.transport)

    pool = Pool(reactor, _MOST_IDLE, served)
    return Agents(
        PlainAgent(Agent.usingEndpointFactory(reactor, endpoints, pool)),
        PlainAgent(Agent.usingEndpointFactory(reactor, endpoints, Unused(pool))),
        pool.close,
    )


def endpoint(
    reactor: Any,
    settings: OrthancSettings,
    timeout: float,
    tls: PeerTls | None = None,
) -> IStreamClientEndpoint:
    """Where its address leads, for others.

    :param timeout: seconds that a connection may take.
    """
    uri = URI.fromBytes(settings.url.encode())
    return _Endpoints(reactor, timeout, tls).endpointForURI(uri)


@attrs.frozen
class _Address:
    host: bytes
    port: int
    scheme: bytes


class _Endpoints(WideEndpointFactory):
    """As those of peers; a name that is this machine's is tried where an Orthanc listens first."""

    attempt_delay = 0.02

    def __init__(self, reactor: Any, timeout: float, tls: PeerTls | None) -> None:
        super().__init__(reactor, timeout, Congestion(), lambda _socket, _sight: None, tls)

    def endpointForURI(self, uri: Any) -> IStreamClientEndpoint:
        there = super().endpointForURI(uri)
        if uri.host != b"localhost":
            return there
        first = _Address(b"127.0.0.1", uri.port, uri.scheme)
        return _Localhost(super().endpointForURI(first), there)


@implementer(IStreamClientEndpoint)
class _Localhost:
    """This machine. Its name mostly leads to ::1 first, where an Orthanc does not listen; to find
    that out, again and again, would cost each new connection some time.
    """

    def __init__(self, first: IStreamClientEndpoint, other: IStreamClientEndpoint) -> None:
        self._first = first
        self._other = other

    def connect(self, protocolFactory: IProtocolFactory) -> "Deferred[Any]":
        """See :class:`IStreamClientEndpoint`."""

        def try_other(failure: Failure) -> "Deferred[Any]":
            failure.trap(ConnectError)
            return self._other.connect(protocolFactory)

        return self._first.connect(protocolFactory).addErrback(try_other)
