"""Receives webhooks: a small HTTP server in a thread, which answers as the test says."""

import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import attrs

HOST = "127.0.0.1"


@attrs.frozen
class Received:
    """One request."""

    path: str
    headers: Mapping[str, str]
    body: bytes


class Receiver:
    """Answers 200 unless ``statuses`` has something else for the next request."""

    def __init__(self, port: int = 0) -> None:
        self.requests: list[Received] = []
        self.statuses: list[int] = []
        self.endless = False
        self.silent = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver._answer(self)

            do_GET = do_POST

            def log_message(self, *_args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer((HOST, port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://{HOST}:{self.port}/hook?token=geheim"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        self.requests.append(Received(request.path, dict(request.headers), body))
        if self.silent.is_set():
            while self.silent.wait(0.02) and self.silent.is_set():
                pass
        status = self.statuses.pop(0) if self.statuses else 200
        try:
            self._respond(request, status)
        except OSError:  # who asked has gone
            self.endless = False

    def _respond(self, request: BaseHTTPRequestHandler, status: int) -> None:
        request.send_response(status)
        if 300 <= status < 400:
            request.send_header("Location", f"http://{HOST}:{self.port}/elsewhere")
        if not self.endless:
            request.send_header("Content-Length", "0")
        request.end_headers()
        while self.endless:
            request.wfile.write(bytes(65536))

    def close(self) -> None:
        """End it; safe to call twice."""
        self.silent.clear()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
