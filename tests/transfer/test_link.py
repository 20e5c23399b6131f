"""The link to a peer: real sockets on loopback, measured and shared."""

import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.limits import local_time, settings
from txtransfers.errors import PeerRefused, PeerUnreachable, WrongLength
from txtransfers.transfer import concurrency, tcp
from txtransfers.transfer.concurrency import START, START_LOSS_BASED
from txtransfers.transfer.congestion import PREFERRED, Congestion
from txtransfers.transfer.flow import Flow
from txtransfers.transfer.limit import Limit
from txtransfers.transfer.link import SAMPLE_S, Link
from txtransfers.transfer.turns import Turn

SIZE = 50_000


@contextmanager
def connection() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of one."""
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with closing(socket.create_connection(listener.getsockname())) as near:
            far, _address = listener.accept()
            with closing(far):
                yield near, far


class TcpTests(SynchronousTestCase):
    def test_bytes_both_ways(self) -> None:
        with connection() as (near, far):
            before = tcp.read(near)
            assert before is not None
            self.assertTrue(0 < before.round_trip < 1, before)
            near.sendall(bytes(SIZE))
            far.recv(SIZE, socket.MSG_WAITALL)
            far.sendall(bytes(SIZE))
            near.recv(SIZE, socket.MSG_WAITALL)
            after = tcp.read(near)
            assert after is not None
            self.assertGreaterEqual(after.moved - before.moved, 2 * SIZE)
            self.assertLess(after.moved - before.moved, 5 * SIZE)

    def test_a_closed_one(self) -> None:
        with connection() as (near, _far):
            near.close()
            self.assertIsNone(tcp.read(near))


class LinkTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()

    def flow(self, form: str = "0") -> Flow:
        """A stream that has a limit of bandwidth, as the configuration says it."""
        limit = Limit("uploads", self.clock, local_time(self.clock), settings(form).upload)
        return Flow([limit], Turn(0, "job"))

    def use(self, link: Link, flow: Flow | None = None) -> "Deferred[None]":
        """A transfer that is under way until what is returned is fired."""
        flow = flow or self.flow()
        ending: Deferred[None] = Deferred()

        async def transfer() -> None:
            async with link.use(flow):
                await ending

        self.transfer = Deferred.fromCoroutine(transfer())
        return ending

    def test_a_fixed_number(self) -> None:
        link = Link(self.clock, 3, 64)
        self.assertEqual((link.limit, link.cap), (3, 3))
        with self.assertRaises(PeerUnreachable), link.watched():
            raise PeerUnreachable("down")
        self.assertEqual(link.limit, 3)

    def test_near_few_are_enough(self) -> None:
        for threads, wanted in ((None, START), (12, 12)):
            link = Link(self.clock, threads, 64, START_LOSS_BASED)
            self.assertEqual(link.limit, threads or START_LOSS_BASED)
            with connection() as (near, _far):
                link.connected(near, Congestion().tune(near))
            self.assertTrue(link.is_near)
            self.assertEqual(link.limit, wanted)

    def test_more_are_begun_with_far_away(self) -> None:
        self.patch(tcp, "NEAR_S", 0)
        self.patch(concurrency, "_USUAL_S", 1e-9)
        link = Link(self.clock, None, 64, START_LOSS_BASED)
        with connection() as (near, _far):
            link.connected(near, Congestion().tune(near))
        self.assertEqual(link.limit, 2 * START_LOSS_BASED)
        self.assertEqual(link.slots.limit, 16 * link.limit)

    def test_what_each_connection_moves(self) -> None:
        self.patch(tcp, "NEAR_S", 0)
        link = Link(self.clock, None, 64)
        with connection() as (busy, far), connection() as (idle, _):
            for near in (busy, idle):
                link.connected(near, Congestion().tune(near))
            ending = self.use(link)
            self.successResultOf(link.slots.acquire())
            for _number in range(20):
                far.sendall(bytes(SIZE))
                busy.recv(SIZE, socket.MSG_WAITALL)
                self.clock.advance(SAMPLE_S)
            rate = SIZE / SAMPLE_S
            self.assertLess(abs(link.rate(busy) - rate), rate / 10)
            self.assertEqual((link.rate(idle), link.rate(None)), (0, 0))
            most = 2 * link.rate(busy) * (link.round_trip or 0)
            self.assertTrue(link.may_begin_next(most * 0.9, link.rate(busy)))
            self.assertFalse(link.may_begin_next(most * 0.9, link.rate(idle)))
            ending.callback(None)

    def test_failures_on_the_way_make_it_less(self) -> None:
        link = Link(self.clock, None, 64)
        before = link.limit
        for error in (WrongLength("x"), PeerRefused("no", 404)):
            with self.assertRaises(type(error)), link.watched():
                raise error
            self.assertEqual(link.limit, before)
        with self.assertRaises(PeerRefused), link.watched():
            raise PeerRefused("busy", 503)
        self.assertEqual(link.limit, before // 2)
        self.assertEqual(link.requests.limit, 3 * 16 * link.limit)

    def test_measured_while_a_transfer_is_under_way(self) -> None:
        link = Link(self.clock, None, 64)
        with connection() as (near, far):
            link.connected(near, Congestion().tune(near))
            self.assertTrue(link.is_near)
            self.assertEqual(link.connections, 1)
            ending = self.use(link)
            self.successResultOf(link.slots.acquire())
            near.sendall(bytes(SIZE))
            far.recv(SIZE, socket.MSG_WAITALL)
            self.clock.advance(SAMPLE_S)
            assert link.goodput is not None
            self.assertGreaterEqual(link.goodput, SIZE / SAMPLE_S)
            figures = link.figures(1, 4096)
            self.assertEqual((figures["BucketsInFlight"], figures["BucketSize"]), (1, 4096))
            self.assertGreater(figures["GoodputKBs"], 0)
            link.slots.release()
            ending.callback(None)
        self.successResultOf(self.transfer)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(link.connections, 0)

    def test_what_has_not_begun_to_move_tells_nothing(self) -> None:
        """A link of which nothing is known is not slow: compression is chosen by that."""
        link = Link(self.clock, None, 64)
        with connection() as (near, far):
            link.connected(near, Congestion().tune(near))
            ending = self.use(link)
            held = [Deferred.fromCoroutine(self.hold(link)) for _ in range(link.limit + 1)]
            self.clock.advance(SAMPLE_S)
            self.assertIsNone(link.goodput)
            near.sendall(bytes(SIZE))
            far.recv(SIZE, socket.MSG_WAITALL)
            self.clock.advance(SAMPLE_S)
            before = link.goodput or 0
            self.clock.advance(SAMPLE_S)
            self.assertTrue(0 < (link.goodput or 0) < before, "a pause later does")
            for each in held:
                each.addErrback(lambda _cancelled: None)
                each.cancel()
            ending.callback(None)

    def test_closed_connections_are_forgotten(self) -> None:
        """Also between transfers: whoever asks which peers are there makes some."""
        link = Link(self.clock, None, 64)
        for _ in range(3):
            with connection() as (near, _far):
                link.connected(near, Congestion().tune(near))
                self.assertEqual(len(link._connections), 1)

    def test_the_wait_for_an_answer_leaves_no_gap(self) -> None:
        link = Link(self.clock, 4, 4)
        self.assertFalse(link.may_begin_next(0))
        link.goodput, link.round_trip = 1e6, 0.001
        self.assertFalse(link.may_begin_next(0))
        link.round_trip = 0.1
        self.assertTrue(link.may_begin_next(50_000), "what moves in two round trips")
        self.assertFalse(link.may_begin_next(50_001))

    def test_who_leaves_its_place_early(self) -> None:
        link = Link(self.clock, 8, 64)
        link.goodput, link.round_trip = 25e6, 0.1
        self.assertTrue(link.may_leave())
        link.goodput = 0.6e6  # the kernel holds back seconds of it
        self.assertFalse(link.may_leave())

    def test_a_goodput_that_grows_is_believed_at_once(self) -> None:
        """Its average over a second would hold back what can go now."""
        link = Link(self.clock, 8, 64)
        with connection() as (near, far):
            link.connected(near, Congestion().tune(near))
            ending = self.use(link)
            far.settimeout(10)
            for _ in range(4):
                near.sendall(bytes(SIZE))
                far.recv(SIZE, socket.MSG_WAITALL)
                self.clock.advance(SAMPLE_S)
            rate = SIZE / SAMPLE_S
            self.assertGreater(8 * SIZE / link.seconds(SIZE), 0.5 * rate)
            ending.callback(None)

    def test_small_ones_that_are_fetched_take_a_part_of_a_place(self) -> None:
        link = Link(self.clock, None, 64)
        whole = link.place(None)
        self.assertEqual(link.place(1000), whole, "nothing is known")
        link.goodput, link.round_trip = 25e6, 0.1
        self.assertEqual((link.place(None), link.place(2**20)), (whole, whole))
        self.assertLess(link.place(2**17), whole / 4)
        self.assertGreaterEqual(link.place(1), 1)
        link.goodput = 0.6e6
        self.assertEqual(link.place(2**17), whole, "one fills its part of a thin link")
        link.goodput, link.round_trip = 25e6, 0.001
        self.assertEqual(link.place(1), whole, "near")
        fixed = Link(self.clock, 4, 64)
        fixed.goodput, fixed.round_trip = 25e6, 0.1
        self.assertEqual(fixed.place(1), whole, "Threads is kept to")

    def test_sizes_follow(self) -> None:
        link = Link(self.clock, None, 64)
        self.assertEqual(link.cut(1000).target, 1000)
        unknown = link.cut(None)
        link.goodput, link.round_trip = 1e6, 0.1
        self.assertLess(link.cut(None).target, unknown.target)

    def test_no_more_than_a_limit_of_ours_is_enough_for(self) -> None:
        """At once, when it changes; and none where another transfer has no limit."""
        link = Link(self.clock, None, 64, 32)
        ending = self.use(link, flow := self.flow("1M"))
        self.assertEqual(link.limit, 7)
        self.assertEqual(link.cut(None).target, 500_000)
        for form, most in (("8k", 2), ("20M", 32), ("2M", 15)):
            flow.limits[0].change(settings(form).upload)
            self.clock.advance(SAMPLE_S)
            self.assertEqual(link.limit, most)
            self.assertEqual(link.slots.limit, 16 * most)
        other = self.use(link)
        self.assertEqual(link.limit, 32)
        other.callback(None)
        ending.callback(None)
        fixed = Link(self.clock, 12, 64)
        self.use(fixed, self.flow("1M")).callback(None)
        self.assertEqual(fixed.limit, 12, "Threads is kept to")

    def test_what_a_limit_of_ours_has_left_is_not_what_the_link_carries(self) -> None:
        self.patch(tcp, "NEAR_S", 0)
        link = Link(self.clock, None, 64, 32)
        with connection() as (near, far):
            link.connected(near, Congestion().tune(near))
            flow = self.flow("1M")
            ending = self.use(link, flow)
            self.assertEqual(link.estimate().goodput, 125e3, "before anything is measured")
            waiting = Deferred.fromCoroutine(self.send_on(flow))
            held = [Deferred.fromCoroutine(self.hold(link)) for _ in range(link.limit + 1)]
            for _number in range(200):
                near.sendall(bytes(5000))
                far.recv(5000, socket.MSG_WAITALL)
                self.clock.advance(SAMPLE_S)
            self.assertEqual(link._concurrency.limit, 32)  # type: ignore[union-attr]
            self.assertGreater(link.goodput or 0, 50e3)
            for each in (waiting, *held):
                each.addErrback(lambda _cancelled: None)
                each.cancel()
            ending.callback(None)
            ending = self.use(link)
            self.assertIsNone(link.estimate().goodput)
            self.assertEqual(link.cut(None).target, 2**20)
            ending.callback(None)

    def test_losses_make_it_all_there_may_be_or_few(self) -> None:
        """As they slow connections down, or do not."""
        self.patch(tcp, "NEAR_S", 0.0)
        self.patch(concurrency, "_USUAL_S", 1e-9)
        for congestion, expected in (
            (Congestion("reno"), 64),
            (Congestion(when_lossy=PREFERRED), START_LOSS_BASED),
        ):
            link = Link(self.clock, None, 64, START_LOSS_BASED)
            with connection() as (near, far):
                ending = self.use(link)
                link.connected(near, sight := congestion.tune(near))
                told = tcp.read(near)
                assert told is not None
                sight.look(attrs.evolve(told, resent=100))
                slots = [Deferred.fromCoroutine(self.hold(link)) for _ in range(link.limit + 1)]
                far.sendall(bytes(SIZE))
                near.recv(SIZE, socket.MSG_WAITALL)
                self.clock.advance(SAMPLE_S)
                self.assertEqual(link.limit, expected)
                for slot in slots:
                    slot.addErrback(lambda _cancelled: None)
                    slot.cancel()
                ending.callback(None)

    async def send_on(self, flow: Flow) -> None:
        while True:
            await flow.take(10**6)

    async def hold(self, link: Link) -> None:
        async with link.slots.slot(0, link.place(None), "job"):
            await Deferred()
