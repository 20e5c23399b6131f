"""The tables of the keys that are read: at the top, in ``Transfers``, and in each peer.

Read by ``config.py`` and its converters, and by a test that compares ``docs/configuration.md``
with them: default and unit are written here, once.
"""

from enum import Enum

import attrs

KIBIBYTE = 1024
MEBIBYTE = 1024 * KIBIBYTE
SHORTEST = 0.1
"""The shortest duration that is accepted, in seconds; never to give up is not offered."""

LONGEST = 365 * 24 * 3600
"""The longest duration that is accepted, in seconds: a longer one is a mistake of unit."""


class Kind(Enum):
    """What a key holds; the value is what an error says that it expected."""

    BOOLEAN = "true or false"
    INTEGER = "a whole number"
    INTEGER_OR_AUTO = 'a whole number or "auto"'
    SECONDS = "a number of seconds"
    TEXT = "a text"
    TEXTS = "an array of texts"
    DELAYS = "an array of numbers of seconds"
    OVERWRITE = 'true, false, "Always" or "Never"'
    ADDRESSES = "an array of IP addresses"
    USERS = "an object { user : password }"
    TOKENS = "an object { name : token }"
    PERMISSIONS = "an object { user : [ permission, ... ] }"
    ORIGINS = "an array of origins such as https://pacs.example.org"
    PROXY = "host:port or user:password@host:port"
    HEADERS = "an object { header : value }"
    URL = "an address such as http://host:8042/"
    PEER = "[ url ], [ url, user, password ], or an object"
    PEERS = "an object { name : peer }"
    BANDWIDTH = "a figure, a timetable, or an object { Upload, Download } of these"
    STORE_TYPE = '"Embedded" or "Orthanc"'
    WEB_URL = "an address such as http://localhost:8042/ or https://pacs.example.org/orthanc/"
    FILE = "the path of a file"
    STORE = 'an object { "Type" : ... }'
    CACHING = '"auto", "never", "revalidate" or "shared"'
    WEBHOOKS = 'an array of { "Url", "Secret" }'
    SECTION = "an object"
    LIMITS = "an object of limits"


@attrs.frozen
class Key:
    """One key that is read.

    :ivar field: the attribute of the settings that it becomes.
    :ivar default: in ``unit``; None where the meaning tells it.
    :ivar unit: for the documentation; ``scale`` times the number is what the settings hold.
    :ivar minimum: the smallest number (in ``unit``) that is accepted; likewise ``maximum``.
    :ivar secret: the value is shown in no error.
    """

    name: str
    field: str
    kind: Kind
    default: object
    meaning: str
    unit: str = ""
    scale: int = 1
    minimum: float = 0
    maximum: float = LONGEST
    secret: bool = False


