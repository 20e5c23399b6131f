"""What one client, or all together, may take: the section ``Limits`` -> frozen settings.

Used by ``config.py``. A number is written here, once; a test compares the documentation with it.
"""

import attrs

from txtransfers.config_keys import KIBIBYTE, MEBIBYTE, SHORTEST, Key, Kind
from txtransfers.config_values import SCALARS, check_known, read_keys, read_object
from txtransfers.wire.inflation import Inflation, Unpacking
from txtransfers.wire.pushes import PushLimits

LIMITS_KEYS = (
    Key(
        "MaxConnections",
        "connections",
        Kind.INTEGER,
        2000,
        "How many connections may be open; one more takes the place of one that is idle.",
        minimum=10,
        maximum=1_000_000,
    ),
    Key(
        "MaxConnectionsPerAddress",
        "connections_per_address",
        Kind.INTEGER,
        1000,
        "How many of them one address may have (of IPv6, one /64 network). 0: no limit.",
        maximum=1_000_000,
    ),
    Key(
        "MaxRequestsPerConnection",
        "requests_per_connection",
        Kind.INTEGER,
        0,
        "After so many requests a connection is closed. 0: no limit.",
        maximum=2**40,
    ),
    Key(
        "HeaderTimeout",
        "header_timeout",
        Kind.SECONDS,
        60,
        "How long a request's first line and headers may take, with what TLS begins with.",
        unit="s",
        minimum=SHORTEST,
    ),
    Key(
        "MinimumBodyRate",
        "minimum_body_rate",
        Kind.INTEGER,
        100,
        "A body that comes more slowly, over a minute, ends its connection. 0: no limit.",
        unit="bytes/s",
        maximum=2**30,
    ),
    Key(
        "MaxHeaderSize",
        "header_size",
        Kind.INTEGER,
        32,
        "The size of a request's first line and headers.",
        unit="KB",
        scale=KIBIBYTE,
        minimum=4,
        maximum=MEBIBYTE // KIBIBYTE,
    ),
    Key(
        "MaxChunksUrlLength",
        "chunks_url_length",
        Kind.INTEGER,
        24576,
        "The length of a URL of /transfers/chunks; peers make 2,000 characters.",
        unit="bytes",
        minimum=2000,
        maximum=MEBIBYTE,
    ),
    Key(
        "MaxMessageSize",
        "message_size",
        Kind.INTEGER,
        64,
        "The size of a JSON body, and of those that are handled at once together.",
        unit="MB",
        scale=MEBIBYTE,
        minimum=1,
        maximum=1024,
    ),
    Key(
        "MaxUploads",
        "uploads",
        Kind.INTEGER,
        512,
        "How many bodies may be coming at once: buckets, files, messages.",
        minimum=1,
        maximum=1_000_000,
    ),
    Key(
        "MaxDownloads",
        "downloads",
        Kind.INTEGER,
        256,
        "How many files and buckets are sent at once; as many again wait for their turn.",
        minimum=1,
        maximum=1_000_000,
    ),
    Key(
        "MaxInstances",
        "instances",
        Kind.INTEGER,
        500_000,
        "How many instances a push, or a ZIP archive, may have.",
        minimum=1,
        maximum=2**31,
    ),
    Key(
        "MaxBuckets",
        "buckets",
        Kind.INTEGER,
        500_000,
        "How many buckets a push may have.",
        minimum=1,
        maximum=2**20,
    ),
    Key(
        "MaxChunks",
        "chunks",
        Kind.INTEGER,
        1_000_000,
        "How many chunks these buckets may have together.",
        minimum=1,
        maximum=2**31,
    ),
    Key(
        "MaxInflatedSize",
        "inflated_size",
        Kind.INTEGER,
        0,
        "What one upload may become: inflated from gzip, or unpacked from a ZIP. 0: no limit.",
        unit="MB",
        scale=MEBIBYTE,
        maximum=2**40,
    ),
    Key(
        "MaxInflationRatio",
        "inflation_ratio",
        Kind.INTEGER,
        200,
        "From 64 MB on, how many times its size a compressed body may become. 0: no limit.",
        maximum=1_000_000,
    ),
    Key(
        "MaxStagingSize",
        "staging_size",
        Kind.INTEGER,
        0,
        "How much disk what is being received may take, and be promised. 0: no limit.",
        unit="MB",
        scale=MEBIBYTE,
        maximum=2**40,
    ),
    Key(
        "MinimumFreeDisk",
        "free_disk",
        Kind.INTEGER,
        64,
        "How much of the disk is left free.",
        unit="MB",
        scale=MEBIBYTE,
        minimum=1,
        maximum=2**40,
    ),
)


@attrs.frozen
class LimitsSettings:
    """What one client, or all together, may take; 0 is no limit where that is offered.

    :ivar header_timeout: seconds. :ivar minimum_body_rate: bytes a second.
    :ivar header_size: bytes, as all sizes here. :ivar chunks_url_length: bytes of path and query.
    """

    connections: int
    connections_per_address: int
    requests_per_connection: int
    header_timeout: float
    minimum_body_rate: int
    header_size: int
    chunks_url_length: int
    message_size: int
    uploads: int
    downloads: int
    instances: int
    buckets: int
    chunks: int
    inflated_size: int
    inflation_ratio: int
    staging_size: int
    free_disk: int


def read_limits(key: Key, value: object, path: str, problems: list[str]) -> LimitsSettings:
    """The section; what it does not name has its default."""
    found = read_object(key, value)
    check_known([known.name for known in LIMITS_KEYS], found, path, problems)
    return LimitsSettings(**read_keys(LIMITS_KEYS, found, path, problems, SCALARS))


def push_limits(limits: LimitsSettings) -> PushLimits:
    """Those of a push."""
    inflation = Inflation(limits.inflation_ratio)
    return PushLimits(limits.instances, limits.buckets, limits.chunks, inflation)


def unpacking(limits: LimitsSettings) -> Unpacking:
    """What a ZIP archive may hold."""
    return Unpacking(limits.instances, Inflation(limits.inflation_ratio, limits.inflated_size))


LIMITS = {Kind.LIMITS: read_limits}
