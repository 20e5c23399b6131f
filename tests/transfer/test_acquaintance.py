"""Visits to the peers, before a transfer needs what is learned: real sockets, and a fake clock."""

import json
from typing import Any

from twisted.internet import reactor as installed
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from tests.web.harness import peer_settings
from txtransfers.threads import SynchronousThreads
from txtransfers.transfer import tcp
from txtransfers.transfer.acquaintance import Acquaintance
from txtransfers.transfer.asking import Asking
from txtransfers.transfer.directory import Directory
from txtransfers.transfer.flow import Flow
from txtransfers.transfer.link import Link
from txtransfers.transfer.peers import Peer
from txtransfers.transfer.turns import Turn
from txtransfers.wire.abilities import ALL_ABILITIES, NO_ABILITIES, Abilities

reactor: Any = installed


class FakePlugins(Resource):
    """A peer that describes its plugin, or does not; notes what it is asked."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[bytes, bytes]] = []
        self.abilities: Abilities | None = ALL_ABILITIES

    def render(self, request: Any) -> bytes | int:
        self.asked.append((request.method, request.path))
        if self.abilities is None:
            return NOT_DONE_YET
        request.setHeader("Content-Type", "application/json")
        return json.dumps({"ID": "transfers", "TxTransfers": self.abilities.to_json()}).encode()


class GettingAcquaintedTests(TestCase):
    """One visit, over a real connection."""

    def setUp(self) -> None:
        self.there = FakePlugins()
        port = reactor.listenTCP(0, Site(self.there), interface="127.0.0.1")
        self.port = port.getHost().port
        self.addCleanup(port.stopListening)

    def peer(self, port: int | None = None) -> Peer:
        settings = peer_settings(f"http://127.0.0.1:{port or self.port}/")
        link = Link(reactor, 2, 2)
        peer = Peer(Asking(reactor, SynchronousThreads(), "B", settings, 5, link))
        self.addCleanup(lambda: Deferred.fromCoroutine(peer.close()))
        return peer

    async def test_of_a_far_one_it_is_known_what_it_takes(self) -> None:
        self.patch(tcp, "NEAR_S", 0)
        for abilities in (ALL_ABILITIES, NO_ABILITIES):
            self.there.abilities, peer = abilities, self.peer()
            self.assertTrue(await peer.get_acquainted())
            self.assertEqual(abilities, peer.abilities)
            self.assertGreater(peer.link.round_trip or 0, 0)
            self.assertEqual([(b"GET", b"/plugins/transfers")], self.there.asked)
            await peer.learn()
            self.assertEqual(1, len(self.there.asked), "it is known")
            self.there.asked.clear()

    async def test_a_near_one_is_not_asked(self) -> None:
        peer = self.peer()
        self.assertTrue(await peer.get_acquainted())
        self.assertTrue(peer.link.is_near)
        self.assertEqual([], self.there.asked)

    async def test_no_connection_stays(self) -> None:
        self.patch(tcp, "NEAR_S", 0)
        peer = self.peer()
        await peer.get_acquainted()
        self.assertEqual(0, peer.link.connections)

    async def test_a_transfer_that_has_begun_keeps_its_connections(self) -> None:
        peer = self.peer()
        async with peer.link.use(Flow((), Turn(0, "job"))):
            await peer.get_acquainted()
            self.assertEqual(1, peer.link.connections)

    async def test_nobody_there(self) -> None:
        port = reactor.listenTCP(0, Site(self.there), interface="127.0.0.1")
        gone = port.getHost().port
        await port.stopListening()
        peer = self.peer(gone)
        self.assertFalse(await peer.get_acquainted())
        self.assertIsNone(peer.link.round_trip)


class FakeStranger:
    """A peer that is there from some visit on."""

    class link:
        round_trip = 0.1

    def __init__(self, name: str, absent: int = 0) -> None:
        self.name = name
        self.absent = absent
        self.visits = 0
        self.held: Deferred[None] | None = None

    async def get_acquainted(self) -> bool:
        self.visits += 1
        await (self.held or succeed(None))
        return self.visits > self.absent


class RoundTests(SynchronousTestCase):
    """Who is visited, and when again."""

    def setUp(self) -> None:
        self.clock = Clock()

    def visit(self, *peers: Any) -> Acquaintance:
        acquaintance = Acquaintance(self.clock, Directory({peer.name: peer for peer in peers}))
        acquaintance.start()
        self.addCleanup(acquaintance.stop)
        return acquaintance

    def test_all_once(self) -> None:
        peers = [FakeStranger(str(number)) for number in range(10)]
        self.visit(*peers)
        self.clock.advance(1000)
        self.assertEqual([1] * 10, [peer.visits for peer in peers])
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_nobody_is_to_be_visited(self) -> None:
        self.visit()
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_who_was_not_there_is_visited_again_and_not_for_ever(self) -> None:
        here, late, never = FakeStranger("a"), FakeStranger("b", 2), FakeStranger("c", 99)
        self.visit(here, late, never)
        for _ in range(300):
            self.clock.advance(1)
        self.assertEqual((1, 3, 4), (here.visits, late.visits, never.visits))
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_one_that_does_not_answer_keeps_the_others_waiting_for_nothing(self) -> None:
        slow, others = FakeStranger("a"), [FakeStranger(str(number)) for number in range(9)]
        slow.held = Deferred()
        self.visit(slow, *others)
        self.assertEqual([1] * 9, [peer.visits for peer in others])

    def test_it_can_be_stopped_at_any_time(self) -> None:
        slow, never = FakeStranger("a"), FakeStranger("b", 99)
        slow.held = Deferred()
        self.visit(slow).stop()
        waiting = self.visit(never)
        waiting.stop()
        waiting.stop()
        self.assertEqual([], self.clock.getDelayedCalls())
        Acquaintance(self.clock, Directory({})).stop()