KEYS = (
    Key("Name", "name", Kind.TEXT, "txtransfers", "What this daemon calls itself in /system."),
    Key(
        "HttpPort",
        "http_port",
        Kind.INTEGER,
        8042,
        "TCP port; 0 takes any free one.",
        maximum=65535,
    ),
    Key(
        "HttpBindAddresses",
        "http_bind_addresses",
        Kind.ADDRESSES,
        (),
        "IP addresses to listen on. If empty: the loopback, or all if RemoteAccessAllowed is true.",
    ),
    Key(
        "StorageDirectory",
        "storage_directory",
        Kind.TEXT,
        "OrthancStorage",
        "Where instances, index and jobs are kept; relative to the folder of this file.",
    ),
    Key(
        "RemoteAccessAllowed",
        "remote_access_allowed",
        Kind.BOOLEAN,
        False,
        "Whether other hosts may connect.",
    ),
    Key(
        "AuthenticationEnabled",
        "authentication_enabled",
        Kind.BOOLEAN,
        None,
        "Whether a user and a password are needed. Unset: the value of RemoteAccessAllowed.",
    ),
    Key(
        "RegisteredUsers",
        "registered_users",
        Kind.USERS,
        {},
        "Who may log in: user and password, or what `txtransfers password` makes of it.",
        secret=True,
    ),
    Key(
        "BearerTokens",
        "bearer_tokens",
        Kind.TOKENS,
        {},
        "Scripts that may log in: name and token, or what `txtransfers token` makes of it.",
        secret=True,
    ),
    Key(
        "Permissions",
        "permissions",
        Kind.PERMISSIONS,
        {},
        "What each user and script may do; if empty, everything. See below.",
    ),
    Key(
        "RemoteAccessWithoutUsers",
        "remote_access_without_users",
        Kind.BOOLEAN,
        False,
        "Whether other hosts may do everything, without any password.",
    ),
    Key(
        "AllowedOrigins",
        "allowed_origins",
        Kind.ORIGINS,
        (),
        "Web pages of other addresses that may change something here, for a browser's user.",
    ),
    Key(
        "SslEnabled",
        "ssl_enabled",
        Kind.BOOLEAN,
        False,
        "Whether HttpPort speaks TLS (https).",
    ),
    Key(
        "SslCertificate",
        "ssl_certificate",
        Kind.TEXT,
        "certificate.pem",
        "PEM file with the certificate, those between it and its CA, and the private key.",
    ),
    Key(
        "SslMinimumProtocolVersion",
        "ssl_minimum_protocol_version",
        Kind.INTEGER,
        4,
        "The oldest TLS that is spoken: 4 is TLS 1.2, 5 is TLS 1.3.",
        minimum=4,
        maximum=5,
    ),
    Key(
        "SslCiphersAccepted",
        "ssl_ciphers_accepted",
        Kind.TEXTS,
        (),
        "Cipher suites, in OpenSSL's names; if empty, the modern ones.",
    ),
    Key(
        "SslVerifyPeers",
        "ssl_verify_peers",
        Kind.BOOLEAN,
        False,
        "Whether whoever connects must show a certificate, too.",
    ),
    Key(
        "SslTrustedClientCertificates",
        "ssl_trusted_client_certificates",
        Kind.TEXT,
        "trustedClientCertificates.pem",
        "PEM file with the CAs (or certificates) that those certificates must come from.",
    ),
    Key(
        "HttpsVerifyPeers",
        "https_verify_peers",
        Kind.BOOLEAN,
        True,
        "Whether the certificates of peers are verified; without that, anybody can be a peer.",
    ),
    Key(
        "HttpsCACertificates",
        "https_ca_certificates",
        Kind.TEXT,
        "",
        "PEM file with the CAs that peers' certificates must come from; if empty, the system's.",
    ),
    Key(
        "HttpProxy",
        "http_proxy",
        Kind.PROXY,
        "",
        "The proxy by which all peers are reached: `host:port` or `user:password@host:port`.",
        secret=True,
    ),
    Key(
        "AuditLog",
        "audit_log",
        Kind.TEXT,
        "",
        "File that gets a line of JSON for all that is moved; if empty, none is kept.",
    ),
    Key(
        "AuditPatientNames",
        "audit_patient_names",
        Kind.BOOLEAN,
        False,
        "Whether these lines name patients.",
    ),
    Key(
        "HttpTimeout",
        "http_timeout",
        Kind.SECONDS,
        60,
        "A peer that makes no progress for so long has failed; a slow one has not.",
        unit="s",
        minimum=SHORTEST,
    ),
    Key("KeepAlive", "keep_alive", Kind.BOOLEAN, True, "Whether clients may reuse a connection."),
    Key(
        "ConcurrentJobs",
        "concurrent_jobs",
        Kind.INTEGER,
        2,
        "How many jobs run at once; the others wait.",
        minimum=1,
        maximum=1000,
    ),
    Key(
        "JobsHistorySize",
        "jobs_history_size",
        Kind.INTEGER,
        10,
        "How many ended jobs are remembered.",
        maximum=1_000_000,
    ),
    Key("SaveJobs", "save_jobs", Kind.BOOLEAN, True, "Whether jobs survive a restart."),
    Key(
        "OverwriteInstances",
        "overwrite_instances",
        Kind.OVERWRITE,
        False,
        "Whether an instance that is already stored is replaced by one that comes again.",
    ),
    Key(
        "MaximumStorageSize",
        "maximum_storage_size",
        Kind.INTEGER,
        0,
        "How much may be stored; what would not fit is refused, nothing is deleted. 0: no limit.",
        unit="MB",
        scale=MEBIBYTE,
        maximum=2**40,
    ),
    Key("OrthancPeers", "peers", Kind.PEERS, {}, "The peers, by name; see below.", secret=True),
    Key("Limits", "limits", Kind.LIMITS, {}, "What clients may take; see below."),
    Key("Store", "store", Kind.STORE, {}, "Where instances live; see below."),
    Key("Transfers", "transfers", Kind.SECTION, {}, "The transfers themselves; see below."),
)

