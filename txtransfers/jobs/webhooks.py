"""Tells others that a transfer has ended: at least once, whoever restarts, and never in jobs' way.

What is told waits in the outbox until its receiver has answered 2xx. For each receiver there is one
request at a time; one that cannot be reached, or refuses, is asked again later and later, and the
events for it take turns.
"""

import contextlib
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol
from urllib.parse import urlsplit

import attrs
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.defer import TimeoutError as DeferTimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from ..config_webhooks import WebhookSettings
from ..errors import TransfersError
from ..waiters import Waiters
from .announcements import signed_headers
from .outbox import Delivery, IOutbox

FIRST_DELAY_S = 1.0
"""Seconds before the second try; each further one waits twice as long."""

LONGEST_DELAY_S = 3600.0

LONGEST_HOLD_S = 60.0
"""Seconds for which a receiver that failed is left alone, at the most."""

KEPT_S = 7 * 24 * 3600.0
"""Seconds after which an event that nobody took is given up."""

_STORAGE_HOLD_S = 10.0
"""Seconds to wait where the outbox cannot be read or written."""

log = Logger()


class IPost(Protocol):
    """Makes a request."""

    async def __call__(self, url: str, headers: Mapping[str, str], body: bytes) -> None:
        """POST; returns when the receiver has answered 2xx.

        :raises TransfersError: it has not; the text says why, and names no path.
        """


class Webhooks:
    """All receivers. :meth:`start` once the outbox can be read, :meth:`stop` before it cannot."""

    def __init__(
        self,
        clock: IReactorTime,
        outbox: IOutbox,
        webhooks: Iterable[WebhookSettings],
        post: IPost,
        wall_clock: Callable[[], float],
        random: Callable[[], float],
    ) -> None:
        """:param wall_clock: seconds since the epoch. :param random: from 0 up to 1."""
        self._outbox = outbox
        self._receivers = [
            _Receiver(clock, outbox, webhook, post, wall_clock, random) for webhook in webhooks
        ]
        self._running: list[Deferred[None]] = []

    async def start(self) -> None:
        """Send what waits, and what comes; what waits for a URL that is gone is forgotten."""
        self._outbox.call_when_filled(self._wake)
        dropped = await self._outbox.forget_others([each.url for each in self._receivers])
        if dropped:
            log.warn(
                "{count} events are dropped: their URLs are not in Transfers.Webhooks any more",
                count=dropped,
            )
        self._running = [
            Deferred.fromCoroutine(each.run()).addErrback(_unexpected) for each in self._receivers
        ]

    def _wake(self) -> None:
        for receiver in self._receivers:
            receiver.wake()

    async def stop(self) -> None:
        """Stop; a request that is under way is made again in the next life."""
        for running in self._running:
            running.cancel()
        await DeferredList(self._running, consumeErrors=True)


class _Receiver:
    """One receiver."""

    def __init__(
        self,
        clock: IReactorTime,
        outbox: IOutbox,
        webhook: WebhookSettings,
        post: IPost,
        wall_clock: Callable[[], float],
        random: Callable[[], float],
    ) -> None:
        self.url = webhook.url
        self._news = Waiters()
        self._filled = False
        self._clock = clock
        self._outbox = outbox
        self._secret = webhook.secret
        self._post = post
        self._wall_clock = wall_clock
        self._random = random
        self._failures = 0
        """In a row, of whatever event."""

    def wake(self) -> None:
        """There may be something to send."""
        self._filled = True
        self._news.fire()

    async def run(self) -> None:
        """Send for ever; ends by being cancelled."""
        while True:
            try:
                await self._step()
            except CancelledError:
                raise
            except (TransfersError, sqlite3.Error) as error:
                log.warn("Webhook {who}: {error}", who=self._who, error=error)
                await self._wait(_STORAGE_HOLD_S)
            except Exception:
                log.failure("Webhook {who}: a defect of txtransfers", who=self._who)
                await self._wait(LONGEST_HOLD_S)

    async def _step(self) -> None:
        """Send one, or wait for its time, or for news."""
        self._filled = False
        delivery = await self._outbox.first(self.url)
        left = None if delivery is None else delivery.next_try - self._wall_clock()
        if delivery is not None and left is not None and left <= 0:
            await self._send(delivery)
        elif not self._filled:
            await self._wait(left, self._news.wait())

    async def _wait(self, seconds: float | None, news: "Deferred[None] | None" = None) -> None:
        waiting = news if news is not None else Deferred()
        if seconds is not None:
            waiting.addTimeout(seconds, self._clock)
        with contextlib.suppress(DeferTimeoutError):
            await waiting

    async def _send(self, delivery: Delivery) -> None:
        headers = signed_headers(delivery, self._secret, self._wall_clock())
        try:
            await self._post(self.url, headers, delivery.body)
        except TransfersError as error:
            await self._failed(delivery, error)
        else:
            self._failures = 0
            await self._outbox.done(delivery)

    async def _failed(self, delivery: Delivery, error: TransfersError) -> None:
        now = self._wall_clock()
        if now - delivery.created > KEPT_S:
            log.error(
                "Webhook {who}: the event {id} is given up after {tries} tries: {error}",
                who=self._who,
                id=delivery.id,
                tries=delivery.tries + 1,
                error=error,
            )
            await self._outbox.done(delivery)
        else:
            delay = self._delay(delivery.tries, LONGEST_DELAY_S)
            log.warn(
                "Webhook {who}: the event {id} was not taken, and is sent again: {error}",
                who=self._who,
                id=delivery.id,
                error=error,
            )
            await self._outbox.postpone(
                attrs.evolve(delivery, tries=delivery.tries + 1, next_try=now + delay)
            )
        self._failures += 1
        await self._wait(self._delay(self._failures - 1, LONGEST_HOLD_S))

    def _delay(self, failures: int, longest: float) -> float:
        """Seconds after so many earlier failures; a random half is left out."""
        delay = min(longest, FIRST_DELAY_S * 2.0 ** min(failures, 30))
        return delay * (0.5 + self._random() / 2)

    @property
    def _who(self) -> str:
        """The address without path and query, which may hold a token."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}"


def _unexpected(failure: object) -> None:
    if isinstance(getattr(failure, "value", None), CancelledError):
        return
    log.failure("A webhook stopped", failure)  # type: ignore[arg-type]
