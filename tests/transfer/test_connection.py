"""A client's connection whose requests may stand behind each other, and who is given which."""

import socket
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web._newclient import (
    Request,
    RequestGenerationFailed,
    RequestNotSent,
    RequestTransmissionFailed,
    ResponseFailed,
    ResponseNeverReceived,
)
from twisted.web.client import readBody
from twisted.web.http_headers import Headers
from twisted.web.iweb import IBodyProducer
from zope.interface import implementer

from txtransfers.transfer.connection import Connection
from txtransfers.transfer.pool import Behind, Pool

OK = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"
EMPTY = OK % 0
LAST = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


@implementer(IBodyProducer)
class SlowBody:
    """A body that is written when the test says so."""

    length = 4

    def __init__(self) -> None:
        self.ended: Deferred[None] = Deferred()
        self.is_stopped = False

    def startProducing(self, consumer: Any) -> "Deferred[None]":
        self.consumer = consumer
        return self.ended

    def finish(self) -> None:
        self.consumer.write(b"body")
        self.ended.callback(None)

    def stopProducing(self) -> None:
        self.is_stopped = True

    def pauseProducing(self) -> None:
        pass

    def resumeProducing(self) -> None:
        pass


class Transport(StringTransport):
    """One that notes how it was cut."""

    is_cut = False

    def abortConnection(self) -> None:
        self.is_cut = True


def get(path: bytes = b"/x") -> Request:
    return Request._construct(b"GET", path, Headers({"Host": ["b"]}), None, persistent=True)


def put(body: SlowBody) -> Request:
    return Request._construct(b"PUT", b"/x", Headers({"Host": ["b"]}), body, persistent=True)


class ConnectionCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.idle = 0
        self.single = 0
        self.transport = Transport()
        self.connection = Connection(self.count_idle, self.count_single)
        self.connection.makeConnection(self.transport)

    def count_idle(self, connection: Connection) -> None:
        self.assertIs(self.connection, connection)
        self.idle += 1

    def count_single(self) -> None:
        self.single += 1

    def ask(self, request: Request) -> "Deferred[bytes]":
        return self.connection.request(request).addCallback(readBody)

    def receive(self, data: bytes) -> None:
        self.connection.dataReceived(data)


