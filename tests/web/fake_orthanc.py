"""The other side of a gateway, in memory: connections whose answers the test gives."""

from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from tests.web.harness import House, Wire

CONFIGURATION = {"Store": {"Type": "Orthanc", "Url": "http://localhost:8142/"}}


class Line:
    """One connection that the gateway has made."""

    def __init__(self, clock: Clock, protocol: Any) -> None:
        self._clock = clock
        self._seen = 0
        self.wire = Wire(clock, "127.0.0.1")
        self.wire.protocol = protocol
        protocol.makeConnection(self.wire)

    def sent(self) -> bytes:
        """What the gateway has sent since this was asked last."""
        sent = self.wire.value()[self._seen :]
        self._seen += len(sent)
        return sent

    def answer(self, data: bytes) -> None:
        """Send bytes to the gateway."""
        if data:
            self.wire.protocol.dataReceived(data)
        self._clock.advance(0)

    def ok(self, body: bytes, headers: str = "Content-Type: application/json") -> None:
        """Send a whole answer."""
        lines = "".join(f"{line}\r\n" for line in headers.split("\n"))
        head = f"HTTP/1.1 200 OK\r\n{lines}Content-Length: {len(body)}\r\n\r\n"
        self.answer(head.encode() + body)

    def close(self) -> None:
        """End the connection, in order."""
        self.wire.lost(Failure(ConnectionDone()))
        self._clock.advance(0)

    def cut(self) -> None:
        """Break it."""
        self.wire.lost(Failure(ConnectionLost()))
        self._clock.advance(0)

    @property
    def is_open(self) -> bool:
        """Whether the gateway has left it open."""
        return bool(self.wire.connected)

    @property
    def is_read(self) -> bool:
        """Whether the gateway reads from it."""
        return self.wire.producerState == "producing"


@implementer(IStreamClientEndpoint)
class FakeOrthanc:
    """Where the gateway connects to."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.refusal: Exception | None = None
        self.clock = Clock()

    def connect(self, protocolFactory: Any) -> "Deferred[Any]":
        """See :class:`IStreamClientEndpoint`."""
        if self.refusal is not None:
            return fail(self.refusal)
        protocol = protocolFactory.buildProtocol(None)
        self.lines.append(Line(self.clock, protocol))
        return succeed(protocol)


def make_house(
    configuration: dict[str, Any] | None = None, **more: Any
) -> tuple[House, FakeOrthanc]:
    """A gateway, and what it leads to."""
    orthanc = FakeOrthanc()
    store = CONFIGURATION["Store"] | (configuration or {}).pop("Store", {})
    house = House({"Store": store} | (configuration or {}), endpoint=orthanc, **more)
    orthanc.clock = house.clock
    return house, orthanc
