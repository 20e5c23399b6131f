"""The configuration file -> frozen settings. Every problem is reported, with its key's path.

The file is Orthanc's: a complete configuration of Orthanc is read as it is, what has no meaning
here is ignored with a notice, and what would silently not be done is refused. No reactor here.
"""

import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attrs

from txtransfers import config_text
from txtransfers.config_access import ACCESS, Permission, check_access
from txtransfers.config_bandwidth import BANDWIDTH, BandwidthSettings
from txtransfers.config_foreign import IGNORED, PLUGINS, REFUSED
from txtransfers.config_keys import KEYS, TRANSFERS_KEYS, Key, Kind
from txtransfers.config_limits import LIMITS, LimitsSettings
from txtransfers.config_peers import PeerSettings, read_peers
from txtransfers.config_store import OrthancSettings, leads_to, store_reader
from txtransfers.config_tls import FILES, PEER_FILES, TLS, HttpProxy, make_absolute
from txtransfers.config_values import (
    SCALARS,
    Converter,
    check_known,
    check_refused,
    read_keys,
    read_object,
)
from txtransfers.config_webhooks import WEBHOOKS, WebhookSettings
from txtransfers.errors import ConfigurationError

__all__ = [
    "BandwidthSettings",
    "LimitsSettings",
    "OrthancSettings",
    "PeerSettings",
    "Settings",
    "TransfersSettings",
    "WebhookSettings",
    "default",
    "load",
    "parse",
]


@attrs.frozen
class TransfersSettings:
    """How transfers move.

    :ivar threads: buckets in flight to one peer; None where they follow the link, up to
        ``max_threads``.
    :ivar bucket_size: bytes that a bucket should have, it may have twice as many; None where that
        follows the link.
    :ivar cache_size: bytes of memory for buckets in flight, in total.
    :ivar max_push_transactions: pushes that are received at once.
    :ivar max_http_retries: further attempts, for each bucket.
    :ivar peer_connectivity_timeout: seconds for a peer to say that it knows transfers.
    :ivar peer_commit_timeout: seconds for a peer to commit.
    :ivar commit_threads_count: instances that are verified and stored at once.
    :ivar push_transaction_timeout: seconds that what was received waits for more.
    :ivar job_retry_delays: seconds before each further try of a job that failed.
    :ivar congestion_control: a name that the system knows, or ``auto``.
    :ivar delta: whether what the receiver holds is not sent; None: where asking costs nothing.
    :ivar bandwidth: of all transfers together.
    :ivar chunks_caching: a value of :class:`.caching.Caching`; None: as access suggests.
    :ivar webhooks: who is told when a transfer has ended.
    """

    threads: int | None
    max_threads: int
    bucket_size: int | None
    cache_size: int
    max_push_transactions: int
    max_http_retries: int
    peer_connectivity_timeout: float
    peer_commit_timeout: float
    commit_threads_count: int
    push_transaction_timeout: float
    job_retry_delays: tuple[float, ...]
    congestion_control: str
    delta: bool | None
    bandwidth: BandwidthSettings
    chunks_caching: str | None
    webhooks: tuple[WebhookSettings, ...]