class ConnectionTests(ConnectionCase):
    def test_one_request(self) -> None:
        answer = self.ask(get())
        self.assertIn(b"GET /x HTTP/1.1", self.transport.value())
        self.receive(OK % 5)
        self.assertEqual(self.idle, 0)
        self.receive(b"hello")
        self.assertEqual(self.successResultOf(answer), b"hello")
        self.assertEqual((self.idle, self.connection.depth), (1, 0))

    def test_answers_come_in_order_however_they_are_cut(self) -> None:
        data = OK % 5 + b"first" + EMPTY + OK % 6 + b"second"
        for size in (1, 7, len(data)):
            self.setUp()
            answers = [self.ask(get(b"/%d" % n)) for n in range(3)]
            self.assertEqual(self.transport.value().count(b"GET /"), 3)
            self.assertEqual(self.connection.depth, 3)
            for start in range(0, len(data), size):
                self.receive(data[start : start + size])
            got = [self.successResultOf(answer) for answer in answers]
            self.assertEqual(got, [b"first", b"", b"second"])
            self.assertEqual((self.idle, self.transport.producerState), (1, "producing"))

    def test_headers_without_an_end(self) -> None:
        """Nor are answers before the answer: what is kept of them has a limit."""
        for piece in (b"X: %s\r\n" % bytes(b"y" * 1000), b"HTTP/1.1 100 Continue\r\n\r\n"):
            self.setUp()
            answer, next_ = self.ask(get()), self.ask(get())
            first = b"HTTP/1.1 200 OK\r\n" if piece.startswith(b"X") else b""
            self.receive(first + piece * 3000)
            self.assertTrue(self.transport.is_cut)
            error = self.failureResultOf(answer, ResponseFailed).value
            self.assertIn("headers of more than 65536 bytes", str(error.reasons[0].value))
            self.failureResultOf(next_, ResponseNeverReceived)

    def test_a_large_head_before_a_large_body(self) -> None:
        body = bytes(200_000)
        answer, next_ = self.ask(get()), self.ask(get())
        head = (OK % len(body))[:-2] + b"X: %s\r\n" % (b"y" * 10_000) * 5 + b"\r\n"
        self.receive(head + body + OK % 2 + b"ok")
        self.assertEqual(body, self.successResultOf(answer))
        self.assertEqual(b"ok", self.successResultOf(next_))

    def test_none_is_sent_into_the_body_of_another(self) -> None:
        body = SlowBody()
        answer = self.ask(put(body))
        self.assertFalse(self.connection.is_usable)
        self.failureResultOf(self.ask(get()), RequestNotSent)
        body.finish()
        self.assertTrue(self.connection.is_usable)
        behind = self.ask(get())
        self.receive(EMPTY + OK % 1 + b"!")
        self.assertEqual(self.successResultOf(answer), b"")
        self.assertEqual(self.successResultOf(behind), b"!")

    def test_what_is_left_to_come(self) -> None:
        self.ask(get())
        self.assertEqual(self.connection.left, float("inf"))
        self.receive(OK % 100_000)
        before = self.connection.left
        self.receive(bytes(60_000))
        self.assertEqual(before - self.connection.left, 60_000)
        body = SlowBody()
        self.setUp()
        self.ask(put(body))
        body.finish()
        self.assertEqual(self.connection.left, 0)

    def test_what_has_not_begun_to_come_is_taken_to_be_as_long_as_the_last(self) -> None:
        self.ask(get())
        self.receive(OK % 100_000 + bytes(40_000))
        before = self.connection.left
        self.ask(get())
        self.assertEqual(self.connection.left - before, 100_000)
        self.receive(bytes(60_000) + OK % 70_000)
        self.assertEqual(self.connection.usual, 70_000)
        self.assertLess(self.connection.left, 70_001)

    def test_only_buckets_are_usual(self) -> None:
        for method in (b"GET", b"PUT", b"POST"):
            self.setUp()
            body = SlowBody() if method != b"GET" else None
            request = Request._construct(method, b"/x", Headers({"Host": ["b"]}), body, True)
            self.ask(request)
            if body is not None:
                body.finish()
            self.receive(OK % 100)
            expected = {b"GET": 100, b"PUT": SlowBody.length, b"POST": 0}[method]
            self.assertEqual(self.connection.usual, expected, method)

    def test_an_answer_that_is_the_last(self) -> None:
        answers = [self.ask(get()) for _ in range(2)]
        self.receive(LAST)
        self.assertEqual(self.successResultOf(answers[0]), b"")
        self.failureResultOf(answers[1], ResponseNeverReceived)
        self.assertEqual((self.single, self.idle, self.transport.is_cut), (1, 0, True))
        self.assertFalse(self.connection.is_usable)

    def test_one_that_ends_later_is_not_single(self) -> None:
        self.ask(get())
        self.receive(EMPTY)
        self.ask(get())
        self.receive(LAST)
        self.assertEqual(self.single, 0)

    def test_an_early_answer_ends_it(self) -> None:
        """It is given; the rest of the request is not sent."""
        for said in (b"", b"full"):
            self.setUp()
            body = SlowBody()
            answer = self.ask(put(body))
            self.receive(b"HTTP/1.1 507 Full\r\nContent-Length: %d\r\n\r\n%b" % (len(said), said))
            self.assertEqual(self.successResultOf(answer), said)
            self.assertEqual((body.is_stopped, self.transport.is_cut, self.idle), (True, True, 0))

    def test_a_broken_connection(self) -> None:
        answers = [self.ask(get()) for _ in range(2)]
        body = SlowBody()
        answers.append(self.ask(put(body)))
        self.receive(OK % 5 + b"he")
        self.connection.connectionLost(Failure(ConnectionLost()))
        self.failureResultOf(answers[0], ResponseFailed)
        self.failureResultOf(answers[1], ResponseNeverReceived)
        self.failureResultOf(answers[2], RequestTransmissionFailed)
        self.assertTrue(body.is_stopped)
        self.failureResultOf(self.ask(get()), RequestNotSent)
        self.assertIsNone(self.successResultOf(self.connection.abort()))

    def test_a_body_that_cannot_be_made(self) -> None:
        body = SlowBody()
        answer = self.ask(put(body))
        body.ended.errback(OSError("gone"))
        self.failureResultOf(answer, RequestGenerationFailed)
        self.assertTrue(self.transport.is_cut)

    def test_cancelled(self) -> None:
        """The connection ends with it, and what stands behind can be asked for again."""
        answers = [self.connection.request(get()) for _ in range(2)]
        answers[0].cancel()
        self.failureResultOf(answers[0], CancelledError)
        self.failureResultOf(answers[1], ResponseNeverReceived)
        self.assertTrue(self.transport.is_cut)

    def test_one_that_is_cancelled_harms_none_before_it(self) -> None:
        """The end comes with its own answer; nothing more is asked until then."""
        answers = [self.ask(get()) for _ in range(3)]
        self.receive(OK % 5 + b"he")
        answers[1].cancel()
        self.failureResultOf(answers[1], CancelledError)
        self.assertFalse(self.transport.is_cut)
        self.assertFalse(self.connection.is_usable)
        self.assertNoResult(answers[2])
        self.receive(b"llo" + OK % 5 + b"other")
        self.assertEqual(self.successResultOf(answers[0]), b"hello")
        self.failureResultOf(answers[2], ResponseNeverReceived)
        self.assertTrue(self.transport.is_cut)
        self.assertEqual(self.idle, 0)

    def test_one_that_is_cancelled_while_it_is_written(self) -> None:
        first, second = self.ask(get()), self.ask(put(SlowBody()))
        second.cancel()
        self.failureResultOf(second, CancelledError)
        self.failureResultOf(first, ResponseNeverReceived)
        self.assertTrue(self.transport.is_cut, "half a request cannot be taken back")

    def test_no_http(self) -> None:
        answers = [self.connection.request(get()) for _ in range(2)]
        self.receive(b"SSH-2.0\r\n")
        self.failureResultOf(answers[0], ResponseFailed)
        self.failureResultOf(answers[1], ResponseNeverReceived)
        self.assertTrue(self.transport.is_cut)

    def test_more_than_was_asked_for(self) -> None:
        for early in (False, True):
            self.setUp()
            if not early:
                self.ask(get())
            self.receive(EMPTY * (1 if early else 2))
            self.assertTrue(self.transport.is_cut)