STORE_KEYS = (
    Key(
        "Type",
        "type",
        Kind.STORE_TYPE,
        "Embedded",
        '"Embedded" is our own store, in StorageDirectory; "Orthanc" is the archive of an Orthanc.',
    ),
    Key("Url", "url", Kind.WEB_URL, None, "Where that Orthanc is; mandatory."),
    Key("Username", "username", Kind.TEXT, "", "The user to log in as there."),
    Key("Password", "password", Kind.TEXT, "", "That user's password there.", secret=True),
    Key(
        "HttpHeaders",
        "headers",
        Kind.HEADERS,
        {},
        "Headers that go with each request to it.",
        secret=True,
    ),
    Key(
        "Timeout",
        "timeout",
        Kind.SECONDS,
        0,
        "As HttpTimeout, for this Orthanc; 0 takes HttpTimeout.",
        unit="s",
    ),
    Key(
        "CacheSize",
        "cache_size",
        Kind.INTEGER,
        1024,
        "How much disk, in StorageDirectory, copies of its instances may take while they are sent.",
        unit="MB",
        scale=MEBIBYTE,
        minimum=1,
        maximum=2**40,
    ),
    Key(
        "ProxyTimeout",
        "proxy_timeout",
        Kind.SECONDS,
        3600,
        "A request that is handed on to it has failed where nothing moves for so long.",
        unit="s",
        minimum=SHORTEST,
    ),
    Key(
        "OrthancExplorer2Root",
        "explorer_root",
        Kind.TEXT,
        "/ui/",
        "Where Orthanc Explorer 2 is, if it has that: the Root of its own configuration.",
    ),
    Key(
        "HttpsVerifyPeers",
        "https_verify",
        Kind.BOOLEAN,
        True,
        "Whether its certificate is checked, where Url is https.",
    ),
    Key(
        "HttpsCACertificates",
        "https_ca_certificates",
        Kind.FILE,
        "",
        "A PEM file with the authorities that are trusted; empty: those of the system.",
    ),
    Key("CertificateFile", "certificate_file", Kind.FILE, "", "Our certificate for it, PEM."),
    Key("CertificateKeyFile", "certificate_key_file", Kind.FILE, "", "The key of that, PEM."),
    Key(
        "CertificateKeyPassword",
        "certificate_key_password",
        Kind.TEXT,
        "",
        "The password of that key.",
        secret=True,
    ),
)

