"""Jobs as they change: by the daemon's events where it has them, else by asking again and again.

A daemon that goes away is waited for: its jobs go on when it comes back.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import LoopingCall, deferLater

from ..errors import (
    DaemonError,
    DaemonNonsense,
    DaemonRefused,
    DaemonUnreachable,
    UnknownJob,
    UnknownResource,
)
from .events import Event
from .values import Job, read_job

Jobs = Mapping[str, Job]

_FROM_PROXIES = (502, 503, 504)
"""What a proxy answers while the daemon behind it is away."""


class IJobs(Protocol):
    """Where jobs are: a :class:`.Client`."""

    async def fetch_jobs(self, only: str | None) -> Jobs:
        """All jobs, or one.

        :raises UnknownJob: there is none of that identifier.
        """

    async def listen(self, on_event: Callable[[Event], None], job: str | None = None) -> None:
        """See :meth:`.Client.listen`."""


class Watch:
    """One watch over one job, or over all."""

    def __init__(
        self,
        reactor: Any,
        client: IJobs,
        only: str | None,
        on_change: Callable[[Jobs], None],
        is_over: Callable[[Jobs], bool],
        every: float,
        patience: float,
        on_trouble: Callable[[DaemonError], None],
    ) -> None:
        """:param only: the job that is watched; None for all.

        :param on_change: called with the jobs every so many seconds, and when a state has changed.
        :param is_over: whether that is all.
        :param patience: seconds for which a daemon that does not answer is asked again.
        """
        self._reactor = reactor
        self._client = client
        self._only = only
        self._on_change = on_change
        self._is_over = is_over
        self._every = every
        self._patience = patience
        self._on_trouble = on_trouble
        self._has_events = True
        self._jobs: dict[str, Job] = {}
        self._replayed: dict[str, Job] | None = None
        self._states: dict[str, str] = {}
        self._listening: Deferred[None] | None = None

    async def run(self) -> Jobs:
        """Watch until it is over; gives the jobs as they were then.

        :raises UnknownJob: the only one is unknown, or forgotten before it was seen to end.
        :raises DaemonUnreachable: the daemon did not answer for longer than the patience.
        """
        silent_since: float | None = None
        while True:
            try:
                await self._look()
                silent_since = None
                if self._is_over(self._jobs):
                    return self._jobs
                if self._has_events:
                    await self._listen()
                    if self._is_over(self._jobs):
                        return self._jobs
            except (DaemonUnreachable, DaemonRefused) as error:
                if isinstance(error, DaemonRefused) and error.status not in _FROM_PROXIES:
                    raise
                now = self._reactor.seconds()
                silent_since = now if silent_since is None else silent_since
                if now - silent_since >= self._patience:
                    raise
                self._on_trouble(error)
            await deferLater(self._reactor, self._every)

    async def _look(self) -> None:
        self._jobs = dict(await self._client.fetch_jobs(self._only))
        self._tell()

    def _tell(self) -> None:
        self._states = {id_: job.state for id_, job in self._jobs.items()}
        self._on_change(self._jobs)

    async def _listen(self) -> None:
        """Until it is over, or the stream ends."""
        ticking = LoopingCall(self._tell)
        ticking.clock = self._reactor
        ticking.start(self._every, now=False)
        self._listening = Deferred.fromCoroutine(self._client.listen(self._heard, self._only))
        try:
            await self._listening
        except CancelledError:
            if not self._is_over(self._jobs):
                raise
        except (UnknownResource, UnknownJob, DaemonRefused):  # an Orthanc, or too many listen
            self._has_events = False  # what is wrong otherwise shows when it is asked again
        finally:
            self._replayed = None
            ticking.stop()
            self._listening = None

    def _heard(self, event: Event) -> None:
        if event.kind == "reset":
            self._replayed = {}
        elif event.kind == "ready":
            self._jobs, self._replayed = self._jobs_now, None
        elif event.kind == "job":
            job = read_job(_parsed(event))
            self._jobs_now[job.id] = job
        elif event.kind == "forgotten" and self._only is None:
            self._jobs_now.pop(str(_parsed(event).get("ID")), None)
        if self._replayed is not None:
            return
        is_over = self._is_over(self._jobs)
        if is_over or self._states != {id_: job.state for id_, job in self._jobs.items()}:
            self._tell()
        if is_over and self._listening is not None:
            # Not from within: what listens is being told.
            self._reactor.callLater(0, self._stop)

    @property
    def _jobs_now(self) -> dict[str, Job]:
        """Those that events change: until all that there is has been told, not those on show."""
        return self._jobs if self._replayed is None else self._replayed

    def _stop(self) -> None:
        if self._listening is not None:
            self._listening.cancel()


def _parsed(event: Event) -> Mapping[str, Any]:
    try:
        value = json.loads(event.data)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise DaemonNonsense("The daemon sent an event that is no JSON")
    return value
