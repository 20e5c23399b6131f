"""Trying again with sense: what is worth it, and how long to wait before.

Who is too busy and says when to come again is asked again then: that counts for no retry.

The wait grows exponentially with jitter, so that many buckets do not come back at once; a peer's
``Retry-After`` is kept to.
"""

import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from ..errors import (
    BadCompression,
    CorruptedInstances,
    PeerRefused,
    PeerUnreachable,
    StoreUnavailable,
    TransfersError,
    WrongLength,
)

T = TypeVar("T")

_FIRST_DELAY_S = 1.0
_LONGEST_DELAY_S = 30.0
_BUSY_PATIENCE_S = 60.0
"""Seconds that are waited, in all, because a peer says that it is too busy."""

_SOON_S = 10
"""Seconds up to which what such a peer says is a matter of the moment."""

_TOO_BUSY = frozenset({429, 503})
_BUSY = frozenset({408, 429, 500, 502, 503, 504})
_PASSING = (PeerUnreachable, StoreUnavailable, WrongLength, BadCompression, CorruptedInstances)

log = Logger()


def is_worth_retrying(error: TransfersError) -> bool:
    """Whether the same may succeed later: no answer, a cut or damaged one, a busy peer or store."""
    if isinstance(error, PeerRefused):
        return error.status in _BUSY
    return isinstance(error, _PASSING)


def _comes_again_soon(error: TransfersError) -> bool:
    """Whether the peer is too busy for a moment, by its own words."""
    return (
        isinstance(error, PeerRefused)
        and error.status in _TOO_BUSY
        and error.retry_after is not None
        and error.retry_after <= _SOON_S
    )


def delay_before(attempt: int, error: TransfersError) -> float:
    """Seconds to wait before the retry number ``attempt``, which counts from 1."""
    if isinstance(error, PeerRefused) and error.retry_after is not None:
        return min(float(error.retry_after), _LONGEST_DELAY_S)
    longest: float = min(_LONGEST_DELAY_S, _FIRST_DELAY_S * 2 ** (attempt - 1))
    return longest * random.uniform(0.5, 1.0)


async def with_retries(
    clock: IReactorTime,
    retries: int,
    request: Callable[[], Awaitable[T]],
    on_retry: Callable[[], None],
) -> T:
    """Call ``request`` until it succeeds, at most ``retries`` times more (``MaxHttpRetries``).

    Raises the last error, or the first that is not worth retrying.
    """
    attempt, waited = 0, 0.0
    while True:
        try:
            return await request()
        except TransfersError as error:
            if _comes_again_soon(error) and waited < _BUSY_PATIENCE_S:
                delay = max(1.0, delay_before(1, error)) * random.uniform(1.0, 1.5)
                waited += delay
                log.info("Once more in {delay:.1f} s: {error}", delay=delay, error=error)
            else:
                attempt += 1
                if attempt > retries or not is_worth_retrying(error):
                    raise
                delay = delay_before(attempt, error)
                log.info(
                    "Retry {attempt} of {retries} in {delay:.1f} s: {error}",
                    attempt=attempt,
                    retries=retries,
                    delay=delay,
                    error=error,
                )
        on_retry()
        await deferLater(clock, delay)
