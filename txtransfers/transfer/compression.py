"""Which codec pays: a pure decision from what the link, the codecs and the content are like.

A transfer is a row of works that go on at the same time: the slowest decides. Compressing makes
less to carry, and more to do. Where the link is slow that pays, on a fast one it does not; between
them a codec that tries harder pays only as far as the processors keep up.
"""

from collections.abc import Callable, Mapping, Sequence

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

MOVING = 150e6
"""Bytes a second that a transfer moves where no link slows it down: reading, hashing, writing."""

FAR_S = 0.005
"""Seconds of a round trip from which on a link of unknown speed is taken for a slow one."""

_SPEED_OF_FAR = 20e6
"""Bytes a second that it is taken for."""

_WORTH_IT = 1.1
"""Times as fast a transfer must become by compression: what is moved as it is fails less."""

_AS_GOOD = 0.98
"""Of two codings whose gain is this near, the one that costs less."""

_DOUBT = 0.5
"""Of what the processors manage: a near link that carries more may be faster than it looked."""

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

    def knows(self, coding: Coding) -> bool:
        """Whether it was tried."""
        return coding in self._measured

    def learn(self, encoded: Encoded) -> None:
        """Take a measure."""
        if encoded.coding in RATIOS and encoded.size:
            known = self._measured.get(encoded.coding, encoded.ratio)
            self._measured[encoded.coding] = known + _WEIGHT * (encoded.ratio - known)
            self._scale = self._measured[encoded.coding] / RATIOS[encoded.coding]


@attrs.frozen
class Measures:
    """What a choice is made from.

    :ivar cores: those that may compress at the same time.
    :ivar achieved: image bytes a second that a coding has moved; None: it was not tried lately.
    """

    link: LinkEstimate
    speeds: CodecSpeeds
    ratios: Ratios
    cores: int
    achieved: Callable[[Coding], float | None] = lambda _coding: None


def choose(codings: Sequence[Coding], measures: Measures) -> Coding:
    """How the next bucket is to travel: see :func:`expect`, but what is in doubt is tried plain.

    :param codings: the first is that which does not compress.
    """
    best = expect(codings, measures)
    return codings[0] if best != codings[0] and _is_doubtful(codings, measures) else best


def expect(codings: Sequence[Coding], measures: Measures) -> Coding:
    """The one of ``codings`` that should move most image bytes a second.

    :param codings: the first is that which does not compress, the next does it cheapest.
    """
    plain = codings[0]
    goodput = measures.link.goodput
    if goodput is None:
        if not _is_far(measures.link):
            return plain
        goodput = _SPEED_OF_FAR
    if measures.link.goodput is None or not any(map(measures.ratios.knows, codings[1:2])):
        codings = codings[:2]  # as long as it is a guess, nothing that tries hard
    rates = {coding: _rate(goodput, coding, measures) for coding in codings}
    if max(rates.values()) < rates[plain] * _WORTH_IT:
        return plain
    enough = max(rates.values()) * _AS_GOOD
    return max((c for c in codings if rates[c] >= enough), key=measures.speeds.of)


def _is_far(link: LinkEstimate) -> bool:
    return link.rtt is not None and link.rtt >= FAR_S


def _rate(goodput: float, coding: Coding, measures: Measures) -> float:
    """Image bytes a second: as was achieved, else as is to be expected."""
    achieved = measures.achieved(coding)
    if achieved is not None:
        return achieved
    return min(_work(coding, measures), goodput * measures.ratios.of(coding))


def _work(coding: Coding, measures: Measures) -> float:
    """Image bytes a second that the processors manage.

    What compresses takes the time of what moves, and does not go on beside it: on two cores that is
    so, with many it makes little difference.
    """
    return 1 / (1 / MOVING + 1 / (measures.speeds.of(coding) * measures.cores))


def _is_doubtful(codings: Sequence[Coding], measures: Measures) -> bool:
    """Whether a near link may have been held up by the processors, not by itself: try it plain."""
    plain, cheapest, *_harder = codings
    goodput = measures.link.goodput
    if goodput is None or _is_far(measures.link) or measures.achieved(plain) is not None:
        return False
    return goodput * measures.ratios.of(cheapest) > _work(cheapest, measures) * _DOUBT
