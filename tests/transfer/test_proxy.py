"""CONNECT: what the proxy is asked, and what is made of its answers."""

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from txtransfers.config_tls import HttpProxy
from txtransfers.transfer.proxy import ProxyError, Tunnel


class Behind(Protocol):
    """What the tunnel is for."""

    def __init__(self) -> None:
        self.got = b""

    def dataReceived(self, data: bytes) -> None:
        self.got += data


class Wire(StringTransport):
    """Knows the protocol that takes its bytes, as a TCP transport does."""

    protocol: Any
    aborted = False

    def abortConnection(self) -> None:
        self.aborted = True


@implementer(IStreamClientEndpoint)
class Memory:
    """Connects at once, unless told to wait."""

    def __init__(self, wait: bool = False) -> None:
        self.wire = Wire()
        self.waiting: Deferred[Any] | None = Deferred() if wait else None

    def connect(self, factory: Any) -> "Deferred[Any]":
        if self.waiting is not None:
            return self.waiting
        protocol = factory.buildProtocol(None)
        self.wire.protocol = protocol
        protocol.makeConnection(self.wire)
        done: Deferred[Any] = Deferred()
        done.callback(protocol)
        return done


class TunnelTests(SynchronousTestCase):
    def open(self, *answer: bytes, host: str = "b.example.org", login: str = "") -> "Deferred[Any]":
        self.memory = Memory()
        proxy = HttpProxy("proxy", 3128, login, "p:w" if login else "")
        opened = Tunnel(self.memory, proxy, host, 443).connect(Factory.forProtocol(Behind))
        for data in answer:
            self.memory.wire.protocol.dataReceived(data)
        return opened

    def test_the_request(self) -> None:
        self.open()
        expected = b"CONNECT b.example.org:443 HTTP/1.1\r\nHost: b.example.org:443\r\n\r\n"
        self.assertEqual(expected, self.memory.wire.value())
        self.open(host="::1", login="alice")
        said = self.memory.wire.value()
        self.assertIn(b"CONNECT [::1]:443 HTTP/1.1\r\n", said)
        self.assertIn(b"Proxy-Authorization: Basic YWxpY2U6cDp3\r\n", said)

    def test_what_comes_behind_the_answer_is_for_the_protocol(self) -> None:
        answer = b"HTTP/1.0 200 Connection established\r\nX: y\r\n\r\nhello"
        for cut in range(1, len(answer)):
            inner = self.successResultOf(self.open(answer[:cut], answer[cut:]))
            self.assertEqual(b"hello", inner.got)
            self.assertIs(inner, self.memory.wire.protocol)

    def test_refusals(self) -> None:
        for answer, words in (
            (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "wants a user"),
            (b"HTTP/1.1 403 Forbidden\r\n\r\n", "does not allow this peer (403)"),
            (b"HTTP/1.1 503 Busy\r\n\r\n", "answered 503"),
            (b"SSH-2.0-x\r\n\r\n", "does not answer as a proxy does"),
            (b"HTTP/1.1 xx\r\n\r\n", "does not answer as a proxy does"),
            (b"HTTP/1.1 " + b"2" * 5000 + b"\r\n\r\n", "does not answer as a proxy does"),
            (b"x" * 20_000, "does not answer as a proxy does"),
        ):
            error = self.failureResultOf(self.open(answer), ProxyError).value
            self.assertIn("the proxy proxy:3128 (HttpProxy)", str(error))
            self.assertIn(words, str(error))
            self.assertTrue(self.memory.wire.aborted)

    def test_it_hangs_up(self) -> None:
        opened = self.open(b"HTTP/1.1 200")
        self.memory.wire.protocol.connectionLost()
        error = self.failureResultOf(opened, ProxyError).value
        self.assertIn("without an answer", str(error))

    def test_nobody_waits_any_more(self) -> None:
        opened = self.open()
        opened.cancel()
        self.failureResultOf(opened, CancelledError)
        self.assertTrue(self.memory.wire.aborted)
        self.memory.wire.protocol.dataReceived(b"HTTP/1.1 200 OK\r\n\r\n")
        memory = Memory(wait=True)
        opened = Tunnel(memory, HttpProxy("p", 1), "b", 2).connect(Factory.forProtocol(Behind))
        opened.cancel()
        self.failureResultOf(opened, CancelledError)