@attrs.frozen
class Settings:
    """The whole configuration, checked.

    :ivar http_port: 0 for any free port.
    :ivar http_bind_addresses: IP addresses; if empty, the loopback, or all addresses where
        ``remote_access_allowed``.
    :ivar storage_directory: an absolute path; it may not exist yet.
    :ivar registered_users: user -> password, or its hash.
    :ivar bearer_tokens: name of a script -> token, or its hash.
    :ivar permissions: user or script -> what it may do; if empty, everybody may do everything.
    :ivar ssl_certificate: an absolute path, like all names of files here; empty for none.
    :ivar ssl_minimum_protocol_version: 4 for TLS 1.2, 5 for TLS 1.3.
    :ivar http_timeout: seconds without any progress after which a peer has failed.
    :ivar maximum_storage_size: bytes that may be stored; 0 for any number.
    :ivar peers: by name, in the order of the file.
    :ivar store: the Orthanc whose archive is the store; None for our own.
    :ivar notices: sentences for the log, as are ``warnings``, of what is dangerous.
    """

    name: str
    http_port: int
    http_bind_addresses: tuple[str, ...]
    storage_directory: str
    remote_access_allowed: bool
    authentication_enabled: bool
    registered_users: Mapping[str, str] = attrs.field(repr=False)
    bearer_tokens: Mapping[str, str] = attrs.field(repr=False)
    permissions: Mapping[str, frozenset[Permission]]
    remote_access_without_users: bool
    allowed_origins: tuple[str, ...]
    ssl_enabled: bool
    ssl_certificate: str
    ssl_minimum_protocol_version: int
    ssl_ciphers_accepted: tuple[str, ...]
    ssl_verify_peers: bool
    ssl_trusted_client_certificates: str
    https_verify_peers: bool
    https_ca_certificates: str
    http_proxy: HttpProxy | None
    audit_log: str
    audit_patient_names: bool
    http_timeout: float
    keep_alive: bool
    concurrent_jobs: int
    jobs_history_size: int
    save_jobs: bool
    overwrite_instances: bool
    maximum_storage_size: int
    peers: Mapping[str, PeerSettings]
    limits: LimitsSettings
    store: OrthancSettings | None
    transfers: TransfersSettings
    notices: tuple[str, ...]
    warnings: tuple[str, ...]