TRANSFERS_KEYS = (
    Key(
        "Threads",
        "threads",
        Kind.INTEGER_OR_AUTO,
        "auto",
        'How many buckets are in flight at once to one peer; "auto" follows what the link gives.',
        minimum=1,
        maximum=1000,
    ),
    Key(
        "MaxThreads",
        "max_threads",
        Kind.INTEGER,
        64,
        'How many they may become where Threads is "auto".',
        minimum=1,
        maximum=1000,
    ),
    Key(
        "BucketSize",
        "bucket_size",
        Kind.INTEGER_OR_AUTO,
        "auto",
        'The size that a bucket should have; it may be twice as large. "auto" follows the link.',
        unit="KB",
        scale=KIBIBYTE,
        minimum=1,
        maximum=MEBIBYTE - 1,  # in KB: twice as much stays below 2^31 bytes, where stock peers end
    ),
    Key(
        "CacheSize",
        "cache_size",
        Kind.INTEGER,
        128,
        "The budget of memory for buckets in flight.",
        unit="MB",
        scale=MEBIBYTE,
        minimum=1,
        maximum=MEBIBYTE,
    ),
    Key(
        "MaxPushTransactions",
        "max_push_transactions",
        Kind.INTEGER,
        4,
        "How many pushes are received at once.",
        minimum=1,
        maximum=1000,
    ),
    Key(
        "MaxHttpRetries",
        "max_http_retries",
        Kind.INTEGER,
        0,
        "How often a bucket that failed is tried again.",
        maximum=1000,
    ),
    Key(
        "PeerConnectivityTimeout",
        "peer_connectivity_timeout",
        Kind.SECONDS,
        2,
        "How long to wait for a peer that is asked whether it knows transfers.",
        unit="s",
        minimum=SHORTEST,
    ),
    Key(
        "PeerCommitTimeout",
        "peer_commit_timeout",
        Kind.SECONDS,
        600,
        "How long to wait for a peer that verifies and stores what it received.",
        unit="s",
        minimum=SHORTEST,
    ),
    Key(
        "CommitThreadsCount",
        "commit_threads_count",
        Kind.INTEGER,
        4,
        "How many instances are verified and stored at once.",
        minimum=1,
        maximum=1000,
    ),
    Key(
        "PushTransactionTimeout",
        "push_transaction_timeout",
        Kind.SECONDS,
        24 * 3600,
        "How long what was received is kept while nobody goes on with it.",
        unit="s",
        minimum=1,
    ),
    Key(
        "JobRetryDelays",
        "job_retry_delays",
        Kind.DELAYS,
        (),
        "How long a failed job waits before its first further try, its second, and so on.",
        unit="s",
    ),
    Key(
        "CongestionControl",
        "congestion_control",
        Kind.TEXT,
        "auto",
        'How TCP shares a link: "auto" takes the system\'s, and bbr where packets get lost.',
    ),
    Key(
        "Delta",
        "delta",
        Kind.BOOLEAN,
        None,
        "Whether instances that the receiver holds are not sent. Unset: where asking is free.",
    ),
    Key(
        "Bandwidth",
        "bandwidth",
        Kind.BANDWIDTH,
        "0",
        "How much of buckets may travel, of all transfers together; see below. 0: no limit.",
    ),
    Key(
        "ChunksCaching",
        "chunks_caching",
        Kind.CACHING,
        "auto",
        "Whether HTTP caches may keep what is pulled from here; see below.",
    ),
    Key(
        "Webhooks",
        "webhooks",
        Kind.WEBHOOKS,
        (),
        "Who is told, by a signed POST, when a transfer has ended; see below.",
        secret=True,
    ),
)

PEER_KEYS = (
    Key("Url", "url", Kind.URL, None, 'Where the peer is; mandatory. "URL" is the same.'),
    Key("Username", "username", Kind.TEXT, "", "The user to log in as there."),
    Key("Password", "password", Kind.TEXT, "", "That user's password there.", secret=True),
    Key(
        "HttpHeaders",
        "headers",
        Kind.HEADERS,
        {},
        "Headers that go with each request to this peer.",
        secret=True,
    ),
    Key(
        "Timeout",
        "timeout",
        Kind.SECONDS,
        0,
        "As HttpTimeout, for this peer; 0 takes HttpTimeout.",
        unit="s",
    ),
    Key(
        "RemoteSelf",
        "remote_self",
        Kind.TEXT,
        None,
        "The name that the peer has for this daemon. If set, the peer pulls what is sent to it.",
    ),
    Key(
        "CertificateFile",
        "certificate_file",
        Kind.TEXT,
        "",
        "PEM file with the certificate that is shown to the peer, where it asks for one.",
    ),
    Key(
        "CertificateKeyFile",
        "certificate_key_file",
        Kind.TEXT,
        "",
        "PEM file with its private key; if empty, the key is in CertificateFile.",
    ),
    Key(
        "CertificateKeyPassword",
        "certificate_key_password",
        Kind.TEXT,
        "",
        "The password of that key, where it has one.",
        secret=True,
    ),
    Key(
        "Bandwidth",
        "bandwidth",
        Kind.BANDWIDTH,
        "0",
        "As Transfers.Bandwidth, of our transfers with this peer.",
    ),
)

PEER_URL_ALIAS = "URL"
