"""A peer: what is known of it, and the requests of the protocol to it.

How it is asked, and what becomes of errors, is in :mod:`.asking`.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import msgspec
from treq.client import HTTPClient
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferTimeoutError
from twisted.logger import Logger
from twisted.web.client import URI

from ..config import PeerSettings
from ..errors import PeerRefused, TransfersError
from ..wire import messages, packed, pushes
from ..wire.abilities import Abilities, parse_plugin
from ..wire.codec import ACCEPTED_CODECS, Codec, codec_names
from ..wire.messages import LookupAnswer, Resource, TransferRequest, decode
from ..wire.pushes import PushOpened, PushRequest, PushStatus
from .answers import Answer
from .asking import Asking, Body, Destination, Session, constant, ignore
from .client import resolve
from .greeting import Greeting, told
from .in_pieces import InPieces
from .streams import Sink
from .trust import PeerTls

T = TypeVar("T")

_MEET_S = 3.0
"""Seconds that a first connection may take before the first request, which has its own limit."""
_NOT_UNDERSTOOD = frozenset({400, 415})
_LOOKUP = "/transfers/lookup"
_PUSH = "/transfers/push"
PLUGIN = "transfers"

log = Logger()


def _nothing() -> None:
    """Whom nobody needs to tell that a request has its connection."""


class Peer:
    """See the module. One lives as long as the daemon, and keeps its connections warm."""

    def __init__(self, http: Asking) -> None:
        """:param http: its address, and how it is asked."""
        self._http = http
        self.link = http.link
        self.knows_extension: bool | None = None
        """Whether the last push showed that it knows our extension of pushes."""
        self.pipelines = False
        """Whether it is ours: a server that is known to read one request behind the other."""
        self.abilities: Abilities | None = None
        """What its openings may be like; None while that is not known."""
        self._pieces = InPieces(http)

    @property
    def name(self) -> str:
        """How the configuration calls it."""
        return self._http.name

    @property
    def settings(self) -> PeerSettings:
        """What the configuration says of it."""
        return self._http.settings

    @property
    def base_url(self) -> str:
        """Its address, without a slash at the end."""
        return self._http.base_url

    @property
    def timeout(self) -> float:
        """Seconds without progress after which a request has failed."""
        return self._http.timeout

    @property
    def tls(self) -> PeerTls | None:
        """TLS with it, where it is reached by https."""
        return self._http.tls

    async def close(self) -> None:
        """Close the idle connections."""
        await self._http.close()

    async def meet(self) -> None:
        """Have the link's round trip known; what fails will show in the next request."""
        if self.link.round_trip is None:
            connecting = self._http.connect(1)
            connecting.addTimeout(_MEET_S, self._http.reactor)
            await connecting

    async def get_acquainted(self) -> bool:
        """Have all that known before a transfer needs it; tells whether the peer was there.

        No connection stays. Never raises.
        """
        await self.meet()
        if self.link.round_trip is None:
            return False
        await self.learn()
        if not self.link.is_in_use:
            await self.close()
        return True

    async def learn(self) -> None:
        """Have it known what its openings may be like, where a round trip more may save some."""
        if self.abilities is not None or self.link.is_near:
            return
        session, path = self.session(""), f"/plugins/{PLUGIN}"
        asking = Deferred.fromCoroutine(self._http.call(session, "GET", path, client=session.warm))
        asking.addTimeout(_MEET_S, self._http.reactor)
        try:
            self.abilities = await self._http.threads.run(parse_plugin, (await asking).body)
            self.pipelines = self.pipelines or self.abilities.early
        except (TransfersError, DeferTimeoutError) as error:
            log.debug("What {name} can do is not known: {error}", name=self.name, error=error)

    def prepare(self, count: int) -> None:
        """Make up to ``count`` connections ahead, where that saves time."""
        if not self.link.is_near:
            self._http.connect(count - self.link.connections)

    # The requests of the protocol

    async def lookup(
        self,
        resources: Sequence[Resource],
        session: Session,
        codecs: Iterable[Codec] = (),
    ) -> LookupAnswer:
        """Ask for the instances below ``resources`` (``POST /transfers/lookup``).

        :param codecs: in which the bytes may come too; a peer that knows them tells which it has.
        """
        headers = {
            ACCEPTED_CODECS: ", ".join(codec_names(codecs)) or Codec.NONE.value,
            "Accept": f"{packed.PACKED}, application/json",
        }
        body = constant(messages.resources_json(resources), headers=headers)
        answer = None
        if self._takes_pieces:
            answer = await self._pieces.ask(body, session, _LOOKUP)
        if answer is None:
            answer = await self._http.call(session, "POST", _LOOKUP, body, client=session.warm)
        is_packed = answer.content_type == packed.PACKED
        parse = packed.parse_packed_lookup if is_packed else messages.parse_lookup_answer
        parsed: LookupAnswer = await self._http.threads.run(
            self._http.parse, answer, parse, _LOOKUP
        )
        self.pipelines = parsed.codecs is not None
        return parsed

    @property
    def _takes_pieces(self) -> bool:
        known = self.abilities is not None and self.abilities.pieces
        return known and self._pieces.may_be_tried

    async def open_push(
        self, request: PushRequest, session: Session, on_asked: Callable[[], None] = _nothing
    ) -> PushOpened:
        """Open a push transaction, in the smallest form that the peer takes.

        :param on_asked: called when the request has its connection, or the first that there is.
        """
        if self.abilities is not None and self.abilities.packed:
            body = await self._http.threads.run(packed.pack_push, request)
            try:
                if body is not None:
                    return await self._open_packed(request, body, session, on_asked)
            except PeerRefused as error:
                if error.status not in _NOT_UNDERSTOOD:
                    raise
                self.abilities = None  # it may have been replaced by an earlier version
        body = await self._http.threads.run(
            pushes.push_json,
            request.instances,
            request.buckets,
            request.compression,
            request.extension,
        )
        return await self._open_push(request, constant(body), session, on_asked)

    async def _open_packed(
        self, request: PushRequest, body: bytes, session: Session, on_asked: Callable[[], None]
    ) -> PushOpened:
        if self._takes_pieces:
            answer = await self._pieces.send(body, session, _PUSH, on_asked)
            if answer is not None:
                return await self._opened(request, answer)
        return await self._open_push(request, constant(body, packed.PACKED), session, on_asked)

    async def _open_push(
        self, request: PushRequest, body: Body, session: Session, on_asked: Callable[[], None]
    ) -> PushOpened:
        asking = Deferred.fromCoroutine(self._http.call(session, "POST", _PUSH, body))
        on_asked()
        return await self._opened(request, await asking)

    async def _opened(self, request: PushRequest, answer: Answer) -> PushOpened:
        count = len(request.instances)
        opened: PushOpened = await self._http.threads.run(
            self._http.parse,
            answer,
            lambda body: pushes.parse_push_opened(body, count),
            _PUSH,
        )
        self._http.check_path(opened.path, _PUSH)
        self.knows_extension = self.pipelines = opened.already_stored is not None
        self.abilities = opened.abilities
        return opened

    async def push_status(
        self, path: str, instances: int, buckets: int, verify: bool, session: Session
    ) -> PushStatus:
        """Where the transaction at ``path`` stands (an extension).

        :param verify: whether the peer is to read what it has staged once more.
        """
        route = f"{path}?verify=1" if verify else path
        answer = await self._http.call(session, "GET", route, client=session.warm)
        status: PushStatus = await self._http.threads.run(
            self._http.parse,
            answer,
            lambda body: pushes.parse_push_status(body, instances, buckets),
            path,
        )
        return status

    async def put_bucket(self, path: str, body: Body, session: Session) -> None:
        """Send the bucket at ``path``."""
        await self._http.call(session, "PUT", path, body, client=self._for_buckets(session))

    async def commit(self, path: str, timeout: float, session: Session) -> None:
        """Commit the transaction at ``path``; ``timeout`` seconds until the answer at the most."""
        body = constant(b"", "application/x-www-form-urlencoded")
        # Asking again on another connection is safe where a second commit is no error.
        client = session.warm if self.knows_extension else session.fresh
        await self._http.call(session, "POST", f"{path}/commit", body, timeout, client)

    async def commit_after(
        self,
        path: str,
        after: Iterable[int],
        timeout: float,
        instances: int,
        session: Session,
    ) -> PushStatus:
        """Commit the transaction at ``path`` once these buckets have come (an extension).

        :param timeout: seconds until the answer at the most. :param instances: that it has.
        """
        route = f"{path}/commit"
        body = constant(pushes.commit_json(after))
        answer = await self._http.call(session, "POST", route, body, timeout, session.warm)
        status: PushStatus = await self._http.threads.run(
            self._http.parse,
            answer,
            lambda body: pushes.parse_push_status(body, instances, 0),
            route,
        )
        return status

    async def discard(self, path: str, session: Session) -> None:
        """Drop the transaction at ``path``."""
        await self._http.call(session, "DELETE", path)

    async def get_bucket(
        self, path: str, sink: Sink, session: Session, on_left: Callable[[int], None] = ignore
    ) -> None:
        """Fetch ``path`` (with its arguments) into ``sink``; returns when the sink has it all.

        :param on_left: called with the bytes that are still to come, where that is known.
        """
        destination = Destination(sink, on_left)
        client = self._for_buckets(session)
        await self._http.request(session, "GET", path, None, destination, client=client)

    def _for_buckets(self, session: Session) -> HTTPClient:
        return session.behind if self.pipelines else session.warm

    async def request_pull(
        self, request: TransferRequest, originator: str, as_peer: str, session: Session
    ) -> tuple[str, str]:
        """Ask the peer to pull from us; gives its job's ID and path."""
        body = constant(messages.pull_json(request, originator, as_peer))
        answer = await self._http.call(session, "POST", "/transfers/pull", body)
        return self._http.opened(answer, "/transfers/pull")

    async def job(self, path: str, session: Session) -> dict[str, Any]:
        """What its job at ``path`` does (:meth:`request_pull` gave it)."""
        answer = await self._http.call(session, "GET", path, client=session.warm)
        told = await self._http.threads.run(self._http.parse, answer, messages.parse_object, path)
        return dict(told)

    async def act_on_job(self, path: str, action: str, session: Session) -> None:
        """Do something to its job at ``path``: ``cancel``, or another action of jobs."""
        await self._http.call(session, "POST", f"{path}/{action}", constant(b""))

    async def has_accelerator(self, timeout: float) -> bool:
        """Whether the peer speaks this protocol; ``timeout`` seconds in all."""
        session = self.session("")
        call = Deferred.fromCoroutine(
            self._http.call(session, "GET", "/plugins", client=session.warm)
        )
        call.addTimeout(timeout, self._http.reactor)
        try:
            plugins = json.loads((await call).body)
        except (TransfersError, DeferTimeoutError, ValueError, RecursionError):
            return False
        return isinstance(plugins, list) and PLUGIN in plugins

    # What people ask of it

    async def ask(self, method: str, path: str, value: Any = None) -> Any:
        """A request of Orthanc's own REST API; gives the JSON of the answer."""
        body = constant(msgspec.json.encode(value)) if value is not None else None
        session = self.session("")
        answer = await self._http.call(session, method, path, body, client=session.warm)
        return await self._http.threads.run(
            self._http.parse, answer, lambda data: decode(data, Any), path
        )

    async def greet(self, timeout: float) -> Greeting:
        """Who it is, and whether it has the accelerator; never raises. ``timeout`` in seconds."""
        started = self._http.reactor.seconds()

        async def talk() -> Greeting:
            plugins = await self.ask("GET", "/plugins")
            seconds = self._http.reactor.seconds() - started
            if not isinstance(plugins, list) or PLUGIN not in plugins:
                return Greeting(False, "It has no transfers accelerator", seconds)
            system = await self.ask("GET", "/system")
            plugin = await self.ask("GET", f"/plugins/{PLUGIN}")
            return told(self.link.round_trip or seconds, system, plugin)

        try:
            return await Deferred.fromCoroutine(talk()).addTimeout(timeout, self._http.reactor)
        except DeferTimeoutError:
            return Greeting(False, f"{self._http.who} did not answer within {timeout:g} s", timeout)
        except TransfersError as error:
            return Greeting(False, str(error), self._http.reactor.seconds() - started)

    def session(self, transfer_id: str) -> Session:
        """What the requests of one transfer share; without ``transfer_id``, a request alone."""
        return self._http.session(transfer_id)

    async def resolve(self) -> list[str]:
        """The addresses of its host; empty if there are none."""
        return await resolve(
            self._http.reactor, URI.fromBytes(self.base_url.encode()).host.decode()
        )

    async def knock(self) -> str:
        """Connect, and leave. Tells where to.

        :raises PeerUnreachable: nobody is there.
        """
        return await self._http.knock()
