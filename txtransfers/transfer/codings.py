"""How the buckets of one transfer travel: as was wished, or chosen one by one."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager

from twisted.internet.interfaces import IReactorTime

from ..wire.codec import OURS, Codec, Coding, usual
from ..wire.messages import Compression
from .compression import (
    GZIP,
    GZIP_STORED,
    NONE,
    ZSTD,
    CodecSpeeds,
    Encoded,
    LinkEstimate,
    Measures,
    Ratios,
    choose,
    expect,
)
from .experience import Experience

_LOOK_AGAIN = 16
"""Buckets after which content that did not shrink is tried again: the next series may."""


def usable_cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class BucketCodings:
    """See the module."""

    def __init__(
        self,
        wished: Compression,
        estimate: Callable[[], LinkEstimate],
        speeds: CodecSpeeds,
        cores: int,
        clock: IReactorTime,
    ) -> None:
        """:param estimate: tells what the link is like at present.

        :param cores: those that may compress this transfer's buckets at the same time.
        """
        self._wished = wished
        self._estimate = estimate
        self._speeds = speeds
        self._cores = cores
        self._ratios = Ratios()
        self._experience = Experience(clock)
        self._plain = 0
        self._base: Codec | None = None
        self._taken: frozenset[Codec] = frozenset()

    @property
    def offered(self) -> frozenset[Codec]:
        """What may be used beside what the protocol has."""
        return OURS if self._wished is Compression.AUTO else frozenset()

    def open(self, base: Codec | None = None) -> Codec:
        """What a push transaction is opened with; it holds for a peer that is not ours.

        :param base: what it was opened with before, where that is known. Where nothing speaks for
            none it is gzip, as a member can also hold what is stored.
        """
        if self._wished is not Compression.AUTO:
            base = Codec(self._wished.value)
        elif base is None:
            known = self._estimate().goodput is not None
            expected = expect((NONE, GZIP), self._measures(self._ratios))
            base = Codec.NONE if known and expected == NONE else Codec.GZIP
        return base

    def opened(self, base: Codec, taken: frozenset[Codec]) -> None:
        """A push transaction is open.

        :param base: what its buckets travel in. :param taken: what the peer takes beside that.
        """
        self._base, self._taken = base, taken

    def served(self, taken: frozenset[Codec]) -> None:
        """A pull has begun; the peer can serve these beside none and gzip."""
        self._base, self._taken = None, taken

    def next(self) -> Coding:
        """How the next bucket is to travel."""
        if self._wished is not Compression.AUTO:
            return usual(Codec(self._wished.value))
        ratios = self._ratios if self._plain % _LOOK_AGAIN < _LOOK_AGAIN - 1 else Ratios()
        codings = self._possible()
        chosen = choose(codings, self._measures(ratios))
        self._plain = self._plain + 1 if chosen == codings[0] else 0
        return chosen

    def _possible(self) -> tuple[Coding, ...]:
        """The first is that which does not compress."""
        if Codec.ZSTD in self._taken:  # such a peer takes any codec in any bucket
            return (NONE, *ZSTD)
        if self._base is None:
            return (NONE, GZIP)
        return (NONE,) if self._base is Codec.NONE else (GZIP_STORED, GZIP)

    def _measures(self, ratios: Ratios) -> Measures:
        link, achieved = self._estimate(), self._experience.of
        return Measures(link, self._speeds, ratios, self._cores, achieved)

    def trying(self, coding: Coding, size: int) -> AbstractContextManager[None]:
        """See :meth:`Experience.trying`."""
        return self._experience.trying(coding, size)

    def learn(self, encoded: Encoded) -> None:
        """A bucket was compressed; without seconds, elsewhere."""
        self._speeds.learn(encoded)
        self._ratios.learn(encoded)
