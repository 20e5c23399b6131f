"""Contexts of TLS, made from files: what both ends have in common. Blocking; no reactor here.

What cannot be used is a :class:`ConfigurationError` that names the key, the file and the remedy.
"""

import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import attrs
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL import SSL
from OpenSSL.crypto import X509StoreFlags

from .errors import ConfigurationError

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2: forward secrecy and authenticated encryption alone; all of TLS 1.3 has both."""

_SOON_DAYS = 30
_DAY_S = 86400

_PARTIAL_WRITE = 1
"""``SSL_MODE_ENABLE_PARTIAL_WRITE``: a write would end after each record."""

_VERSIONS = {4: SSL.TLS1_2_VERSION, 5: SSL.TLS1_3_VERSION}
_OLDEST = 4
_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_KEY = re.compile(rb"-----BEGIN ([A-Z ]*PRIVATE KEY)-----.+?-----END \1-----", re.DOTALL)


@attrs.frozen
class KeyFiles:
    """Where a certificate and its private key are, and which keys of the configuration say so.

    :ivar key: may be the same file. :ivar password: of the private key; empty where it has none.
    """

    certificate_name: str
    certificate: str
    key_name: str
    key: str
    password: str = attrs.field(default="", repr=False)


def make_context(
    minimum: int = _OLDEST, ciphers: Sequence[str] = (), ciphers_name: str = ""
) -> SSL.Context:
    """A context of either end. :param minimum: as ``SslMinimumProtocolVersion``."""
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(_VERSIONS[minimum])
    context.set_options(
        SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION | SSL.OP_CIPHER_SERVER_PREFERENCE
    )
    if hasattr(context, "clear_mode"):  # pyOpenSSL since 25.1
        context.clear_mode(_PARTIAL_WRITE)
    older = [name for name in ciphers if not name.startswith("TLS_")]
    newer = [name for name in ciphers if name.startswith("TLS_")]
    try:
        context.set_cipher_list((":".join(older) if older else CIPHERS).encode())
        if newer:
            context.set_tls13_ciphersuites(":".join(newer).encode())
    except SSL.Error:
        raise ConfigurationError(
            f"{ciphers_name}: OpenSSL knows none of these ciphers, or not all of those of TLS 1.3:"
            f" {', '.join(ciphers)}; `openssl ciphers` lists them"
        ) from None
    return context


def use_identity(context: SSL.Context, files: KeyFiles) -> None:
    """Show this certificate, with those between it and its CA.

    :raises ConfigurationError: it cannot be read, or key and certificate do not belong together.
    """
    certificates = read_certificates(files.certificate_name, files.certificate)
    context.use_certificate(certificates[0])
    for more in certificates[1:]:
        context.add_extra_chain_cert(more)
    key = _read_key(files)
    try:
        context.use_privatekey(key)
        context.check_privatekey()
    except SSL.Error:
        raise ConfigurationError(
            f"{files.key_name}: the private key in {files.key} is not that of the first certificate"
            f" in {files.certificate}: the server's own certificate comes first, then those above"
        ) from None


def read_certificates(name: str, path: str) -> list[x509.Certificate]:
    """The certificates in a PEM file, at least one.

    :param name: the key of the configuration.
    """
    found = []
    for block in _CERTIFICATE.findall(_read(name, path)):
        try:
            found.append(x509.load_pem_x509_certificate(block))
        except ValueError as error:
            raise ConfigurationError(
                f"{name}: {path} holds a certificate that cannot be read: {error}"
            ) from None
    if not found:
        raise ConfigurationError(
            f"{name}: {path} holds no certificate: expected a PEM file with BEGIN CERTIFICATE in it"
        )
    return found


def trust(context: SSL.Context, name: str, path: str) -> None:
    """Accept what the CAs in a PEM file have signed."""
    read_certificates(name, path)
    try:
        context.load_verify_locations(path)
        store = context.get_cert_store()
        if store is not None:  # whatever is in the file is trusted, be it a root or not
            store.set_flags(X509StoreFlags.PARTIAL_CHAIN)
    except SSL.Error as error:
        raise ConfigurationError(f"{name}: {path} cannot be used: {reason_of(error)}") from None


def reason_of(error: SSL.Error) -> str:
    """What OpenSSL says."""
    queue = error.args[0] if error.args and isinstance(error.args[0], list) else []
    return "; ".join(str(entry[-1]) for entry in queue) or "it broke off"


def names_in(certificate: x509.Certificate) -> list[str]:
    """The names and addresses that a certificate is for."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (x509.ExtensionNotFound, ValueError):
        return []
    hosts = extension.value.get_values_for_type(x509.DNSName)
    addresses = extension.value.get_values_for_type(x509.IPAddress)
    return [*hosts, *(str(address) for address in addresses)]


def warning_of(name: str, path: str, now: datetime) -> str:
    """That a certificate in a file has expired, or does so soon; empty where neither is so.

    :param name: the key of the configuration.
    """
    try:
        ends = min(each.not_valid_after_utc for each in read_certificates(name, path))
    except ConfigurationError as error:
        return str(error)
    days = (ends - now).total_seconds() / _DAY_S
    if days > _SOON_DAYS:
        return ""
    when = "has expired" if days < 0 else f"expires in {days:.0f} days"
    return f"{name}: a certificate in {path} {when} ({ends:%Y-%m-%d %H:%M} UTC): have it renewed"


def _read_key(files: KeyFiles) -> Any:
    match = _KEY.search(_read(files.key_name, files.key))
    if match is None:
        raise ConfigurationError(
            f"{files.key_name}: {files.key} holds no private key: expected a PEM file with"
            " BEGIN PRIVATE KEY in it"
        )
    password = files.password.encode() if files.password else None
    try:
        return load_pem_private_key(match[0], password)
    except TypeError:
        what = "has no password, but one is given" if password else "has a password"
        raise ConfigurationError(
            f"{files.key_name}: the private key in {files.key} {what}: remove it with"
            " `openssl pkey`, or mind CertificateKeyPassword where the key is for a peer"
        ) from None
    except ValueError:
        what = "be decrypted: is CertificateKeyPassword right?" if password else "be read"
        raise ConfigurationError(
            f"{files.key_name}: the private key in {files.key} cannot {what}"
        ) from None


def _read(name: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"{name}: {path} cannot be read: {error.strerror}; check the path, and the permissions"
            " of the user that runs the daemon"
        ) from None
