"""A peer that sends us elsewhere: nobody else is asked, least of all with its password."""

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.trial.unittest import SynchronousTestCase

from tests.web.harness import peer_settings
from txtransfers.errors import PeerRefused
from txtransfers.threads import SynchronousThreads
from txtransfers.transfer.asking import Asking
from txtransfers.transfer.link import Link
from txtransfers.transfer.peers import Peer
from txtransfers.wire.messages import Level, Resource


class RedirectTests(SynchronousTestCase):
    def test_nobody_else_is_asked(self) -> None:
        for status in (301, 302, 303, 307, 308):
            reactor: Any = MemoryReactorClock()
            settings = peer_settings("http://192.0.2.1:8042/", username="alice", password="geheim")
            peer = Peer(
                Asking(reactor, SynchronousThreads(), "B", settings, 60, Link(reactor, 2, 2))
            )
            session = peer.session("t")
            asked = Deferred.fromCoroutine(peer.lookup([Resource(Level.STUDY, "x")], session))
            _host, _port, factory, *_rest = reactor.tcpClients.pop()
            protocol = factory.buildProtocol(None)
            wire = StringTransport()
            protocol.makeConnection(wire)
            self.assertIn(b"Authorization: Basic", wire.value())
            protocol.dataReceived(
                b"HTTP/1.1 %d Elsewhere\r\nLocation: http://192.0.2.9/steal\r\n"
                b"Content-Length: 0\r\n\r\n" % status
            )
            error = self.failureResultOf(asked, PeerRefused).value
            self.assertIn(str(status), str(error))
            reactor.advance(100)
            self.assertEqual([], reactor.tcpClients)
            self.assertEqual([], reactor.sslClients)
