"""Requests by blocking sockets, to a server that says what a test wants."""

import contextlib
import os
import socket
import threading
from collections.abc import Callable
from typing import Any

from twisted.internet import error as net
from twisted.internet.defer import CancelledError
from twisted.trial.unittest import SynchronousTestCase
from twisted.web._newclient import ParseError
from zope.interface.verify import verifyObject

from txtransfers.errors import BodyTooLarge, StorageFailure
from txtransfers.orthanc.exchanges import Answer, FileBody, IExchanges, NoAnswer, Question
from txtransfers.orthanc.sockets import SocketExchanges
from txtransfers.threads import SynchronousThreads
from txtransfers.transfer.client import Stalled

PATIENCE_S = 60.0
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nX-Name: value\r\n\r\nbody"


class _Server:
    """Answers each request with the next answer; one of None ends the connection instead."""

    def __init__(self, answers: list[bytes | None]) -> None:
        self._answers = answers
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.requests: list[bytes] = []
        self.connections = 0
        threading.Thread(target=self._run, daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):  # it is closed already
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _address = self._listening.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=[connection], daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            while self._answer(connection):
                pass

    def _answer(self, connection: socket.socket) -> bool:
        request = b""
        while b"\r\n\r\n" not in request:
            more = connection.recv(65536)
            if not more:
                return False
            request += more
        head, _, body = request.partition(b"\r\n\r\n")
        sizes = [line.split(b":")[1] for line in head.split(b"\r\n") if b"Length" in line]
        while sizes and len(body) < int(sizes[0]):
            body += connection.recv(65536)
        self.requests.append(head + b"\r\n\r\n" + body)
        answer = self._answers.pop(0)
        if answer is None:
            return False
        connection.sendall(answer)
        return b"close" not in answer


