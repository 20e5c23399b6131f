"""The names of what can be done to a bucket's bytes before they travel.

``none`` and ``gzip`` are the protocol's; ``zstd`` is ours alone (``docs/protocol.md``), and never
travels to a peer that did not say that it takes it.
"""

from collections.abc import Iterable
from enum import Enum

import attrs

from ..errors import OutOfRange

STORED = 0
"""The level at which a container (a gzip member) holds the bytes as they are."""

ZSTD_LEVELS = (1, 3, 7)
"""Those that are used; between them little changes with 16-bit pixels that were shuffled."""

GZIP_LEVEL = 1
"""isal's levels go from 0 to 3; 1 is about as small as zlib's 3 at several times its speed."""

_DEFAULT_LEVELS = {"none": STORED, "gzip": GZIP_LEVEL, "zstd": ZSTD_LEVELS[0]}


class Codec(Enum):
    """What a bucket's bytes travel in; the value is how it is written."""

    NONE = "none"
    GZIP = "gzip"
    ZSTD = "zstd"


@attrs.frozen
class Coding:
    """How one bucket is made to travel: a codec, and how hard it tries."""

    codec: Codec
    level: int

    def __str__(self) -> str:
        return f"{self.codec.value} {self.level}"


OURS = frozenset({Codec.ZSTD})
"""What is offered to a peer, and taken from one, beside what the protocol has."""


ACCEPTED_CODECS = "Accept-Transfer-Codecs"
"""The header of a lookup by which who pulls says what it takes; a comma between two."""


def usual(codec: Codec) -> Coding:
    """A codec at the level that is used where nobody chooses."""
    return Coding(codec, _DEFAULT_LEVELS[codec.value])


def parse_codec(text: str, with_ours: bool = False) -> Codec:
    """Read a codec as it is written: case matters.

    :param with_ours: whether those are meant that the protocol has not.
    :raises OutOfRange: it is another.
    """
    for codec in Codec:
        if codec.value == text and (with_ours or codec not in OURS):
            return codec
    raise OutOfRange(f'Unknown compression "{text[:40]}": it is "none" or "gzip"')


def parse_coding(text: str, level: int) -> Coding:
    """Read a codec and its level; 0: the usual one, as for all but zstd.

    :raises OutOfRange: it is another codec, or a level of zstd that is not used.
    """
    coding = usual(parse_codec(text, with_ours=True))
    if coding.codec is not Codec.ZSTD or not level:
        return coding
    if level not in ZSTD_LEVELS:
        raise OutOfRange(f"The level {level} of zstd is none of {ZSTD_LEVELS}")
    return Coding(coding.codec, level)


def read_codecs(names: Iterable[str]) -> frozenset[Codec]:
    """Those of ``names`` that are known and ours; a later version may know more."""
    return frozenset(codec for codec in OURS if codec.value in set(names))


def codec_names(codecs: Iterable[Codec]) -> list[str]:
    """How they travel."""
    return sorted(codec.value for codec in codecs)
