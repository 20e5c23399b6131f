"""``GET /transfers/events``, an extension of ours: what happens to jobs, as server-sent events.

Each client has a place in the history of :mod:`..jobs.events`, and what its socket takes; one that
does not read is told nothing more, and cut off once the history has gone on without it.
"""

from collections.abc import Iterator
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from zope.interface import implementer

from .. import __version__
from ..errors import TooBusy, UnknownJob
from ..jobs.events import Events, Kind
from ..jobs.runner import JobRunner
from ..transfer.streams import read_at_most
from .resource import ApiResource, Reply, argument
from .server import StreamingRequest

BEAT_S = 15.0
"""Seconds between two comments that keep the connection, and tell whether the client lives."""

MOST_CLIENTS = 64
_RETRY_AFTER_S = 5
_RETRY_MS = 1000
_UNSENT = 64 * 1024
"""Bytes that may wait in a client's socket."""

_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",  # nginx would collect
}

log = Logger()


class EventStream(ApiResource):
    """``/transfers/events``."""

    def __init__(self, jobs: JobRunner, clock: IReactorTime) -> None:
        super().__init__()
        self._jobs = jobs
        self._clock = clock
        self._clients = 0

    async def handle(self, request: StreamingRequest, method: str) -> Any:
        """As usual, but that HEAD ends at once."""
        if method == "HEAD":
            return Reply(b"", _HEADERS["Content-Type"])
        return await super().handle(request, method)

    async def get(self, request: StreamingRequest) -> None:
        """Tell what happens until the client leaves, beginning with what it has missed."""
        only = argument(request, "job")
        if only is not None:
            self._jobs.job(only)
        if self._clients >= MOST_CLIENTS:
            raise TooBusy(f"{self._clients} clients listen already; try again", _RETRY_AFTER_S)
        # A browser's own way; the argument is for one that begins anew, which cannot set headers.
        header = request.getHeader(b"Last-Event-ID")
        last = header.decode("latin-1") if header else argument(request, "last-event-id") or ""
        for name, value in _HEADERS.items():
            request.setHeader(name, value)
        client = _Client(request, self._jobs, self._clock, only)
        self._clients += 1
        try:
            await client.tell(last)
        finally:
            self._clients -= 1


@implementer(IPushProducer)
class _Client:
    """One who listens: a place in the history."""

    def __init__(
        self, request: StreamingRequest, jobs: JobRunner, clock: IReactorTime, only: str | None
    ) -> None:
        """:param only: the job that it wants to hear of."""
        self._request = request
        self._jobs = jobs
        self._events: Events = jobs.events
        self._clock = clock
        self._only = only
        self._place = 0
        self._to_tell: Iterator[bytes] = iter(())
        self._paused_at: float | None = None
        self._is_writing = False
        self._ended: Deferred[None] = Deferred()

    async def tell(self, last: str) -> None:
        """Tell until the client leaves, or is cut off. :param last: the event that it had last."""
        request = self._request
        request.notifyFinish().addBoth(lambda _result: self._end())
        read_at_most(request.channel.transport, _UNSENT)
        self._to_tell = self._beginning(self._events.number_of(last))
        stop_listening = self._events.listen(self._flow)
        beat = LoopingCall(self._beat)
        beat.clock = self._clock
        request.registerProducer(self, True)
        try:
            self._flow()
            beat.start(BEAT_S, now=False)
            await self._ended
        finally:
            if beat.running:
                beat.stop()
            stop_listening()
            request.unregisterProducer()

    def _beginning(self, missed_from: int | None) -> Iterator[bytes]:
        """What comes first: all that was missed, or else all that there is.

        :param missed_from: the last event that it had, where all that came since is known.
        """
        yield f"retry: {_RETRY_MS}\n\n".encode()
        self._place = self._events.last if missed_from is None else missed_from
        if missed_from is None:
            number = self._events.last
            about = {"Life": self._events.life, "TxtransfersVersion": __version__}
            yield _event("reset", msgspec.json.encode(about))
            for job in [self._only] if self._only else [job.id for job in self._jobs.jobs()]:
                try:
                    yield _event(Kind.JOB.value, self._events.shown(self._jobs.job(job)))
                except UnknownJob:  # forgotten meanwhile
                    continue
            self._place = number
        else:
            yield from self._news()
        replayed = msgspec.json.encode({"Replayed": missed_from is not None})
        yield _event("ready", replayed, self._events.identifier(self._place))

    def _news(self) -> Iterator[bytes]:
        while (told := self._events.after(self._place)) is not None:
            if not self._events.has_all_after(self._place):
                self._cut("it reads too slowly")
                return
            self._place = told.number
            if self._only in (None, told.job):
                yield _event(told.kind.value, told.data, self._events.identifier(told.number))

    def _flow(self) -> None:
        """Write what there is, as long as the client takes it."""
        if self._is_writing:
            return
        self._is_writing = True
        try:
            while self._paused_at is None and not self._ended.called:
                data = next(self._to_tell, None)
                if data is None:
                    self._to_tell = self._news()
                    data = next(self._to_tell, None)
                if data is None:
                    break
                self._request.write(data)
        finally:
            self._is_writing = False

    def _beat(self) -> None:
        if self._paused_at is None:
            self._request.write(b":\n\n")
        elif self._clock.seconds() - self._paused_at >= BEAT_S:
            self._cut(f"it has read nothing for {BEAT_S:g} s")

    def _cut(self, reason: str) -> None:
        log.info("GET /transfers/events: a client is cut off: {reason}", reason=reason)
        self._request.abort()
        self._end()

    def _end(self) -> None:
        if not self._ended.called:
            self._ended.callback(None)

    def pauseProducing(self) -> None:
        """The socket is full."""
        self._paused_at = self._clock.seconds()

    def resumeProducing(self) -> None:
        """It has room again."""
        self._paused_at = None
        self._flow()

    def stopProducing(self) -> None:
        """The client has left."""
        self._end()


def _event(kind: str, data: bytes, identifier: str | None = None) -> bytes:
    named = f"id: {identifier}\n".encode() if identifier is not None else b""
    return b"event: " + kind.encode() + b"\n" + named + b"data: " + data + b"\n\n"