def load(path: str, environment: Mapping[str, str]) -> Settings:
    """Read the file at ``path``; it blocks.

    :raises ConfigurationError: the file cannot be read, or cannot be used.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(
            f"{path}: the configuration cannot be read: {error.strerror}; check the path, and the "
            "permissions of this user"
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8"
        ) from None
    return parse(text, path, environment, os.path.dirname(os.path.abspath(path)))


def default(folder: str) -> Settings:
    """What holds without any file: the loopback, port 8042, a storage in ``folder``."""
    return parse("{}", "defaults", {}, folder)


def parse(text: str, source: str, environment: Mapping[str, str], folder: str) -> Settings:
    """Turn the text of a configuration file into settings.

    :param source: what errors call the file.
    :param environment: where ``${VAR}`` is looked up.
    :param folder: what a relative ``StorageDirectory`` is relative to.
    :raises ConfigurationError: with every problem that was found, one in each line.
    """
    problems: list[str] = []
    found = config_text.read(text, source, environment)
    settings = _read(found, folder, problems)
    if problems:
        raise ConfigurationError("\n".join(f"{source}: {problem}" for problem in problems))
    return settings


def _read(found: dict[str, object], folder: str, problems: list[str]) -> Settings:
    refused = (key.name for key in REFUSED)
    check_known({*(key.name for key in KEYS), *refused, PLUGINS, *IGNORED}, found, "", problems)
    check_refused(REFUSED, found, "", problems)
    converters = {**_CONVERTERS, Kind.STORE: store_reader(folder)}
    values = read_keys(KEYS, found, "", problems, converters)
    if values["authentication_enabled"] is None:
        values["authentication_enabled"] = values["remote_access_allowed"]
    values["storage_directory"] = _absolute(values["storage_directory"], folder, problems)
    make_absolute(values, FILES, folder)
    values["peers"] = _with_files(values["peers"], folder)
    settings = Settings(**values, notices=(), warnings=())
    if not problems:
        _check_addresses(settings, problems)
        _check_store(settings, problems)
        check_access(settings, problems)
    return attrs.evolve(settings, notices=_notices(settings, found), warnings=_warnings(settings))


def _with_files(
    peers: Mapping[str, PeerSettings] | None, folder: str
) -> Mapping[str, PeerSettings]:
    found = {}
    for name, peer in (peers or {}).items():
        files = {field: getattr(peer, field) for field in PEER_FILES}
        make_absolute(files, PEER_FILES, folder)
        found[name] = attrs.evolve(peer, **files)
    return MappingProxyType(found)


def _read_transfers(key: Key, value: object, path: str, problems: list[str]) -> TransfersSettings:
    found = read_object(key, value)
    check_known([known.name for known in TRANSFERS_KEYS], found, path, problems)
    values: dict[str, Any] = read_keys(
        TRANSFERS_KEYS, found, path, problems, {**SCALARS, **BANDWIDTH, **WEBHOOKS}
    )
    return TransfersSettings(**values)


_CONVERTERS: Mapping[Kind, Converter] = {
    **SCALARS,
    **ACCESS,
    **TLS,
    **LIMITS,
    Kind.PEERS: read_peers,
    Kind.SECTION: _read_transfers,
}


def _absolute(directory: str | None, folder: str, problems: list[str]) -> str:
    if directory == "":
        problems.append("StorageDirectory: is empty: name a directory, or remove the key")
    return os.path.abspath(os.path.join(folder, directory or ""))


def _check_addresses(settings: Settings, problems: list[str]) -> None:
    """Listening to the world contradicts RemoteAccessAllowed: neither may win in silence."""
    if settings.remote_access_allowed:
        return
    problems.extend(
        f"HttpBindAddresses: {address} can be reached by other hosts, and RemoteAccessAllowed is "
        "false: set it to true, or listen on 127.0.0.1"
        for address in settings.http_bind_addresses
        if not ipaddress.ip_address(address).is_loopback
    )


def _check_store(settings: Settings, problems: list[str]) -> None:
    if settings.store is not None and leads_to(settings.store, settings.http_port):
        problems.append(
            f"Store.Url: is the address of this daemon itself: HttpPort is {settings.http_port},"
            " as Orthanc's; give one of them another"
        )


def _notices(settings: Settings, found: Mapping[str, object]) -> tuple[str, ...]:
    ignored = sorted(IGNORED.intersection(found))
    cases = (
        (PLUGINS in found, "Plugins is ignored: transfers are built in, and nothing is loaded."),
        (
            bool(ignored),
            f"These keys of Orthanc mean nothing here and are ignored: {', '.join(ignored)}.",
        ),
        (
            settings.authentication_enabled
            and not (settings.registered_users or settings.bearer_tokens),
            "AuthenticationEnabled is true and RegisteredUsers is empty: nobody can log in. "
            "Add a user.",
        ),
        (
            bool(settings.maximum_storage_size)
            and settings.store is None
            and found.get("MaximumStorageMode") != "Reject",
            "MaximumStorageSize: what would not fit is refused; no patient is deleted to make room"
            ' (MaximumStorageMode is always "Reject").',
        ),
        (
            bool(settings.maximum_storage_size) and settings.store is not None,
            "MaximumStorageSize limits here what waits to be imported into Orthanc; Orthanc's own"
            " limits what it stores.",
        ),
    )
    return tuple(sentence for holds, sentence in cases if holds)


def _warnings(settings: Settings) -> tuple[str, ...]:
    cases = (
        (
            settings.store is not None and not settings.store.https_verify,
            "Store.HttpsVerifyPeers is false: whoever is between this daemon and Orthanc can read"
            " and change everything.",
        ),
        (
            settings.store is not None
            and bool(settings.store.username)
            and not settings.authentication_enabled,
            "Store.Username is given and AuthenticationEnabled is false: whoever reaches the port "
            "can have the instances of that Orthanc transferred, without its password.",
        ),
        (
            settings.remote_access_without_users
            and settings.remote_access_allowed
            and not settings.authentication_enabled,
            "RemoteAccessWithoutUsers is true: whoever reaches the port can read and delete"
            " everything.",
        ),
        (
            not settings.https_verify_peers,
            "HttpsVerifyPeers is false: the certificates of peers are not verified, so whoever is"
            " on the way can read and change what is transferred, and learn the passwords of peers."
            " Name their CA in HttpsCACertificates instead.",
        ),
        (
            settings.remote_access_allowed
            and settings.authentication_enabled
            and not settings.ssl_enabled,
            "RemoteAccessAllowed is true and SslEnabled is false: passwords and images travel"
            " readable, unless a proxy speaks TLS to the others.",
        ),
    )
    return tuple(sentence for holds, sentence in cases if holds)
