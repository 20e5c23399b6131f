"""TLS in memory, end to end: the bytes are the same, in large pieces, and the end is an end."""

from pathlib import Path
from typing import Any

import trustme
from OpenSSL import SSL
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.test import iosim
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from txtransfers.tls import KeyFiles, make_context, trust, use_identity
from txtransfers.transfer.tls_transport import WideTlsFactory
from txtransfers.transfer.trust import PeerTls, UntrustedError
from txtransfers.web.tls import ServerTls

DATA = bytes(range(256)) * 4096 * 3  # 3 MB


class End(Protocol):
    """Notes what comes; says something as soon as it can."""

    def __init__(self, says: bytes = b"") -> None:
        self.says = says
        self.pieces: list[bytes] = []
        self.lost: Failure | None = None

    @property
    def got(self) -> bytes:
        return b"".join(self.pieces)

    def connectionMade(self) -> None:
        if self.says:  # the handshake has not begun
            self.transport.write(self.says)  # type: ignore[union-attr]

    def dataReceived(self, data: bytes) -> None:
        self.pieces.append(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = reason


@implementer(IPushProducer)
class Producer:
    """Notes what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def pauseProducing(self) -> None:
        self.asked.append("pause")

    def resumeProducing(self) -> None:
        self.asked.append("resume")

    def stopProducing(self) -> None:
        self.asked.append("stop")


class WideTlsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        folder = Path(self.mktemp())
        folder.mkdir()
        ca = trustme.CA()
        self.ca, self.pem = str(folder / "ca.pem"), str(folder / "server.pem")
        ca.cert_pem.write_to_path(self.ca)
        ca.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(self.pem)

    def context(self, is_client: bool) -> SSL.Context:
        context = make_context()
        if is_client:
            trust(context, "HttpsCACertificates", self.ca)
        else:
            use_identity(context, KeyFiles("c", self.pem, "k", self.pem))
        return context

    def connect(self, client_says: bytes = b"", name: str = "localhost") -> tuple[End, End, Any]:
        client, server = End(client_says), End()
        peer = PeerTls(self.clock, name, self.context(True), verify=True)
        factories: list[Any] = []
        for creator, is_client, end in (
            (ServerTls(self.context(False)), False, server),
            (peer, True, client),
        ):
            inner = Factory()
            inner.protocol = lambda end=end: end  # type: ignore[assignment,misc]
            factories.append(WideTlsFactory(creator, is_client, inner, self.clock))
        pump = iosim.connect(
            *self.side(factories[0], True), *self.side(factories[1], False), debug=False
        )
        self.flush(pump)
        return client, server, pump

    def side(self, factory: Any, is_server: bool) -> tuple[Any, Any]:
        protocol = factory.buildProtocol(None)
        return protocol, iosim.FakeTransport(protocol, is_server)

    def flush(self, pump: Any) -> None:
        for _ in range(6):
            self.clock.advance(0)
            pump.flush()

    def test_the_same_bytes_both_ways(self) -> None:
        client, server, pump = self.connect(client_says=DATA)
        self.assertEqual(DATA, server.got, "what was written before the handshake")
        server.transport.write(DATA)  # type: ignore[union-attr]
        client.transport.write(b"small")  # type: ignore[union-attr]
        self.flush(pump)
        self.assertEqual(DATA, client.got)
        self.assertEqual(DATA + b"small", server.got)

    def test_records_are_handed_on_together(self) -> None:
        client, server, pump = self.connect()
        server.transport.write(DATA)  # type: ignore[union-attr]
        self.flush(pump)
        self.assertEqual(DATA, client.got)
        self.assertLess(len(client.pieces), len(DATA) / 2**14 / 4)

    def test_the_end(self) -> None:
        """What was written before it arrives; the other side is told of an end in good order."""
        client, server, pump = self.connect()
        server.transport.write(DATA)  # type: ignore[union-attr]
        server.transport.loseConnection()  # type: ignore[union-attr]
        self.flush(pump)
        self.assertEqual(DATA, client.got)
        for end in (client, server):
            assert end.lost is not None
            self.assertIsNotNone(end.lost.check(ConnectionDone), end.lost)

    def test_an_abort(self) -> None:
        client, server, pump = self.connect()
        client.transport.abortConnection()  # type: ignore[union-attr]
        server.transport.write(DATA)  # type: ignore[union-attr]
        self.flush(pump)
        self.assertEqual(b"", client.got)
        self.assertIsNotNone(client.lost)
        self.assertIsNotNone(server.lost)

    def test_producers_wait_for_the_handshake(self) -> None:
        producer = Producer()

        class Producing(End):
            def connectionMade(self) -> None:
                self.transport.registerProducer(producer, True)  # type: ignore[union-attr]
                self.transport.write(DATA)  # type: ignore[union-attr]

        inner = Factory()
        inner.protocol = Producing
        server_inner, server = Factory(), End()
        server_inner.protocol = lambda: server  # type: ignore[assignment]
        peer = PeerTls(self.clock, "localhost", self.context(True), verify=True)
        pump = iosim.connect(
            *self.side(
                WideTlsFactory(ServerTls(self.context(False)), False, server_inner, self.clock),
                True,
            ),
            *self.side(WideTlsFactory(peer, True, inner, self.clock), False),
        )
        self.assertEqual(["pause"], producer.asked[:1])
        self.flush(pump)
        self.assertEqual("resume", producer.asked[-1])
        self.assertEqual(DATA, server.got)

    def test_a_name_that_is_another(self) -> None:
        client, server, _pump = self.connect(client_says=b"secret", name="pacs.example.org")
        assert client.lost is not None
        self.assertIsNotNone(client.lost.check(UntrustedError), client.lost)
        self.assertEqual(b"", server.got)