class Way:
    """A link whose figures the test sets."""

    round_trip: float | None = 0.1
    limit = 2
    enough = 1000.0
    each = 10_000.0

    def __init__(self) -> None:
        self.rates: dict[Any, float] = {}

    def may_begin_next(self, left: float, rate: float = 0.0) -> bool:
        return left <= max(self.enough, rate * self.enough / self.each)

    def rate(self, socket: Any) -> float:
        return self.rates.get(socket, 0.0)

    def seconds(self, size: float) -> float:
        return size / self.each


class Endpoint:
    """Connects at once, and keeps what it has made."""

    def __init__(self) -> None:
        self.made: list[Any] = []

    def connect(self, factory: Any) -> "Deferred[Any]":
        connection = factory.buildProtocol(None)
        connection.makeConnection(Transport())
        self.made.append(connection)
        return succeed(connection)


class BehindTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.pool = Pool(self.clock, 4)
        self.way = Way()
        self.endpoint = Endpoint()
        self.behind = Behind(self.pool, self.way)

    def tearDown(self) -> None:
        self.successResultOf(Deferred.fromCoroutine(self.close()))

    async def close(self) -> None:
        for each in self.endpoint.made:
            each.connectionLost(Failure(ConnectionLost()))
        await self.pool.close()

    def take(self, behind: Behind | None = None) -> Any:
        taken = (behind or self.behind).getConnection(None, self.endpoint)  # type: ignore[arg-type]
        return self.successResultOf(taken)

    def fetch(self, connection: Any, size: int = 0) -> None:
        """Ask for something, of which the answer's head, and all but ``size`` bytes, is there."""
        connection.request(get()).addErrback(lambda _: None)
        connection.dataReceived(OK % (1_000_000 + size) + bytes(1_000_000))

    def test_behind_one_that_is_about_to_end(self) -> None:
        first = self.take()
        self.fetch(first, 1500)
        second = self.take()
        self.assertIsNot(second, first, "too much is left")
        self.fetch(second, 500)
        self.assertIs(self.take(), second)

    def test_a_new_one_where_that_is_sooner(self) -> None:
        first = self.take()
        self.fetch(first, 900)
        self.way.each = 1000.0
        second = self.take()
        self.assertIsNot(second, first)
        self.fetch(second, 950)
        self.assertIs(self.take(), first, "no more than are to be busy are made for that")

    def test_an_idle_one_where_its_window_is_open(self) -> None:
        first, second = self.take(), None
        self.fetch(first, 2000)
        second = self.take()
        self.fetch(second, 500)
        first.dataReceived(bytes(2000))
        self.assertIs(self.take(), first)
        first.request(get()).addErrback(lambda _: None)
        first.dataReceived(EMPTY)
        self.clock.advance(1)
        self.assertIs(self.take(), second, "its window has been shut")

    def test_where_it_ends_soonest(self) -> None:
        """A fast connection takes it behind more than a slow one has."""
        self.way.limit, fast, slow = 2, self.take(), None
        self.fetch(fast, 2000)
        slow = self.take()
        self.fetch(slow, 500)
        for connection in (fast, slow):
            connection.transport.socket = socket.socket()
            self.addCleanup(connection.transport.socket.close)
        self.assertIs(self.take(), slow, "nothing is known")
        first, second = fast.transport.socket, slow.transport.socket
        self.way.rates = {first: 40_000.0, second: 4_000.0}
        self.assertIs(self.take(), fast)
        self.way.rates = {first: 4_000.0, second: 40_000.0}
        self.assertIs(self.take(), slow)

    def test_not_behind_what_belongs_to_another(self) -> None:
        other = Behind(self.pool, self.way)
        connection = self.take()
        self.fetch(connection, 500)
        self.assertIsNot(self.take(other), connection)
        connection.dataReceived(bytes(500))
        self.assertIs(self.take(other), connection)
        self.fetch(connection, 500)
        self.assertIsNot(self.take(), connection)

    def test_so_many_and_no_more(self) -> None:
        connection = self.take()
        for _ in range(8):
            connection.request(put_nothing()).addErrback(lambda _: None)
            if connection.depth < 8:
                self.assertIs(self.take(), connection)
        self.assertIsNot(self.take(), connection)

    def test_not_where_the_peer_ends_each(self) -> None:
        first = self.take()
        first.request(get())
        first.dataReceived(LAST)
        second = self.take()
        self.fetch(second, 10)
        self.assertIsNot(self.take(), second)


