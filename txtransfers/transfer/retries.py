"""Trying again with sense: what is worth it, and how long to wait before.

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
_BUSY = frozenset({408, 429, 500, 502, 503, 504})
_PASSING = (PeerUnreachable, StoreUnavailable, WrongLength, BadCompression, CorruptedInstances)

log = Logger()


def is_worth_retrying(error: TransfersError) -> bool:
    """Whether the same may succeed later: no answer, a cut or damaged one, a busy peer or store."""
    if isinstance(error, PeerRefused):
        return error.status in _BUSY
    return isinstance(error, _PASSING)


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
    attempt = 0
    while True:
        try:
            return await request()
        except TransfersError as error:
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
