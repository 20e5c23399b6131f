"""Measures what handing on costs: ``python -m bench.proxy``. Direct and through, in turns.

The other side is a server that does nothing but send and receive (no storage, one thread for each
connection), so that it is the gateway that is measured; and with small requests a real Orthanc too.
"""

import argparse
import json
import multiprocessing
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median, quantiles
from threading import Thread

import attrs
from rich.console import Console
from rich.table import Table

from demo.daemon import HOST, Daemon, DaemonError, free_ports
from demo.orthanc import PLAIN, Orthanc, in_front_of

MB = 2**20
BLOCK = 4 * MB
SMALL = json.dumps({"Name": "x" * 300}).encode()
MS = 1000


def serve(listening: socket.socket, path: str) -> None:
    """Answer for ever, each connection in a thread of its own."""
    while True:
        connection, _address = listening.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        Thread(target=_serve_one, args=(connection, path), daemon=True).start()


def _serve_one(connection: socket.socket, path: str) -> None:
    buffer = bytearray(BLOCK)
    with connection, open(path, "rb") as file:
        while request := _read_head(connection):
            head, rest = request
            if head.startswith(b"GET /large"):
                size = os.fstat(file.fileno()).st_size
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
                offset = 0
                while offset < size:
                    offset += os.sendfile(connection.fileno(), file.fileno(), offset, BLOCK)
                continue
            left = _length(head) - len(rest)
            while left > 0:
                left -= connection.recv_into(buffer, min(left, BLOCK))
            answer = (
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            )
            connection.sendall(answer % len(SMALL) + SMALL)


def _read_head(connection: socket.socket) -> tuple[bytes, bytes] | None:
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(65536)
        if not more:
            return None
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.split(b":")[1])
    return 0


class Asking:
    """A client with one connection, which does as little as can be."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection((HOST, port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray(BLOCK)

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def ask(self, target: str) -> None:
        """One GET; its answer is read and thrown away."""
        self._socket.sendall(f"GET {target} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
        self._answer()

    def send(self, target: str, file: Path) -> None:
        """One POST of a file."""
        size = file.stat().st_size
        head = f"POST {target} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {size}\r\n\r\n"
        self._socket.sendall(head.encode())
        with file.open("rb") as body:
            self._socket.sendfile(body)
        self._answer()

    def _answer(self) -> None:
        told = _read_head(self._socket)
        if told is None or not told[0].startswith(b"HTTP/1.1 200"):
            raise DaemonError(f"an unexpected answer: {told}")
        left = _length(told[0]) - len(told[1])
        while left > 0:
            left -= self._socket.recv_into(self._buffer, min(left, BLOCK))


@attrs.frozen
class Row:
    """One measure: seconds of each try, direct and through."""

    name: str
    direct: list[float]
    through: list[float]
    size: int = 0


def in_turns(
    name: str, ports: tuple[int, int], count: int, act: Callable[[Asking], None], size: int = 0
) -> Row:
    """Do something ``count`` times directly and through the gateway, each after the other."""
    row = Row(name, [], [], size)
    clients = [Asking(port) for port in ports]
    for client in clients:
        act(client)
    for _ in range(count):
        for client, times in zip(clients, (row.direct, row.through), strict=True):
            started = time.perf_counter()
            act(client)
            times.append(time.perf_counter() - started)
    for client in clients:
        client.close()
    return row


def table(rows: list[Row]) -> Table:
    """What was measured, for people."""
    shown = Table("measure", "direct", "through", "added (ms)", "p95 added (ms)")
    for row in rows:
        if row.size:
            rates = [f"{row.size / MB / median(t):,.0f} MB/s" for t in (row.direct, row.through)]
            shown.add_row(row.name, *rates, "", "")
            continue
        cells = [f"{median(t) * MS:.2f} ms" for t in (row.direct, row.through)]
        added = (median(row.through) - median(row.direct)) * MS
        late = (quantiles(row.through, n=20)[-1] - quantiles(row.direct, n=20)[-1]) * MS
        shown.add_row(row.name, *cells, f"{added:.2f}", f"{late:.2f}")
    return shown


@contextmanager
def origin(path: Path) -> Iterator[int]:
    """A server in a process of its own; gives its port."""
    listening = socket.create_server((HOST, 0))
    process = multiprocessing.get_context("fork").Process(
        target=serve, args=(listening, str(path)), daemon=True
    )
    process.start()
    try:
        yield listening.getsockname()[1]
    finally:
        process.terminate()
        process.join()
        listening.close()


def measure(folder: Path, megabytes: int, requests: int, tries: int) -> list[Row]:
    """All measures."""
    large = folder / "large"
    large.write_bytes(os.urandom(MB) * megabytes)
    size = large.stat().st_size
    with ExitStack() as stack:
        port = stack.enter_context(origin(large))
        store = {"Type": "Orthanc", "Url": f"http://{HOST}:{port}/"}
        gateway = Daemon("gateway", folder, free_ports(1)[0], {"Store": store})
        stack.callback(gateway.stop)
        gateway.start()
        ports = (port, gateway.port)
        rows = [
            in_turns("GET of 300 bytes", ports, requests, lambda c: c.ask("/small")),
            in_turns(f"GET of {megabytes} MB", ports, tries, lambda c: c.ask("/large"), size),
            in_turns(
                f"POST of {megabytes} MB", ports, tries, lambda c: c.send("/sink", large), size
            ),
        ]
    return rows + with_orthanc(folder, requests)


def with_orthanc(folder: Path, requests: int) -> list[Row]:
    """Small requests to a real Orthanc; none where it is not installed."""
    with ExitStack() as stack:
        orthanc = Orthanc("orthanc", folder, free_ports(1)[0], PLAIN)
        try:
            orthanc.start()
        except DaemonError as error:
            Console().print(f"Without Orthanc: {error}")
            return []
        stack.callback(orthanc.stop)
        store = in_front_of(orthanc)
        gateway = Daemon("before", folder, free_ports(1)[0], {"Store": store})
        stack.callback(gateway.stop)
        gateway.start()
        ports = (orthanc.port, gateway.port)
        return [in_turns("Orthanc's /system", ports, requests, lambda c: c.ask("/system"))]


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=512)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--tries", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-proxy-") as folder:
        rows = measure(Path(folder), given.megabytes, given.requests, given.tries)
        Console().print(table(rows))


if __name__ == "__main__":
    main()