class SlowEndpoint:
    """Connects when the test says so."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, Deferred[Any]]] = []

    def connect(self, factory: Any) -> "Deferred[Any]":
        made: Deferred[Any] = Deferred()
        self.asked.append((factory, made))
        return made

    def succeed(self, number: int) -> Any:
        factory, made = self.asked[number]
        connection = factory.buildProtocol(None)
        connection.makeConnection(Transport())
        made.callback(connection)
        return connection

    def fail(self, number: int) -> None:
        self.asked[number][1].errback(ConnectionLost())


class AheadTests(SynchronousTestCase):
    """Connections that are made before anybody asks for one."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.pool = Pool(self.clock, 9)
        self.endpoint: Any = SlowEndpoint()
        self.addCleanup(lambda: self.successResultOf(Deferred.fromCoroutine(self.pool.close())))

    def take(self) -> "Deferred[Any]":
        return self.pool.getConnection(None, self.endpoint)

    def test_who_comes_before_they_are_there_gets_them_in_turn(self) -> None:
        ready = self.pool.prepare(self.endpoint, 3)
        first, second = self.take(), self.pool.take_unused(self.endpoint)
        self.assertEqual(len(self.endpoint.asked), 3, "no others are made")
        made = [self.endpoint.succeed(number) for number in (2, 0)]
        self.assertIs(self.successResultOf(first), made[0])
        self.clock.advance(0)
        self.assertIs(self.successResultOf(second), made[1])
        last = self.endpoint.succeed(1)
        self.successResultOf(ready)
        self.assertIs(self.successResultOf(self.take()), last)

    def test_the_requests_of_the_first_leave_before_others_are_made(self) -> None:
        """All that come in one turn of the reactor are given out over later ones."""
        ready = self.pool.prepare(self.endpoint, 5)
        waiting = [self.take() for _ in range(4)]
        made = [self.endpoint.succeed(number) for number in range(5)]
        self.successResultOf(ready)
        last = self.take()
        self.assertEqual([each.called for each in waiting], [True, False, False, False])
        self.clock.advance(0)
        self.assertEqual([self.successResultOf(each) for each in (*waiting, last)], made)
        self.assertEqual(len(self.endpoint.asked), 5)
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_more_are_made_where_all_are_promised(self) -> None:
        self.pool.prepare(self.endpoint, 1)
        self.pool.prepare(self.endpoint, -1)
        promised, other = self.take(), self.take()
        self.assertEqual(len(self.endpoint.asked), 2)
        own = self.endpoint.succeed(1)
        self.assertIs(self.successResultOf(other), own)
        self.assertNoResult(promised)
        self.assertIs(self.endpoint.succeed(0), self.successResultOf(promised))

    def test_one_that_cannot_be_made(self) -> None:
        ready = self.pool.prepare(self.endpoint, 2)
        waiting = self.take()
        self.endpoint.fail(1)
        self.failureResultOf(waiting, ConnectionLost)
        self.assertNoResult(ready)
        self.endpoint.fail(0)
        self.successResultOf(ready)
        self.clock.advance(0)
        self.assertEqual(len(self.endpoint.asked), 2)
        self.take()
        self.assertEqual(len(self.endpoint.asked), 3)

    def test_who_does_not_wait_any_more(self) -> None:
        self.pool.prepare(self.endpoint, 1)
        gone = self.take()
        gone.cancel()
        self.failureResultOf(gone, CancelledError)
        waiting = self.take()
        self.assertEqual(len(self.endpoint.asked), 1)
        self.assertIs(self.endpoint.succeed(0), self.successResultOf(waiting))


def put_nothing() -> Request:
    return Request._construct(b"PUT", b"/x", Headers({"Host": ["b"]}), None, persistent=True)
