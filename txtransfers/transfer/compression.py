"""Which codec pays: a pure decision from what the link, the codecs and the content are like.

A transfer is a row of works that go on at the same time: the slowest decides. Compressing makes
less to carry, and more to do. Where the link is slow that pays, on a fast one it does not; between
them a codec that tries harder pays only as far as the processors keep up.
"""

from collections.abc import Mapping, Sequence

import attrs

from ..wire.codec import GZIP_LEVEL, STORED, ZSTD_LEVELS, Codec, Coding

NONE = Coding(Codec.NONE, STORED)
GZIP = Coding(Codec.GZIP, GZIP_LEVEL)
GZIP_STORED = Coding(Codec.GZIP, STORED)
ZSTD = tuple(Coding(Codec.ZSTD, level) for level in ZSTD_LEVELS)

SPEEDS: Mapping[Coding, float] = {
    GZIP: 350e6,
    ZSTD[0]: 500e6,
    ZSTD[1]: 300e6,
    ZSTD[2]: 110e6,
}
"""Bytes a second that one core compresses, as long as it was not measured."""

RATIOS: Mapping[Coding, float] = {GZIP: 1.9, ZSTD[0]: 2.3, ZSTD[1]: 2.36, ZSTD[2]: 2.42}
"""Times as small as before, as long as it was not measured: 16-bit pixels."""

MOVING = 200e6
"""Bytes a second that a transfer moves where no link slows it down: reading, hashing, writing."""

FAR_S = 0.005
"""Seconds of a round trip from which on a link of unknown speed is taken for a slow one."""

_SPEED_OF_FAR = 20e6
"""Bytes a second that it is taken for."""

_WORTH_IT = 1.1
"""Times as fast a transfer must become by compression: what is moved as it is fails less."""

_AS_GOOD = 0.98
"""Of two codings whose gain is this near, the one that costs less."""

_WEIGHT = 0.2
"""Of a new measure, in an average that forgets."""


@attrs.frozen
class LinkEstimate:
    """What is known of the link to a peer.

    :ivar goodput: bytes a second that it carries, all connections together. :ivar rtt: seconds of a
        round trip. None: not known.
    """

    goodput: float | None = None
    rtt: float | None = None


@attrs.frozen
class Encoded:
    """What a codec did with a bucket: bytes before and after, seconds of a core of this daemon."""

    coding: Coding
    size: int
    encoded: int
    seconds: float = 0.0

    @property
    def ratio(self) -> float:
        """Times as small as before."""
        return self.size / self.encoded if self.encoded else 1.0


class CodecSpeeds:
    """How fast this daemon's cores compress: measured as they do it, guessed before."""

    def __init__(self) -> None:
        self._speeds = dict(SPEEDS)

    def of(self, coding: Coding) -> float:
        """Bytes a second of one core; what is not compressed costs nothing."""
        return self._speeds.get(coding, float("inf"))

    def learn(self, encoded: Encoded) -> None:
        """Take a measure; content that was stored says nothing."""
        known = self._speeds.get(encoded.coding)
        if known is not None and encoded.ratio > _WORTH_IT and encoded.seconds > 0:
            measured = encoded.size / encoded.seconds
            self._speeds[encoded.coding] = known + _WEIGHT * (measured - known)


class Ratios:
    """How small one transfer's content becomes: measured bucket by bucket, guessed before."""

    def __init__(self) -> None:
        self._measured: dict[Coding, float] = {}
        self._scale = 1.0

    def of(self, coding: Coding) -> float:
        """Times as small; of a coding that was not tried, as it behaves beside the last that was.

        So one that tries harder is tried once, where its gain would be welcome.
        """
        guess = max(1.0, RATIOS[coding] * self._scale) if coding in RATIOS else 1.0
        return self._measured.get(coding, guess)

    def learn(self, encoded: Encoded) -> None:
        """Take a measure."""
        if encoded.coding in RATIOS and encoded.size:
            known = self._measured.get(encoded.coding, encoded.ratio)
            self._measured[encoded.coding] = known + _WEIGHT * (encoded.ratio - known)
            self._scale = self._measured[encoded.coding] / RATIOS[encoded.coding]


def choose(
    link: LinkEstimate,
    codings: Sequence[Coding],
    speeds: CodecSpeeds,
    ratios: Ratios,
    cores: int,
) -> Coding:
    """The one of ``codings`` that moves most image bytes a second.

    :param codings: the first is that which does not compress.
    :param cores: those that may compress at the same time.
    """
    plain = codings[0]
    goodput = _goodput(link)
    if goodput is None:
        return plain
    rates = {c: _rate(goodput, speeds.of(c) * cores, ratios.of(c)) for c in codings}
    if max(rates.values()) < rates[plain] * _WORTH_IT:
        return plain
    enough = max(rates.values()) * _AS_GOOD
    return max((c for c in codings if rates[c] >= enough), key=speeds.of)


def _goodput(link: LinkEstimate) -> float | None:
    if link.goodput is not None:
        return link.goodput
    return _SPEED_OF_FAR if link.rtt is not None and link.rtt >= FAR_S else None


def _rate(goodput: float, speed: float, ratio: float) -> float:
    """Image bytes a second; ``speed`` is of all cores that compress.

    What compresses takes the time of what moves, and does not go on beside it: on two cores that is
    so, with many it makes little difference.
    """
    return min(1 / (1 / MOVING + 1 / speed), goodput * ratio)
