"""TLS as a server, and the door: who may connect at all."""

from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

from cryptography.x509.oid import NameOID
from OpenSSL import SSL
from twisted.internet.interfaces import (
    IAddress,
    IOpenSSLServerConnectionCreator,
    IProtocolFactory,
    IReactorTime,
)
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from zope.interface import implementer

from ..config import Settings
from ..tls import KeyFiles, make_context, names_in, trust, use_identity
from ..transfer.tls_transport import WideTlsFactory

_SESSION_ID = b"txtransfers"

log = Logger()


def server_context(settings: Settings) -> SSL.Context:
    """The context of the connections to us; blocking.

    :raises ConfigurationError: a file cannot be used.
    """
    context = make_context(
        settings.ssl_minimum_protocol_version, settings.ssl_ciphers_accepted, "SslCiphersAccepted"
    )
    path = settings.ssl_certificate
    use_identity(context, KeyFiles("SslCertificate", path, "SslCertificate", path))
    context.set_session_id(_SESSION_ID)  # without it, those with certificates resume nothing
    if settings.ssl_verify_peers:
        trusted = settings.ssl_trusted_client_certificates
        trust(context, "SslTrustedClientCertificates", trusted)
        context.load_client_ca(trusted.encode())
        context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT)
    return context


def files_of(settings: Settings) -> tuple[str, ...]:
    """What :func:`server_context` reads."""
    if settings.ssl_verify_peers:
        return settings.ssl_certificate, settings.ssl_trusted_client_certificates
    return (settings.ssl_certificate,)


@implementer(IOpenSSLServerConnectionCreator)
class ServerTls:
    """Begins the TLS of each connection to us."""

    def __init__(self, context: SSL.Context) -> None:
        self._context = context

    def use(self, context: SSL.Context) -> None:
        """Have new connections be of this context; the others stay."""
        self._context = context

    def serverConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        """See :class:`IOpenSSLServerConnectionCreator`."""
        return SSL.Connection(self._context, None)


class Door(Factory):
    """Lets a connection in, or closes it before anything is read; with TLS where that is so."""

    noisy = False

    def __init__(
        self,
        clock: IReactorTime,
        inner: IProtocolFactory,
        may_come_in: Callable[[IAddress | None], bool],
        tls: ServerTls | None,
    ) -> None:
        self._inner = inner
        self._may_come_in = may_come_in
        if tls is not None:
            self._inner = WideTlsFactory(tls, False, inner, clock)

    def doStart(self) -> None:
        """See :class:`Factory`."""
        self._inner.doStart()

    def doStop(self) -> None:
        """See :class:`Factory`."""
        self._inner.doStop()

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """See :class:`Factory`; None closes the connection."""
        if not self._may_come_in(addr):
            log.info("{addr} was turned away: RemoteAccessAllowed is false", addr=addr)
            return None
        return self._inner.buildProtocol(addr)  # type: ignore[arg-type]


def shown_name(transport: Any) -> str:
    """Whose certificate a client has shown: its common name, or the first it is for; else empty."""
    try:
        found = transport.getPeerCertificate()
    except AttributeError:  # no TLS, or it has ended
        return ""
    if found is None:
        return ""
    certificate = found.to_cryptography()
    common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    names = [str(each.value) for each in common] + names_in(certificate)
    return names[0] if names else ""


def is_local(address: IAddress | None) -> bool:
    """Whether a client is on this machine."""
    host = getattr(address, "host", "127.0.0.1")
    found = ip_address(host.partition("%")[0])
    return (getattr(found, "ipv4_mapped", None) or found).is_loopback
