"""Requests to Orthanc by blocking sockets, each in a thread, for an address without TLS.

A transfer asks Orthanc for hundreds of sums and files, and gives it hundreds of files. Here such a
request costs a tenth of what it does in the reactor: the bytes of an answer come in one read, those
of a file leave it without being read by us.
"""

import os
import select
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from io import BufferedReader
from typing import NoReturn, cast
from urllib.parse import urlsplit

import attrs
from twisted.internet import error as net
from twisted.internet.defer import Deferred, succeed
from twisted.web._newclient import ParseError
from zope.interface import implementer

from ..disk import disk_error
from ..errors import BodyTooLarge, StorageFailure
from ..threads import IThreads
from ..transfer.client import Stalled
from .answers import Head, NoHttpError, Reading
from .exchanges import Answer, FileBody, IExchanges, NoAnswer, Question

_IDLE_S = 30.0
"""Seconds that a connection is kept without use."""

_READ_SIZE = 16 * 1024
"""Bytes that are read at a time, until it is known how many there are: then all are."""

_CONNECT_S = 5.0
"""Seconds that a connection may take at the most: a stop of the daemon waits for it."""


@attrs.define(eq=False)
class _Call:
    """One exchange after the other, under way."""

    connection: socket.socket | None = None
    is_cancelled: bool = False


@implementer(IExchanges)
class SocketExchanges:
    """See the module, and :class:`IExchanges`."""

    def __init__(
        self, threads: IThreads, url: str, headers: Mapping[str, str], timeout: float
    ) -> None:
        """:param threads: those that wait for Orthanc; nothing else should need them.

        :param headers: those of all requests. :param timeout: seconds without progress.
        """
        parts = urlsplit(url)
        self._hosts = [parts.hostname or ""]
        if self._hosts == ["localhost"]:  # see connection.py
            self._hosts.insert(0, "127.0.0.1")
        self._port = parts.port or 80
        self._base = parts.path.rstrip("/")
        self._threads = threads
        authority = parts.netloc.rpartition("@")[2]
        self._always = _lines({"Host": authority, **headers})
        self._timeout = timeout
        self._lock = threading.Lock()
        self._idle: list[tuple[socket.socket, float]] = []
        self._calls: set[_Call] = set()
        self._is_closed = False

    def ask(self, questions: Sequence[Question], is_fresh: bool) -> "Deferred[list[Answer]]":
        """See :meth:`IExchanges.ask`."""
        call = _Call()
        answers: Deferred[list[Answer]] = Deferred(lambda _answers: self._cancel(call))
        self._threads.run(self._ask_each, questions, is_fresh, call).addBoth(answers.callback)
        return answers

    def close(self) -> "Deferred[None]":
        """See :meth:`IExchanges.close`."""
        with self._lock:
            self._is_closed = True
            calls = list(self._calls)
            idle, self._idle = self._idle, []
        for call in calls:
            self._cancel(call)
        for connection, _since in idle:
            connection.close()
        return succeed(None)

    def _cancel(self, call: _Call) -> None:
        with self._lock:
            call.is_cancelled = True
            if call.connection is not None:
                _shut(call.connection)

    # In a thread

    def _ask_each(self, questions: Sequence[Question], is_fresh: bool, call: _Call) -> list[Answer]:
        return [self._ask(question, is_fresh, call) for question in questions]

    def _ask(self, question: Question, is_fresh: bool, call: _Call) -> Answer:
        timeout = self._timeout + question.patience
        connection = self._take(is_fresh, timeout)
        try:
            self._begin(call, connection)
            answer, is_kept = self._exchange(connection, question)
        except BaseException as error:
            connection.close()
            _explain(error, timeout)
        finally:
            with self._lock:
                self._calls.discard(call)
                call.connection = None
        self._give_back(connection, is_kept and not call.is_cancelled)
        return answer

    def _begin(self, call: _Call, connection: socket.socket) -> None:
        with self._lock:
            if call.is_cancelled or self._is_closed:
                raise net.ConnectionAborted
            self._calls.add(call)
            call.connection = connection

    def _exchange(self, connection: socket.socket, question: Question) -> tuple[Answer, bool]:
        """Ask; tells, too, whether the connection can be used again."""
        try:
            # It may have answered before it had it all.
            with suppress(BrokenPipeError, ConnectionResetError):
                self._send(connection, question)
            return _read_answer(connection, question)
        except (EOFError, ConnectionError) as error:
            raise NoAnswer from net.ConnectionLost(str(error))

    def _send(self, connection: socket.socket, question: Question) -> None:
        body = question.body
        lines = [f"{question.method} {self._base}{question.path} HTTP/1.1", *self._always]
        lines += _lines(question.headers)
        if body is not None:
            size = len(body) if isinstance(body, bytes) else body.size
            lines.append(f"Content-Length: {size}")
        head = "\r\n".join([*lines, "", ""]).encode()
        if isinstance(body, FileBody):
            connection.sendall(head)
            _send_file(connection, body)
        else:
            connection.sendall(head + (body or b""))

    def _take(self, is_fresh: bool, timeout: float) -> socket.socket:
        """A connection: the one that was used last, or a new one."""
        while not is_fresh:
            with self._lock:
                if not self._idle:
                    break
                connection, _since = self._idle.pop()
            if _is_quiet(connection):
                connection.settimeout(timeout)
                return connection
            connection.close()
        return self._connect(timeout)

    def _connect(self, timeout: float) -> socket.socket:
        for host in self._hosts:
            try:
                made = socket.create_connection((host, self._port), min(timeout, _CONNECT_S))
            except TimeoutError:
                raise net.TimeoutError from None
            except socket.gaierror as error:
                raise net.DNSLookupError(str(error)) from None
            except OSError as error:
                failure = net.getConnectError(error)
            else:
                made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                made.settimeout(timeout)
                return made
        raise failure

    def _give_back(self, connection: socket.socket, is_kept: bool) -> None:
        """Keep a connection for the next request, or end it; those that are old end, too."""
        now = time.monotonic()
        with self._lock:
            if is_kept and not self._is_closed:
                self._idle.append((connection, now))
            else:
                connection.close()
            old = [each for each in self._idle if each[1] < now - _IDLE_S]
            self._idle = self._idle[len(old) :]
        for each, _since in old:
            each.close()


