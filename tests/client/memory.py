"""The real client against the real site, in memory: no sockets, time is a Clock."""

from collections.abc import Coroutine
from typing import Any, TypeVar

from treq.testing import RequestTraversalAgent
from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionRefusedError as NobodyListens
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource
from twisted.web.server import Site
from twisted.web.static import Data

from tests.web.harness import FakePeer, House
from txtransfers.client import Client

T = TypeVar("T")
_TURNS = 200


class HouseAgent(RequestTraversalAgent):  # type: ignore[misc]
    """Requests to a house's site.

    :ivar has_events: whether it has the route for them. :ivar has_expanded_peers: whether it tells
        more of peers than a state.
    :ivar answer: what is answered instead, to anything, with ``status``.
    """

    def __init__(self, house: House) -> None:
        super().__init__(Resource())
        self._site = self._serverFactory = house.site
        self._is_away = False
        self.has_events = True
        self.has_expanded_peers = True
        self.answer: bytes | None = None
        self.status = 200

    def request(self, *arguments: Any) -> "Deferred[Any]":
        """See :class:`IAgent`."""
        if self._is_away:
            return fail(NobodyListens())
        if not self.has_expanded_peers and b"/transfers/peers" in arguments[1]:
            arguments = (arguments[0], arguments[1].partition(b"?")[0], *arguments[2:])
        if b"/events" in arguments[1] and not self.has_events:
            self._serverFactory = Site(Resource(), reactor=self._memoryReactor)
        elif self.answer is not None or self.status != 200:
            always = _Always(self.answer or b"", self.status)
            self._serverFactory = Site(always, reactor=self._memoryReactor)
        else:
            self._serverFactory = self._site
        answer: Deferred[Any] = super().request(*arguments)
        return answer

    def leave(self) -> None:
        """Nobody listens from now on, and connections are cut."""
        self._is_away = True
        for pump in list(self._pumps):
            pump.serverIO.abortConnection()

    def come_back(self) -> None:
        """As before."""
        self._is_away = False


class _Always(Data):
    """One answer at every path, to every method."""

    isLeaf = True

    def __init__(self, data: bytes, status: int) -> None:
        super().__init__(data, "application/json")
        self._status = status

    def render(self, request: Any) -> bytes:
        """The answer."""
        request.setResponseCode(self._status)
        return self.data


class ClientCase(SynchronousTestCase):
    """A house with an archive, two peers (B answers, C pulls), and a client of it."""

    configuration: Any = {}

    def setUp(self) -> None:
        self.house = House(
            self.configuration,
            self.mktemp(),
            peers=[FakePeer("B", accelerated=True), FakePeer("C", remote_self="here")],
        )
        self.addCleanup(self.house.stop)
        self.client = self.make_client()

    def make_client(self, url: str = "http://here:8042/", *credentials: str) -> Client:
        """A client of the house."""
        self.agent = HouseAgent(self.house)
        return Client(self.house.clock, url, *credentials, agent=self.agent)

    def begin(self, coroutine: Coroutine[Any, Any, T]) -> "Deferred[T]":
        """Start something, and let it run as far as it comes by itself."""
        running = Deferred.fromCoroutine(coroutine)
        self.settle(running)
        return running

    def settle(self, running: "Deferred[Any]") -> None:
        """Let things run as far as they come without time passing."""
        for _turn in range(_TURNS):
            if running.called:
                return
            self.agent.flush()
            self.house.clock.advance(0)

    def result(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """What a coroutine gives."""
        return self.successResultOf(self.begin(coroutine))

    def failure(self, coroutine: Coroutine[Any, Any, Any], *kinds: type[Exception]) -> str:
        """What a coroutine fails with, as a sentence."""
        return str(self.failureResultOf(self.begin(coroutine), *kinds).value)
