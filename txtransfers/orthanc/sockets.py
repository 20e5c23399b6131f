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
from http.client import HTTPConnection, HTTPException, HTTPResponse, RemoteDisconnected
from typing import NoReturn
from urllib.parse import urlsplit

import attrs
from twisted.internet import error as net
from twisted.internet.defer import Deferred, succeed
from twisted.web._newclient import ParseError
from zope.interface import implementer

from ..errors import BodyTooLarge, StorageFailure
from ..store.staging import disk_error
from ..threads import IThreads
from ..transfer.client import Stalled
from .exchanges import Answer, FileBody, IExchanges, NoAnswer, Question

_IDLE_S = 30.0
"""Seconds that a connection is kept without use."""

_CONNECT_S = 5.0
"""Seconds that a connection may take at the most: a stop of the daemon waits for it."""


@attrs.define(eq=False)
class _Call:
    """One exchange after the other, under way."""

    connection: HTTPConnection | None = None
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
        self._authority = parts.netloc.rpartition("@")[2]
        self._port = parts.port or 80
        self._base = parts.path.rstrip("/")
        self._threads = threads
        self._headers = headers
        self._timeout = timeout
        self._lock = threading.Lock()
        self._idle: list[tuple[HTTPConnection, float]] = []
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
            if call.connection is not None and call.connection.sock is not None:
                _shut(call.connection.sock)

    # In a thread

    def _ask_each(self, questions: Sequence[Question], is_fresh: bool, call: _Call) -> list[Answer]:
        return [self._ask(question, is_fresh, call) for question in questions]

    def _ask(self, question: Question, is_fresh: bool, call: _Call) -> Answer:
        timeout = self._timeout + question.patience
        connection = self._take(is_fresh, timeout)
        try:
            self._begin(call, connection)
            answer = self._exchange(connection, question)
        except BaseException as error:
            connection.close()
            _explain(error, timeout)
        finally:
            with self._lock:
                self._calls.discard(call)
                call.connection = None
        self._keep(connection, call)
        return answer

    def _begin(self, call: _Call, connection: HTTPConnection) -> None:
        with self._lock:
            if call.is_cancelled or self._is_closed:
                raise net.ConnectionAborted
            self._calls.add(call)
            call.connection = connection

    def _exchange(self, connection: HTTPConnection, question: Question) -> Answer:
        try:
            # It may have answered before it had it all.
            with suppress(BrokenPipeError, ConnectionResetError):
                self._send(connection, question)
            response = connection.getresponse()
        except ConnectionError as error:
            raise NoAnswer from net.ConnectionLost(str(error))
        data = _body_of(response, question.limit_of(response.status))
        return Answer(response.status, data, response.getheader)

    def _send(self, connection: HTTPConnection, question: Question) -> None:
        body = question.body
        target = self._base + question.path
        connection.putrequest(question.method, target, skip_host=True, skip_accept_encoding=True)
        for name, text in {"Host": self._authority, **self._headers, **question.headers}.items():
            connection.putheader(name, text.encode())
        if body is None:
            connection.endheaders()
        elif isinstance(body, bytes):
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
        else:
            connection.putheader("Content-Length", str(body.size))
            connection.endheaders()
            _send_file(connection.sock, body)

    def _take(self, is_fresh: bool, timeout: float) -> HTTPConnection:
        """A connection: the one that was used last, or a new one."""
        while not is_fresh:
            with self._lock:
                if not self._idle:
                    break
                connection, _since = self._idle.pop()
            if _is_quiet(connection.sock):
                connection.sock.settimeout(timeout)
                return connection
            connection.close()
        return self._connect(timeout)

    def _connect(self, timeout: float) -> HTTPConnection:
        for host in self._hosts:
            connection = HTTPConnection(host, self._port, timeout=min(timeout, _CONNECT_S))
            try:
                connection.connect()
            except TimeoutError:
                raise net.TimeoutError from None
            except socket.gaierror as error:
                raise net.DNSLookupError(str(error)) from None
            except OSError as error:
                failure = net.getConnectError(error)
            else:
                connection.auto_open = 0
                connection.sock.settimeout(timeout)
                return connection
        raise failure

    def _keep(self, connection: HTTPConnection, call: _Call) -> None:
        """Keep a connection for the next request, where Orthanc does; end those that are old."""
        now = time.monotonic()
        with self._lock:
            if connection.sock is not None and not (self._is_closed or call.is_cancelled):
                self._idle.append((connection, now))
            old = [each for each in self._idle if each[1] < now - _IDLE_S]
            self._idle = self._idle[len(old) :]
        for each, _since in old:
            each.close()


def _body_of(response: HTTPResponse, limit: int) -> bytes:
    length = response.length
    if length is None:
        data = response.read(limit + 1)
    else:
        data = response.read() if length <= limit else b""
    if max(length or 0, len(data)) > limit:
        raise BodyTooLarge(f"The body has more than {limit} bytes")
    return data


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
    if isinstance(error, HTTPException) and not isinstance(error, RemoteDisconnected):
        raise ParseError(str(error) or type(error).__name__, str(error).encode()) from None
    if isinstance(error, OSError) and not isinstance(error, net.ConnectionLost):
        raise net.ConnectionLost(str(error)) from None
    raise error
