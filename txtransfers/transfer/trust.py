"""Whom we trust, as a peer or as our store: TLS as a client, and what is wrong with it, as advice.

A certificate is verified for its chain and dates by OpenSSL, for its name (or IP address) by
service-identity; nothing is sent before that. Sessions are resumed, for an hour at the most: who
was verified so recently is not verified again.
"""

from collections.abc import Callable
from typing import Any

import attrs
from cryptography import x509
from OpenSSL import SSL
from OpenSSL.crypto import X509
from service_identity.exceptions import CertificateError, VerificationError
from service_identity.hazmat import DNS_ID, IPAddress_ID, verify_service_identity
from service_identity.pyopenssl import extract_patterns
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.interfaces import (
    IOpenSSLClientConnectionCreator,
    IReactorTime,
)
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from ..config import PeerSettings, Settings
from ..tls import KeyFiles, make_context, names_in, reason_of, trust, use_identity

SESSION_S = 3600.0
"""Seconds that a session is resumed."""

log = Logger()

_NOT_YET, _EXPIRED = 9, 10
_UNTRUSTED = frozenset({2, 18, 19, 20, 21, 24, 27})
_OTHER_CHECKS = {
    7: "it carries a signature that is wrong",
    23: "it was revoked",
    26: "it is not made for servers (extended key usage)",
    62: "it is for another name",
    66: "its key is too weak",
    67: "its CA's key is too weak",
    68: "it is signed with a digest that is too weak",
}


@attrs.frozen
class TlsKeys:
    """What the keys of the configuration are called that say where we connect, and as whom."""

    url: str
    authorities: str
    certificate: str


OF_PEERS = TlsKeys(
    "Url in OrthancPeers", "HttpsCACertificates", "CertificateFile of the peer in OrthancPeers"
)


class UntrustedError(Exception):
    """TLS failed for a reason that somebody has to remove; the text goes on "its certificate"."""


@implementer(IOpenSSLClientConnectionCreator)
class PeerTls:
    """TLS to one peer."""

    def __init__(
        self,
        clock: IReactorTime,
        host: str,
        context: SSL.Context,
        verify: bool,
        keys: TlsKeys = OF_PEERS,
    ) -> None:
        """:param host: of its URL. :param verify: ``HttpsVerifyPeers``."""
        self._keys = keys
        self._clock = clock
        self._host = host
        self._is_name = not (isIPAddress(host) or isIPv6Address(host))
        self._verify = verify
        self._context = context
        self._session: SSL.Session | None = None
        self._session_began = 0.0

    def use(self, context: SSL.Context) -> None:
        """Have new connections be of this context; the others stay."""
        self._context = context
        self._session = None

    def clientConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        """See :class:`IOpenSSLClientConnectionCreator`."""
        connection = SSL.Connection(self._context, None)
        if self._is_name:
            connection.set_tlsext_host_name(self._host.encode("ascii"))
        if self._verify:
            mode = SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT
            connection.set_verify(mode, self._verifier(tlsProtocol))
        if self._session is not None:
            if self._clock.seconds() - self._session_began < SESSION_S:
                connection.set_session(self._session)
            else:
                self._session = None
        return connection

    def remember(self, transport: Any) -> None:
        """A connection has served: the next one need not begin from nothing."""
        connection = transport.getHandle()
        if connection is None or connection.get_context() is not self._context:
            return
        session = connection.get_session()
        if session is not None:
            if self._session is None:
                self._session_began = self._clock.seconds()
            self._session = session

    def _verifier(self, protocol: Any) -> Callable[[SSL.Connection, X509, int, int, int], bool]:
        waiting = [protocol]  # emptied at the end: else it and its connection would hold each other

        def verify(
            _connection: SSL.Connection, found: X509, code: int, depth: int, ok: int
        ) -> bool:
            problem = ""
            try:
                certificate = found.to_cryptography()
                if not ok:
                    problem = problem_of(certificate, code, self._keys)
                elif depth == 0:
                    problem = self._problem_of_name(found, certificate)
            except Exception:
                log.failure("A certificate could not be looked at")
                problem = "could not be looked at; the log has more"
            if problem and waiting:
                waiting.pop().failVerification(Failure(UntrustedError(problem)))
            if depth == 0:
                waiting.clear()
            return not problem

        return verify

    def _problem_of_name(self, found: X509, certificate: x509.Certificate) -> str:
        wanted = DNS_ID(self._host) if self._is_name else IPAddress_ID(self._host)
        try:
            verify_service_identity(extract_patterns(found), [wanted], [])
        except (VerificationError, CertificateError):
            names = ", ".join(names_in(certificate)[:5]) or "no name or address at all"
            return (
                f"fails the check of its name: it is for {names}, and not for {self._host}; correct"
                f" {self._keys.url}, or have the certificate made with that name"
                " (subjectAltName)"
            )
        return ""