class SocketExchangesTests(SynchronousTestCase):
    def begin(self, *answers: bytes | None, timeout: float = PATIENCE_S, path: str = "") -> Any:
        """What asks a server that gives these answers."""
        self.server = _Server(list(answers))
        self.addCleanup(self.server.close)
        url = f"http://127.0.0.1:{self.server.port}{path}"
        asks = SocketExchanges(SynchronousThreads(), url, {"X-Always": "é"}, timeout)
        self.addCleanup(asks.close)
        return asks

    def ask(self, asks: Any, *questions: Question, is_fresh: bool = False) -> list[Answer]:
        questions = questions or (Question("GET", "/one", limit=100),)
        return self.successResultOf(asks.ask(questions, is_fresh))  # type: ignore[no-any-return]

    def fails(self, asks: Any, error: type[BaseException], **more: Any) -> Any:
        question = Question(**({"method": "GET", "path": "/one", "limit": 100} | more))
        return self.failureResultOf(asks.ask([question], False), error).value

    def test_interface(self) -> None:
        verifyObject(IExchanges, self.begin())

    def test_one_after_the_other_on_one_connection(self) -> None:
        chunked = (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
        )
        asks = self.begin(OK, chunked, OK, path="/base/")
        body = Question("POST", "/two", b"sent", {"X-One": "1"}, limit=100)
        answers = self.ask(asks, Question("GET", "/one", limit=4), body)
        answers += self.ask(asks)
        self.assertEqual([a.body for a in answers], [b"body", b"abc", b"body"])
        self.assertEqual(answers[0].header("x-name"), "value")
        self.assertEqual(answers[0].header("x-other"), "")
        self.assertEqual(self.server.connections, 1)
        host = f"Host: 127.0.0.1:{self.server.port}\r\n".encode()
        always = "X-Always: é\r\n".encode()
        self.assertEqual(
            self.server.requests[1],
            b"POST /base/two HTTP/1.1\r\n" + host + always + b"X-One: 1\r\n"
            b"Content-Length: 4\r\n\r\nsent",
        )

    def test_a_new_one_where_that_is_wished_or_needed(self) -> None:
        last = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx"
        to_the_end = b"HTTP/1.1 200 OK\r\n\r\nclose"
        older = b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n"
        asks = self.begin(OK, OK, last, to_the_end, older, OK)
        seen = []
        for is_fresh in (False, True, False, False, False, False):
            self.ask(asks, is_fresh=is_fresh)
            seen.append(self.server.connections)
        self.assertEqual(seen, [1, 2, 2, 2, 3, 4])

    def test_a_refusal_is_an_answer(self) -> None:
        refusal = b"HTTP/1.1 500 No\r\nContent-Length: 3\r\n\r\nwhy"
        asks = self.begin(refusal)
        (answer,) = self.ask(asks, Question("GET", "/one", limit=0))
        self.assertEqual((answer.status, answer.body), (500, b"why"))

    def test_more_than_is_wanted(self) -> None:
        chunked = CHUNKED + b"5\r\nabcde\r\n0\r\n\r\n"
        for answer in (OK, chunked, b"HTTP/1.1 200 OK\r\n\r\nbodybody"):
            asks = self.begin(answer)
            self.fails(asks, BodyTooLarge, limit=3)

    def test_no_answer(self) -> None:
        error = self.fails(self.begin(None), NoAnswer)
        self.assertIsInstance(error.__cause__, net.ConnectionLost)

    def test_an_answer_that_is_cut(self) -> None:
        """The server ends the connection behind what has "close" in it."""
        ok = b"HTTP/1.1 200 OK\r\n"
        cut = (
            *(b"HTTP/1.1 close", b"\r\nclose", ok + b"X: close", ok + b"X: close\r\n"),
            ok + b"Content-Length: 9\r\n\r\nclose",
            *(CHUNKED + rest for rest in (b"9\r\nclose", b"5\r\nclose", b"5\r\nclose\r\n")),
            *(CHUNKED + rest for rest in (b"5\r\nclose\r\n0\r\n", b"0;close")),
        )
        for answer in cut:
            asks = self.begin(answer)
            self.fails(asks, net.ConnectionLost)

    def test_what_is_no_http(self) -> None:
        ok = b"HTTP/1.1 200 OK\r\nX-Close: close\r\n"
        for answer in (
            *(b"SSH-2.0-close\r\n\r\n", b"HTTP/1.1 99 close\r\n\r\n"),
            *(ok + b"noname\r\n\r\n", ok + b" folded: x\r\n\r\n", ok + b"X: y\r\n" * 20000),
            *(ok + b"Content-Length: %s\r\n\r\n" % what for what in (b"-1", b"+1", b"9" * 19)),
            *(ok + b"Content-Length: %s\r\n\r\n" % what for what in (b"", b"1, 2")),
            ok + b"Transfer-Encoding: gzip\r\n\r\n",
            *(CHUNKED + rest for rest in (b"close\r\n", b"-5\r\nclose\r\n", b"1\r\nclose")),
            b"HTTP/1.1 100 Continue\r\n\r\n" * 20 + OK + b"close",
        ):
            asks = self.begin(answer)
            self.fails(asks, ParseError)

    def test_silence(self) -> None:
        asks = self.begin(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", OK, timeout=0.05)
        error = self.fails(asks, Stalled)
        self.assertEqual(error.seconds, 0.05)

    def test_nobody_there(self) -> None:
        asks = self.begin()
        self.server.close()
        self.fails(asks, net.ConnectionRefusedError)

    def test_a_part_of_a_file(self) -> None:
        path = self.mktemp()
        with open(path, "wb") as file:
            file.write(b"before" + bytes(range(256)) * 4096 + b"behind")
        asks = self.begin(OK)
        self.ask(asks, Question("POST", "/one", FileBody(path, 2**20, 6), limit=9))
        _, _, body = self.server.requests[0].partition(b"\r\n\r\n")
        self.assertEqual(body, bytes(range(256)) * 4096)

    def test_a_file_that_is_cut_or_gone(self) -> None:
        path = os.path.abspath(self.mktemp())
        with open(path, "wb") as file:
            file.write(bytes(10))
        for body in (FileBody(path, 11), FileBody(path + "x", 1)):
            asks = self.begin(OK)
            error = self.fails(asks, StorageFailure, method="POST", body=body)
            self.assertIn(path, str(error))


class _OneThread:
    """Runs what it is given in a thread, and hands the result over in the test's."""

    def __init__(self) -> None:
        self.thread: threading.Thread | None = None
        self.outcome: Any = None

    def run(self, function: Callable[..., Any], *args: Any) -> Any:
        def work() -> None:
            try:
                function(*args)
            except Exception as error:
                self.outcome = error

        self.thread = threading.Thread(target=work)
        self.thread.start()
        return self

    def addBoth(self, _callback: Any) -> None:
        """See Deferred: nobody waits for it here."""


class EndTests(SynchronousTestCase):
    """What waits for an answer that does not come is ended."""

    def setUp(self) -> None:
        listening = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listening.close)
        self.threads = _OneThread()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        self.asks = SocketExchanges(self.threads, url, {}, PATIENCE_S)  # type: ignore[arg-type]
        self.asking = self.asks.ask([Question("GET", "/one", limit=9)], False)
        listening.settimeout(PATIENCE_S)
        self.connection, _address = listening.accept()
        self.addCleanup(self.connection.close)
        self.connection.recv(1000)

    def assert_ended(self) -> None:
        assert self.threads.thread is not None
        self.threads.thread.join(PATIENCE_S)
        self.assertFalse(self.threads.thread.is_alive())
        self.assertIsInstance(self.threads.outcome, NoAnswer)

    def test_cancelled(self) -> None:
        self.asking.cancel()
        self.failureResultOf(self.asking, CancelledError)
        self.assert_ended()

    def test_closed(self) -> None:
        self.asks.close()
        self.assert_ended()
