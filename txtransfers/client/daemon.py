"""The client: one method for each thing that a daemon can be asked."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import quote

from twisted.web.iweb import IAgent

from ..errors import (
    DaemonError,
    DaemonNonsense,
    DaemonRefused,
    DaemonUnreachable,
    UnknownJob,
    UnknownResource,
)
from ..transfer.streams import ISlices, RequestBody, collecting_sink
from ..wire.messages import MAX_MESSAGE_SIZE, Compression, Level, Resource
from .events import Event, EventSink
from .http import TIMEOUT_S, Connection, Request, constant
from .together import together
from .values import (
    Found,
    Job,
    Peer,
    Sent,
    Stored,
    read_found,
    read_job,
    read_list,
    read_peers,
    read_sent,
    read_stored,
)
from .watching import Jobs, Watch

POLL_S = 0.5
"""Seconds between two looks at a job that is followed."""

PATIENCE_S = 120.0
"""Seconds for which a daemon that does not answer is asked again, while a job is followed."""

_SILENCE_S = 45.0
"""Seconds after which a stream of events is broken: something comes every 15."""

_MOST_AT_PEER = 200

_PLURALS = {
    Level.PATIENT: "patients",
    Level.STUDY: "studies",
    Level.SERIES: "series",
    Level.INSTANCE: "instances",
}


class Client:
    """One daemon, asked over HTTP: a txtransfers, or as far as it has the routes an Orthanc.

    Each coroutine may be called at any time, several at once; cancelling one ends its request. A
    request that only asks may be made anew by itself; one that changes something is made once.
    """

    def __init__(
        self,
        reactor: Any,
        url: str,
        user: str = "",
        password: str = "",
        *,
        authorities: bytes | None = None,
        timeout: float = TIMEOUT_S,
        connections: int = 4,
        agent: IAgent | None = None,
    ) -> None:
        """:param url: ``http://host:8042/``, or ``https``; without credentials.

        :param user: empty where the daemon asks for none.
        :param authorities: certificates in PEM that vouch for the daemon; None: the system's.
        :param timeout: seconds without progress after which the daemon has failed.
        :param connections: kept at the most; as many uploads may run at once.
        :param agent: makes the requests instead, in tests.
        :raises ConfigurationError: ``url`` or ``authorities`` cannot be used.
        """
        self._reactor = reactor
        self._http = Connection(
            reactor, url, user, password, authorities, timeout, connections, agent
        )

    @property
    def url(self) -> str:
        """Where the daemon is, with a slash at the end."""
        return self._http.url

    async def close(self) -> None:
        """Close the idle connections. Safe to call twice."""
        await self._http.close()

    # The daemon itself

    async def system(self) -> Mapping[str, Any]:
        """``/system``: ``Name``, ``Version``, and of a txtransfers ``TxtransfersVersion``."""
        told = await self._http.json("GET", "/system")
        if not isinstance(told, dict):
            raise DaemonNonsense(f"{self._http.who} answered /system with no object")
        return told

    async def plugins(self) -> Sequence[str]:
        """The names of its plugins; ``transfers`` is the one that matters."""
        return [str(name) for name in read_list(await self._http.json("GET", "/plugins"), "names")]

    # Transfers

    async def peers(self) -> Sequence[Peer]:
        """Its peers, and whether it reaches them: takes up to ``PeerConnectivityTimeout``."""
        states, known = await together(
            self._http.json("GET", "/transfers/peers?expand"),
            self._http.json("GET", "/peers?expand"),
        )
        return read_peers(states, known)

    async def test_peer(self, name: str) -> Sequence[Any]:
        """Have the daemon try step by step what a transfer with a peer needs.

        Gives its steps: ``Step``, ``Result`` (Passed, Failed, LeftOut), ``Details``, ``Advice``.

        :raises UnknownResource: it has no such peer, or no such test.
        """
        told = await self.ask("POST", f"/transfers/peers/{_segment(name)}/test", {})
        steps = told.get("Steps") if isinstance(told, dict) else None
        return read_list(steps, "the steps of a test")

    async def send(
        self,
        resources: Sequence[Resource],
        peer: str,
        compression: Compression = Compression.AUTO,
        priority: int = 0,
    ) -> Sent:
        """Ask the daemon to send. All resources are one transfer: all of it arrives, or nothing.

        :raises UnknownResource: the daemon has no such peer.
        """
        return await self._submit("send", resources, peer, compression, priority)

    async def receive(
        self,
        resources: Sequence[Resource],
        peer: str,
        compression: Compression = Compression.AUTO,
        priority: int = 0,
    ) -> Sent:
        """Ask the daemon to fetch from a peer; the identifiers are the same there.

        :raises UnknownResource: the daemon has no such peer.
        """
        return await self._submit("pull", resources, peer, compression, priority)

    async def _submit(
        self,
        route: str,
        resources: Sequence[Resource],
        peer: str,
        compression: Compression,
        priority: int,
    ) -> Sent:
        value = {
            "Resources": [resource.to_json() for resource in resources],
            "Peer": peer,
            "Compression": compression.value,
            "Priority": priority,
        }
        try:
            return read_sent(await self._http.json("POST", f"/transfers/{route}", value))
        except DaemonRefused as refused:
            if refused.status != 404:
                raise
            raise UnknownResource(
                f"{refused}. It needs a peer of that name, and a transfers accelerator"
            ) from refused

    # Jobs

    async def jobs(self) -> Sequence[Job]:
        """All that it knows, oldest first."""
        told = await self._http.json("GET", "/jobs?expand")
        return [read_job(value) for value in read_list(told, "a list of jobs")]

    async def job(self, id_: str) -> Job:
        """One.

        :raises UnknownJob: it has none of that identifier.
        """
        with _unknown(UnknownJob):
            return read_job(await self._http.json("GET", f"/jobs/{_segment(id_)}"))

    async def pause(self, id_: str) -> None:
        """Let a job wait. Refused (:class:`DaemonRefused`, 400) as the protocol's table says."""
        await self._act(id_, "pause")

    async def resume(self, id_: str) -> None:
        """Let a paused job go on. Refused where it is not paused."""
        await self._act(id_, "resume")

    async def cancel(self, id_: str) -> None:
        """End a job; returns when it has ended. One that was committed already is a Success."""
        await self._act(id_, "cancel")

    async def resubmit(self, id_: str) -> None:
        """Start a failed job again, from what has arrived. Refused where it has not failed."""
        await self._act(id_, "resubmit")

    async def _act(self, id_: str, action: str) -> None:
        await self._http.ask(Request("POST", f"/jobs/{_segment(id_)}/{action}"))

    async def receipt(self, id_: str) -> Any:
        """The receipt of a job that has ended, the value of its JSON.

        :raises UnknownJob: there is none (yet), or no such job.
        """
        with _unknown(UnknownJob):
            return await self._http.json("GET", f"/jobs/{_segment(id_)}/receipt")

    async def follow(
        self,
        id_: str,
        on_change: Callable[[Job], None] = lambda job: None,
        *,
        every: float = POLL_S,
        patience: float = PATIENCE_S,
        on_trouble: Callable[[DaemonError], None] = lambda error: None,
    ) -> Job:
        """Wait until a job has ended; gives it as it ended.

        :param on_change: called with the job, first as it is now, then ``every`` so many seconds,
            and when its state has changed.
        :param patience: seconds for which a daemon that does not answer is asked again: a job goes
            on when its daemon is restarted.
        :param on_trouble: called when it does not.
        :raises UnknownJob: there is none, or it is forgotten.
        :raises DaemonUnreachable: it did not answer for so long.
        """
        jobs = await self._watch(
            id_,
            lambda known: on_change(known[id_]) if id_ in known else None,
            lambda known: id_ in known and known[id_].is_ended,
            every,
            patience,
            on_trouble,
        )
        try:
            return await self.job(id_)  # an event tells not all
        except (UnknownJob, DaemonUnreachable):
            return jobs[id_]

    async def watch(
        self,
        on_change: Callable[[Sequence[Job]], None],
        *,
        is_over: Callable[[Sequence[Job]], bool] = lambda jobs: False,
        every: float = POLL_S,
        patience: float = PATIENCE_S,
        on_trouble: Callable[[DaemonError], None] = lambda error: None,
    ) -> None:
        """See all jobs as they change, oldest first, until ``is_over``; parameters as above."""
        await self._watch(
            None,
            lambda known: on_change(_in_order(known)),
            lambda known: is_over(_in_order(known)),
            every,
            patience,
            on_trouble,
        )

    async def _watch(
        self,
        only: str | None,
        on_change: Callable[[Jobs], None],
        is_over: Callable[[Jobs], bool],
        every: float,
        patience: float,
        on_trouble: Callable[[DaemonError], None],
    ) -> Jobs:
        return await Watch(
            self._reactor, self, only, on_change, is_over, every, patience, on_trouble
        ).run()

    async def fetch_jobs(self, only: str | None) -> Jobs:
        """One job, or all, by identifier.

        :raises UnknownJob: it has none of that identifier.
        """
        found = await self.jobs() if only is None else [await self.job(only)]
        return {job.id: job for job in found}

    async def listen(self, on_event: Callable[[Event], None], job: str | None = None) -> None:
        """Be told what happens to jobs (``/transfers/events``), until the stream ends.

        :param on_event: called with each event; what it raises ends this.
        :param job: the only one of interest.
        :raises UnknownResource: there is no such job, or the daemon has no events.
        :raises DaemonUnreachable: the stream broke off: ask again, and what happened meanwhile is
            told at once.
        """
        arguments = "" if job is None else f"?job={_segment(job)}"
        request = Request(
            "GET",
            f"/transfers/events{arguments}",
            headers={"Accept": "text/event-stream"},
            timeout=_SILENCE_S,
        )
        with _unknown(UnknownResource):
            await self._http.into(EventSink(on_event), request)

    # The archive

    async def find(
        self,
        level: Level,
        query: Mapping[str, str],
        since: int = 0,
        limit: int = 0,
    ) -> Sequence[Found]:
        """What matches a query (``/tools/find``).

        :param query: DICOM keyword -> pattern with ``*`` and ``?``; a range of dates; alternatives
            after a backslash. Without regard to case.
        :param since: how many to leave out at the start. :param limit: the most; 0 for all.
        """
        value: dict[str, Any] = {"Level": level.value, "Query": dict(query), "Expand": True}
        if since or limit:
            value |= {"Since": since, "Limit": limit}
        told = await self._http.json("POST", "/tools/find", value)
        return [read_found(each) for each in read_list(told, "what was found")]

    async def find_at(self, peer: str, level: Level, query: Mapping[str, str]) -> Sequence[Found]:
        """As :meth:`find`, in what a peer holds: the first 200, asked by the daemon.

        :raises UnknownResource: the daemon has no such peer, or cannot do that.
        """
        value = {
            "Level": level.value,
            "Query": dict(query),
            "Expand": True,
            "Limit": _MOST_AT_PEER,
        }
        told = await self.ask("POST", f"/transfers/peers/{_segment(peer)}/find", value)
        return [read_found(each) for each in read_list(told, "what was found")]

    async def lookup(self, identifier: str) -> Sequence[Resource]:
        """The resources that have a DICOM identifier: a UID, or a patient's ID."""
        body = constant(identifier.encode())
        answer = await self._http.ask(Request("POST", "/tools/lookup", body))
        told = self._http.parse(answer, "POST", "/tools/lookup")
        found = []
        for each in read_list(told, "what was looked up"):
            with suppress(KeyError, ValueError, TypeError):
                found.append(Resource(Level(each["Type"]), str(each["ID"])))
        return found

    async def resource(self, level: Level, id_: str) -> Found:
        """One resource, by its Orthanc identifier.

        :raises UnknownResource: there is none.
        """
        with _unknown(UnknownResource):
            path = f"/{_PLURALS[level]}/{_segment(id_)}"
            return read_found(await self._http.json("GET", path))

    async def resource_of_any_level(self, id_: str) -> Found:
        """One resource, by its Orthanc identifier.

        :raises UnknownResource: there is none.
        """
        levels = (Level.STUDY, Level.PATIENT, Level.SERIES, Level.INSTANCE)
        found: list[Found | None] = await together(
            *(self._resource_or_none(level, id_) for level in levels)
        )
        for each in found:
            if each is not None:
                return each
        raise UnknownResource(f"{self._http.who} holds nothing that has the identifier {id_}")

    async def _resource_or_none(self, level: Level, id_: str) -> Found | None:
        try:
            return await self.resource(level, id_)
        except UnknownResource:
            return None

    async def statistics(self, level: Level, id_: str) -> Mapping[str, Any]:
        """Counts and sizes: ``CountInstances``, ``DiskSize``, and so on.

        :raises UnknownResource: there is no such resource.
        """
        with _unknown(UnknownResource):
            told = await self._http.json("GET", f"/{_PLURALS[level]}/{_segment(id_)}/statistics")
        return told if isinstance(told, dict) else {}

    async def upload(
        self,
        size: int,
        source: Callable[[], ISlices],
        on_sent: Callable[[int], None] = lambda size: None,
    ) -> Sequence[Stored]:
        """Store a DICOM file, or a ZIP archive of files.

        :param size: bytes. :param source: opens it; it is closed at the end.
        :param on_sent: called with the bytes that were handed on, again and again.
        :raises DaemonRefused: 400 if it is no DICOM file, 507 if there is no room.
        """

        def make(stall: Any) -> RequestBody:
            def on_slice(sent: int) -> None:
                stall.touch()
                on_sent(sent)

            return RequestBody(size, source(), on_slice)

        headers = {"Content-Type": "application/dicom"}
        answer = await self._http.ask(Request("POST", "/instances", make, headers, is_kept=True))
        return read_stored(self._http.parse(answer, "POST", "/instances"))

    # What tells whether all is well

    async def date(self) -> str:
        """What the daemon's clock says, as HTTP writes it; empty where it does not tell."""
        sink, _parts = collecting_sink(MAX_MESSAGE_SIZE)
        headers = await self._http.into(sink, Request("GET", "/system"))
        return headers.get("date", "")

    async def answers_lookup(self) -> bool:
        """Whether ``/transfers/lookup`` is answered as the protocol says."""
        told = await self._http.json("POST", "/transfers/lookup", [])
        return isinstance(told, dict) and "Originator" in told

    async def ask(self, method: str, path: str, value: Any = None) -> Any:
        """Any other route; gives its JSON.

        :raises UnknownResource: it is not there (404).
        """
        with _unknown(UnknownResource):
            return await self._http.json(method, path, value)


@contextmanager
def _unknown(error: type[Exception]) -> Iterator[None]:
    """A 404 within it becomes an error of the domain."""
    try:
        yield
    except DaemonRefused as refused:
        if refused.status == 404:
            raise error(str(refused)) from refused
        raise


def _in_order(jobs: Jobs) -> Sequence[Job]:
    return sorted(jobs.values(), key=lambda job: job.created)


def _segment(id_: str) -> str:
    """An identifier as a segment of a path, whatever is in it."""
    return quote(id_, safe="")
