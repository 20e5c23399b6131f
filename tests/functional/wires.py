"""What stands between two daemons in a test: wires that hold, cut, slow down, record or hang up.

Each listens on a free loopback port and leads to ``target``, which is set before the first use.
Threads of this process do the work; ``close`` ends them.
"""

import contextlib
import http.client
import select
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import attrs

HOST = "127.0.0.1"
_PIECE = 64 * 1024
_SMALL_BUFFER = 64 * 1024
"""Bytes that the kernel keeps of a wire: few, so that a wire that holds is soon felt."""
_PATIENCE_S = 60
_MESSAGE_WAIT_S = 120


class Wire:
    """Passes bytes both ways, and counts them.

    :ivar hold_after: once so many bytes have passed in one connection and direction, nothing moves
        until :meth:`release`.
    :ivar cut_after: once so many have passed, the connection is reset; ``cuts`` connections only.
    :ivar rate: bytes a second, of each connection and direction.
    """

    def __init__(
        self,
        *,
        hold_after: int | None = None,
        cut_after: int | None = None,
        cuts: int = 1_000_000,
        rate: int | None = None,
    ) -> None:
        self.hold_after = hold_after
        self.cut_after = cut_after
        self.cuts_left = cuts
        self.rate = rate
        self.target = 0
        self.passed = 0
        self.holding = threading.Event()
        self._released = threading.Event()
        self._lock = threading.Lock()
        self._closed = False
        self._sockets: set[socket.socket] = set()
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SMALL_BUFFER)
        self._listener.bind((HOST, 0))
        self._listener.listen(64)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def release(self) -> None:
        """Hold nothing any more."""
        self.hold_after = None
        self._released.set()

    def close(self) -> None:
        """Close all connections and the port."""
        self._closed = True
        self.release()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for each in self._sockets:
                _reset(each)

    def _accept(self) -> None:
        while True:
            try:
                near, _address = self._listener.accept()
                far = socket.socket()
                far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SMALL_BUFFER)
                far.connect((HOST, self.target))
            except OSError:
                if self._closed:
                    return
                near.close()
                continue
            with self._lock:
                self._sockets |= {near, far}
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(one, other), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := source.recv(_PIECE):
                passed += len(data)
                self.passed += len(data)
                if self.hold_after is not None and passed > self.hold_after:
                    self.holding.set()
                    self._wait_with(source, target)
                if self._cuts(passed):
                    break
                if self.rate is not None:
                    time.sleep(len(data) / self.rate)
                target.sendall(data)
            else:
                target.shutdown(socket.SHUT_WR)
                return
        _reset(source)
        _reset(target)

    def _wait_with(self, source: socket.socket, target: socket.socket) -> None:
        """Hold, but pass on at once that one side has gone."""
        while not self._released.wait(0.02):
            for each in (source, target):
                if each.fileno() < 0:
                    raise OSError
                poll = select.poll()
                poll.register(each, select.POLLRDHUP)
                if poll.poll(0):
                    raise OSError

    def _cuts(self, passed: int) -> bool:
        if self.cut_after is None or passed <= self.cut_after:
            return False
        with self._lock:
            if self.cuts_left == 0:
                return False
            self.cuts_left -= 1
            return True


def _reset(each: socket.socket) -> None:
    with contextlib.suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
    each.close()


class BlackHole:
    """Listens, and never answers."""

    def __init__(self) -> None:
        self._listener = socket.socket()
        self._listener.bind((HOST, 0))
        self._listener.listen(64)
        self.port = self._listener.getsockname()[1]

    def close(self) -> None:
        """Stop listening."""
        self._listener.close()


class Parrot:
    """Says the same words to whoever asks anything, and hangs up."""

    def __init__(self, words: bytes) -> None:
        self._words = words
        self._listener = socket.socket()
        self._listener.bind((HOST, 0))
        self._listener.listen(64)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _address = self._listener.accept()
                with contextlib.suppress(OSError):
                    near.settimeout(_PATIENCE_S)
                    near.recv(_PIECE)
                    near.sendall(self._words)
                _reset(near)


@attrs.frozen
class Request:
    """A request that passed a :class:`Recorder`; names of headers in lower case."""

    method: str
    path: str
    headers: dict[str, str]


class Recorder:
    """An HTTP proxy that keeps what was asked.

    :ivar hang_up_after: seconds without a request after which a connection is closed; 0 closes it
        after each answer. The answers never announce it.
    """

    def __init__(self, hang_up_after: float = _PATIENCE_S) -> None:
        self.hang_up_after = hang_up_after
        self.target = 0
        self.requests: list[Request] = []
        self.connections = 0
        self._server = ThreadingHTTPServer((HOST, 0), _Forward)
        self._server.daemon_threads = True
        self._server.recorder = self  # type: ignore[attr-defined]
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        """Close the port."""
        self._server.shutdown()
        self._server.server_close()


class _Forward(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Any

    def setup(self) -> None:
        super().setup()
        self._recorder: Recorder = self.server.recorder
        self._has_answered = False
        self._recorder.connections += 1

    def handle_one_request(self) -> None:
        """Wait for the next request no longer than it pleases us."""
        # A connection that is new is not idle: its first request may take its time.
        patience = self._recorder.hang_up_after if self._has_answered else 0
        patience = patience or _PATIENCE_S
        if not select.select([self.connection], [], [], patience)[0]:
            self.close_connection = True
            return
        with contextlib.suppress(ConnectionError):
            super().handle_one_request()
            self._has_answered = True
            if not self._recorder.hang_up_after:
                self.close_connection = True
            return
        self.close_connection = True

    def _forward(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self._recorder.requests.append(Request(self.command, self.path, headers))
        body = self.rfile.read(int(headers.get("content-length", 0)))
        backend = http.client.HTTPConnection(
            HOST, self._recorder.target, timeout=_MESSAGE_WAIT_S, blocksize=_PIECE
        )
        try:
            backend.request(self.command, self.path, body, headers)
            answer = backend.getresponse()
            data = answer.read()
        finally:
            backend.close()
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()

    do_GET = do_POST = do_PUT = do_DELETE = _forward

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Tell nobody."""