class _Whole:
    """Takes an answer whole; see :class:`.answers.IReceiver`."""

    def __init__(self, question: Question) -> None:
        self._question = question
        self._answer: Head | None = None
        self._parts: list[bytes] = []
        self._room = 0
        self.has_ended = False

    @property
    def has_head(self) -> bool:
        """Whether its head has come."""
        return self._answer is not None

    @property
    def answer(self) -> Answer:
        """What came; there must be a head."""
        assert self._answer is not None
        first = {name.lower(): value for name, value in reversed(self._answer.headers)}
        return Answer(self._answer.status, b"".join(self._parts), first)

    def interim(self, head: Head) -> None:
        """It is the next that counts."""

    def head(self, head: Head) -> None:
        self._answer = head
        self._room = self._question.limit_of(head.status)

    def check(self, size: int) -> None:
        """Refuse so many bytes more, where these are too many."""
        if size > self._room:
            limit = self._question.limit_of(self.answer.status)
            raise BodyTooLarge(f"The body has more than {limit} bytes")

    def data(self, data: bytes) -> None:
        self.check(len(data))
        self._room -= len(data)
        self._parts.append(data)

    def end(self) -> None:
        self.has_ended = True

    def failed(self, error: BaseException) -> None:
        raise error


def _read_answer(connection: socket.socket, question: Question) -> tuple[Answer, bool]:
    """The answer, and whether another may follow on that connection."""
    whole = _Whole(question)
    beyond: list[bytes] = []

    def end(rest: bytes) -> None:
        beyond.append(rest)
        whole.end()

    reading = Reading(question.method.encode(), whole, end)
    with cast(BufferedReader, connection.makefile("rb", _READ_SIZE)) as file:
        while not whole.has_ended:
            whole.check(reading.left)
            if reading.left:
                data = file.read(reading.left)
            elif whole.has_head:
                data = file.read1()
            else:  # and nothing beyond it, so that a body of known length comes in one piece
                edge = file.peek().find(b"\r\n\r\n")
                data = file.read(edge + 4) if edge >= 0 else file.readline(_READ_SIZE)
            if not data:
                if not reading.has_begun:
                    raise EOFError("closed without an answer")
                if not reading.ends_with_connection:
                    raise net.ConnectionLost("the answer was cut")
                break
            reading.feed(data)
    return whole.answer, reading.persists and not any(beyond)


def _lines(headers: Mapping[str, str]) -> list[str]:
    return [f"{name}: {' '.join(text.splitlines())}" for name, text in headers.items()]


def _send_file(connection: socket.socket, body: FileBody) -> None:
    try:
        descriptor = os.open(body.path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise disk_error(error, body.path) from error
    with open(descriptor, "rb", buffering=0) as file:
        if connection.sendfile(file, body.start, body.size) != body.size:
            raise StorageFailure(f"{body.path} was cut short by somebody else")


def _is_quiet(connection: socket.socket) -> bool:
    """Whether an idle connection is open, and nothing comes that nobody asked for."""
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return not poll.poll(0)


def _shut(connection: socket.socket) -> None:
    """Have a thread that waits for it go on, and fail."""
    with suppress(OSError):  # it is broken already
        connection.shutdown(socket.SHUT_RDWR)


def _explain(error: BaseException, timeout: float) -> NoReturn:
    """Raise ``error`` as what Twisted has for it."""
    if isinstance(error, TimeoutError):
        raise Stalled(timeout) from None
    if isinstance(error, NoHttpError):
        raise ParseError("no HTTP", str(error).encode()) from None
    if isinstance(error, OSError) and not isinstance(error, net.ConnectionLost):
        raise net.ConnectionLost(str(error)) from None
    raise error
