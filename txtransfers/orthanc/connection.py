"""The connections to Orthanc: plain or TLS, warm ones first."""

import re
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
from OpenSSL import SSL, crypto
from service_identity import VerificationError
from twisted.internet import ssl
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import wrapClientTLS
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import (
    IOpenSSLClientConnectionCreator,
    IProtocolFactory,
    IStreamClientEndpoint,
)
from twisted.python.failure import Failure
from twisted.web.client import URI, Agent
from twisted.web.iweb import IAgent
from zope.interface import implementer

from ..config import OrthancSettings
from ..errors import ConfigurationError
from ..transfer.client import PlainAgent, WideEndpointFactory
from ..transfer.congestion import Congestion
from ..transfer.pool import Pool, Unused

_MOST_IDLE = 64
_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)

TLS_ERRORS = (SSL.Error, VerificationError, ssl.VerificationError)
"""What a handshake fails with."""


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


def connect(
    reactor: Any, settings: OrthancSettings, timeout: float, congestion: Congestion
) -> Agents:
    """Agents with a pool of connections. Blocks while it reads the files of certificates.

    :raises ConfigurationError: these cannot be used.
    """
    endpoints = _Endpoints(reactor, timeout, congestion, settings)
    pool = Pool(reactor, _MOST_IDLE)
    return Agents(
        PlainAgent(Agent.usingEndpointFactory(reactor, endpoints, pool)),
        PlainAgent(Agent.usingEndpointFactory(reactor, endpoints, Unused(pool))),
        pool.close,
    )


def endpoint(
    reactor: Any, settings: OrthancSettings, timeout: float, congestion: Congestion
) -> IStreamClientEndpoint:
    """Where its address leads, for others. Blocks while it reads the files of certificates.

    :param timeout: seconds that a connection may take.
    :raises ConfigurationError: these cannot be used.
    """
    uri = URI.fromBytes(settings.url.encode())
    return _Endpoints(reactor, timeout, congestion, settings).endpointForURI(uri)


@attrs.frozen
class _Address:
    host: bytes
    port: int
    scheme: bytes = b"http"
    """What is below TLS."""


class _Endpoints(WideEndpointFactory):
    """TCP, with TLS over it where the address is https."""

    attempt_delay = 0.02

    def __init__(
        self, reactor: Any, timeout: float, congestion: Congestion, settings: OrthancSettings
    ) -> None:
        super().__init__(reactor, timeout, congestion, lambda _socket, _sight: None)
        is_secure = settings.url.lower().startswith("https:")
        self._orthanc_tls = _Tls(settings) if is_secure else None

    def endpointForURI(self, uri: Any) -> IStreamClientEndpoint:
        if uri.host == b"localhost":
            plain: IStreamClientEndpoint = _Localhost(
                super().endpointForURI(_Address(b"127.0.0.1", uri.port)),
                super().endpointForURI(_Address(uri.host, uri.port)),
            )
        else:
            plain = super().endpointForURI(_Address(uri.host, uri.port))
        if self._orthanc_tls is None:
            return plain
        return wrapClientTLS(self._orthanc_tls.creator(uri.host.decode("ascii")), plain)


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


class _Tls:
    """Who is trusted, and which certificate is shown."""

    def __init__(self, settings: OrthancSettings) -> None:
        self._verify = settings.https_verify
        self._own = _own_certificate(settings)
        path = settings.https_ca_certificates
        self._trust: Any = _authorities(path) if path else ssl.platformTrust()

    def creator(self, host: str) -> IOpenSSLClientConnectionCreator:
        """What begins the handshake with ``host``."""
        if not self._verify:
            return _Unverified(host, self._own)
        return ssl.optionsForClientTLS(host, trustRoot=self._trust, clientCertificate=self._own)


@implementer(IOpenSSLClientConnectionCreator)
class _Unverified:
    """Whoever answers is believed (``HttpsVerifyPeers`` false)."""

    def __init__(self, host: str, own: Any) -> None:
        self._host = host
        more = own.options().__dict__ if own is not None else {}
        key, certificate = more.get("privateKey"), more.get("certificate")
        self._options = ssl.CertificateOptions(
            verify=False, privateKey=key, certificate=certificate
        )

    def clientConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        """See :class:`IOpenSSLClientConnectionCreator`."""
        connection = SSL.Connection(self._options.getContext(), None)
        connection.set_tlsext_host_name(self._host.encode("ascii"))
        return connection


def _read(path: str, name: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise ConfigurationError(
            f"Store.{name}: {path} cannot be read: {error.strerror}; check the path, and the"
            " permissions of this user"
        ) from None


def _authorities(path: str) -> Any:
    found = _CERTIFICATE.findall(_read(path, "HttpsCACertificates"))
    try:
        certificates = [ssl.Certificate.loadPEM(pem) for pem in found]
    except crypto.Error:
        certificates = []
    if not certificates:
        raise ConfigurationError(
            f"Store.HttpsCACertificates: {path} has no certificate that can be read; it must be PEM"
        )
    return ssl.trustRootFromCertificates(certificates)


def _own_certificate(settings: OrthancSettings) -> Any:
    if not settings.certificate_file:
        return None
    certificate = _read(settings.certificate_file, "CertificateFile")
    key = _read(settings.certificate_key_file, "CertificateKeyFile")
    password = settings.certificate_key_password.encode()
    try:
        pair = ssl.KeyPair(crypto.load_privatekey(crypto.FILETYPE_PEM, key, password))
        shown = ssl.Certificate.loadPEM(certificate)
    except (crypto.Error, ValueError, TypeError):
        raise ConfigurationError(
            "Store.CertificateFile and CertificateKeyFile: no certificate and key that can be read;"
            " they must be PEM, and CertificateKeyPassword must be the key's"
        ) from None
    return ssl.PrivateCertificate.fromCertificateAndKeyPair(shown, pair)
