"""What caches between us and who pulls are told of ``chunks`` answers. Pure.

An address names instances, not what is in them: without more, a cache may keep an answer but has to
ask each time whether it still holds. Who pulls and knows the MD5s says which content it means
(:func:`.plan.content_of`); such an answer can never be another one, and a cache may give it
unasked. Why so: ``docs/decisions/0014-caches-know-the-content.md``.
"""

from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from hashlib import sha256
from importlib.metadata import version

from ..config import Settings
from ..wire.codec import Codec, Coding
from ..wire.plan import Chunk, Instance

FRESH_S = 3600
"""Seconds for which a cache may give an answer unasked; what is deleted here is gone there then."""

_LIBRARIES = {Codec.NONE: "", Codec.GZIP: "isal", Codec.ZSTD: "backports.zstd"}
"""What makes the bytes of a codec: another version may make others."""


class Caching(Enum):
    """Who may keep answers; the value is how the configuration writes it."""

    NEVER = "never"
    REVALIDATE = "revalidate"
    SHARED = "shared"


def policy(settings: Settings) -> Caching:
    """What holds where the configuration leaves it to us: what not all may see is not kept."""
    wished = settings.transfers.chunks_caching
    if wished is not None:
        return Caching(wished)
    is_private = settings.authentication_enabled or settings.ssl_verify_peers
    return Caching.NEVER if is_private else Caching.SHARED


def cache_control(caching: Caching, is_pinned: bool) -> str:
    """The header of an answer. :param is_pinned: whether the address says which content it means.

    Nobody may change the bytes on the way: they are counted, and the tag is that of these.
    """
    if caching is Caching.NEVER:
        return "private, no-store"
    if caching is Caching.REVALIDATE or not is_pinned:
        return "public, no-cache, no-transform"
    return f"public, max-age={FRESH_S}, immutable, no-transform"


def entity_tag(chunks: Iterable[Chunk], known: Mapping[str, Instance], coding: Coding) -> str:
    """A strong tag: the same bytes have it always, others never (as far as MD5 tells)."""
    digest = sha256(f"{coding} {_library_of(coding.codec)}\n".encode())
    for chunk in chunks:
        digest.update(f"{known[chunk.id].md5} {chunk.offset} {chunk.size}\n".encode())
    return f'"{digest.hexdigest()[:32]}"'


def _library_of(codec: Codec) -> str:
    name = _LIBRARIES[codec]
    try:
        return version(name) if name else ""
    except ImportError:  # from 3.14 on zstd is Python's own
        return "built in"


def is_known(tag: str, offered: Sequence[str]) -> bool:
    """Whether ``tag`` is among what the lines of ``If-None-Match`` list.

    Compared weakly, as RFC 9110 (13.1.2) wants it: a proxy may have marked a tag as weak.
    """
    tags = [each.strip() for line in offered for each in line.split(",")]
    return "*" in tags or tag in {each.removeprefix("W/") for each in tags}