def problem_of(certificate: x509.Certificate, code: int, keys: TlsKeys) -> str:
    """What OpenSSL's ``code`` says of one certificate of a chain."""
    subject = certificate.subject.rfc4514_string() or "no name"
    if code == _EXPIRED:
        return (
            f"fails the check of its date: {subject} expired at"
            f" {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC; it must be renewed there"
            " (or is the clock here wrong?)"
        )
    if code == _NOT_YET:
        return (
            f"fails the check of its date: {subject} is not valid before"
            f" {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC; are the clocks here and there"
            " right?"
        )
    if code in _UNTRUSTED:
        issuer = certificate.issuer.rfc4514_string() or "no name"
        return (
            f"fails the check of its chain: nobody who is trusted here has signed {subject} (it"
            f" names {issuer} as its issuer); put the certificate of that CA, or a self-signed one"
            f" itself, into the file of {keys.authorities}, and let the peer send those in between"
        )
    reason = _OTHER_CHECKS.get(code, f"OpenSSL's check number {code} failed")
    return f"fails the check of its chain, at {subject}: {reason}"


_NO_TLS = ("wrong version number", "packet length too long", "record layer failure", "http request")
_OURS = ("certificate required", "bad certificate", "unknown ca", "certificate unknown")


def tls_problem(error: BaseException, keys: TlsKeys = OF_PEERS) -> str:
    """What it means that TLS failed, and what to do; empty where something else did."""
    if isinstance(error, UntrustedError):
        return f"its certificate {error}"
    return _explain(error, keys) if isinstance(error, SSL.Error) else ""


def _explain(error: SSL.Error, keys: TlsKeys) -> str:
    reason = reason_of(error)
    if any(each in reason for each in _NO_TLS):
        return f"it does not speak TLS ({reason}); is the port right, or is it an http:// address?"
    if any(each in reason for each in (*_OURS, "certificate expired", "handshake failure")):
        return (
            f"it refuses us ({reason}); it may want a certificate that it trusts: see"
            f" {keys.certificate}"
        )
    if "protocol" in reason:
        return f"no version of TLS that both speak ({reason}); TLS 1.2 is the oldest here"
    return f"TLS failed ({reason})"


def peer_context(settings: Settings, name: str, peer: PeerSettings) -> SSL.Context:
    """The context of the connections to a peer; blocking.

    :raises ConfigurationError: a file cannot be used.
    """
    authorities = settings.https_ca_certificates
    return client_context(OF_PEERS.authorities, authorities, key_files(name, peer))


def authorities_context(settings: Settings) -> SSL.Context:
    """The context of the connections to a peer to which we show no certificate; blocking.

    :raises ConfigurationError: a file cannot be used.
    """
    return client_context(OF_PEERS.authorities, settings.https_ca_certificates, None)


def client_context(name: str, authorities: str, own: KeyFiles | None) -> SSL.Context:
    """A context of connections that we make; blocking.

    :param name: the key of the configuration that has ``authorities``: a file; empty for those of
        the system. :param own: the certificate that we show, if any.
    :raises ConfigurationError: a file cannot be used.
    """
    context = make_context()
    context.set_session_cache_mode(SSL.SESS_CACHE_CLIENT)
    if authorities:
        trust(context, name, authorities)
    else:
        context.set_default_verify_paths()
    if own is not None:
        use_identity(context, own)
    return context


def key_files(name: str, peer: PeerSettings) -> KeyFiles | None:
    """Where our certificate for a peer is, if it is to have one."""
    if not peer.certificate_file:
        return None
    own_key = bool(peer.certificate_key_file)
    path = f"OrthancPeers.{name}"
    return KeyFiles(
        f"{path}.CertificateFile",
        peer.certificate_file,
        f"{path}.{'CertificateKeyFile' if own_key else 'CertificateFile'}",
        peer.certificate_key_file or peer.certificate_file,
        peer.certificate_key_password,
    )


def files_of(settings: Settings, peer: PeerSettings) -> tuple[str, ...]:
    """What :func:`peer_context` reads."""
    files = settings.https_ca_certificates, peer.certificate_file, peer.certificate_key_file
    return tuple(dict.fromkeys(path for path in files if path))
