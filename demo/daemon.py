"""Starts, asks and stops real daemons, for the demonstration and the benchmarks.

A daemon here is ``twistd txtransfers`` in a process of its own, on a free loopback port, with its
store, configuration and log in one folder. Whoever starts a pair stops it: ``with pair(folder)``.
It may also run elsewhere on this machine, as on a host of ``bench.wan``: see ``Place``.
"""

import contextlib
import http.client
import json
import os
import random
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 30
"""How long a daemon may take until it answers."""
STOP_SECONDS = 60
"""How long a daemon may take to end after SIGTERM."""
ANSWER_SECONDS = 300
"""How long one answer may take: a big upload is synced to the disk before it comes."""
BLOCK_SIZE = 1024 * 1024
"""Bytes read from a file at a time when it is uploaded."""
HOST = "127.0.0.1"
_PORTS = range(12_000, 32_000)
ENDED = ("Success", "Failure")

Json = Any


class DaemonError(Exception):
    """A daemon did not start, stop or answer as it should."""


class AnswerError(DaemonError):
    """A daemon answered with something else than 200."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Place(Protocol):
    """Where on this machine a daemon runs."""

    @property
    def address(self) -> str:
        """The address of the daemon's URL."""

    @property
    def prefix(self) -> Sequence[str]:
        """What a command begins with that is to run there."""

    def connect(self, address: tuple[str, int], timeout: float) -> socket.socket:
        """Return a connection to an address as it is seen from there."""


class Loopback:
    """The place of whoever asks."""

    address = HOST
    prefix: Sequence[str] = ()

    def connect(self, address: tuple[str, int], timeout: float) -> socket.socket:
        """Return a connection that takes no detour."""
        return socket.create_connection(address, timeout)


class _Connection(http.client.HTTPConnection):
    def __init__(
        self, place: Place, port: int, timeout: float, context: ssl.SSLContext | None
    ) -> None:
        super().__init__(place.address, port, timeout=timeout, blocksize=BLOCK_SIZE)
        self._place = place
        self._seconds = timeout
        self._context = context

    def connect(self) -> None:
        self.sock = self._place.connect((self.host, self.port), self._seconds)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._context is not None:
            self.sock = self._context.wrap_socket(self.sock, server_hostname=self.host)


class Client:
    """A daemon's REST API over one kept connection. Not for use by several threads."""

    def __init__(
        self,
        port: int,
        place: Place | None = None,
        timeout: float = ANSWER_SECONDS,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self._port = port
        self._context = context
        self._place = place or Loopback()
        self._timeout = timeout
        self._connection: http.client.HTTPConnection | None = None

    def get(self, path: str) -> Json:
        """Return the JSON at this path."""
        return json.loads(self.request("GET", path))

    def post(self, path: str, value: Json) -> Json:
        """Send a JSON value; return the answer's."""
        headers = {"Content-Type": "application/json"}
        return json.loads(self.request("POST", path, json.dumps(value).encode(), headers))

    def upload(self, path: Path) -> Json:
        """Store a DICOM file, streamed from the disk; return what the daemon tells of it."""
        headers = {"Content-Type": "application/dicom", "Content-Length": str(path.stat().st_size)}
        with path.open("rb") as file:
            return json.loads(self.request("POST", "/instances", file, headers))

    def request(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> bytes:
        """Return the body of a 200 answer; fail with AnswerError for any other status."""
        kept = self._connection is not None
        try:
            status, answer = self._exchange(method, path, body, headers or {})
        except (ConnectionError, http.client.BadStatusLine):
            self.close()
            if not kept:
                raise
            # The daemon closed the idle connection meanwhile: that is its right, ask again.
            if hasattr(body, "seek"):
                body.seek(0)
            status, answer = self._exchange(method, path, body, headers or {})
        if status != 200:
            text = answer[:500].decode(errors="replace")
            message = f"{method} {path} at port {self._port}: status {status}, {text}"
            raise AnswerError(status, message)
        return answer

    def close(self) -> None:
        """Let the connection go; the next request opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _exchange(
        self, method: str, path: str, body: Any, headers: dict[str, str]
    ) -> tuple[int, bytes]:
        if self._connection is None:
            self._connection = _Connection(self._place, self._port, self._timeout, self._context)
        self._connection.request(method, path, body, headers)
        response = self._connection.getresponse()
        return response.status, response.read()

    def lookup(self, resources: Json) -> dict[str, tuple[str, int]]:
        """Return {instance: (MD5, size)} of these resources; AnswerError where one is not here."""
        answer = self.post("/transfers/lookup", resources)
        return {each["ID"]: (each["MD5"], int(each["Size"])) for each in answer["Instances"]}

    def wait_for_job(
        self, job: str, interval: float, watch: Callable[[Json], None] = lambda _: None
    ) -> Json:
        """Ask for a job every ``interval`` seconds until it ended; return it as it ended."""
        while True:
            state = self.get(f"/jobs/{job}")
            watch(state)
            if state["State"] in ENDED:
                return state
            time.sleep(interval)


class Daemon:
    """One ``twistd txtransfers``: its process, its folder, its API."""

    def __init__(
        self,
        name: str,
        folder: Path,
        port: int,
        settings: dict[str, Json],
        place: Place | None = None,
        context: ssl.SSLContext | None = None,
    ) -> None:
        """Make one; ``context`` is for asking it, where it speaks TLS."""
        self.name = name
        self.port = port
        self.place = place or Loopback()
        self.url = f"http{'s' if context else ''}://{self.place.address}:{port}/"
        self.client = Client(port, self.place, context=context)
        self._folder = folder / name
        self._log = self._folder / "daemon.log"
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process identifier."""
        if self._process is None:
            raise DaemonError(f"daemon {self.name} was not started")
        return self._process.pid

    def start(self) -> None:
        """Start the process and wait until it answers."""
        self._folder.mkdir(parents=True)
        configuration = self._folder / f"{self.name}.json"
        store = self._folder / "store"
        own = {"Name": self.name, "HttpPort": self.port, "StorageDirectory": str(store)}
        configuration.write_text(json.dumps(own | self._settings, indent=2), encoding="utf-8")
        command = [*self.place.prefix, *self.command(configuration)]
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self._folder,
                env=os.environ | {"PYTHONPATH": path},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C is for us alone: we stop the daemons in order.
                start_new_session=True,
            )
        self._wait_until_it_answers()

    def command(self, configuration: Path) -> Sequence[str]:
        """Return the program and its arguments."""
        twistd = Path(sys.executable).parent / "twistd"
        if not twistd.exists():
            raise DaemonError(f"{twistd} is missing: install Twisted where {sys.executable} is")
        return (str(twistd), "--nodaemon", "--pidfile=", "txtransfers", "-c", str(configuration))

    def _wait_until_it_answers(self) -> None:
        process, deadline = self._process, time.monotonic() + START_SECONDS
        while process is not None and process.poll() is None:
            try:
                self.client.get("/system")
                return
            except AnswerError:
                return  # it answers, if only that it wants a password
            except (OSError, http.client.HTTPException):
                pass
            self.client.close()
            if time.monotonic() > deadline:
                raise DaemonError(f"daemon {self.name} gave no answer in {START_SECONDS} s")
            time.sleep(0.05)
        self._process = None
        code = None if process is None else process.returncode
        raise DaemonError(
            f"daemon {self.name} ended at its start, with exit code {code}: {self.log_tail(3)}"
        )

    def stop(self) -> None:
        """End the process by SIGTERM; fail with DaemonError where it does not end well."""
        process, self._process = self._process, None
        self.client.close()
        if process is None:
            return
        early = process.poll()
        if early is not None:
            raise DaemonError(f"daemon {self.name} had ended before, with exit code {early}")
        process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise DaemonError(f"daemon {self.name} ran on {STOP_SECONDS} s after SIGTERM") from None
        # twistd ends an orderly stop by giving itself the signal that asked for it.
        if code not in (0, -signal.SIGTERM):
            raise DaemonError(f"daemon {self.name} stopped with exit code {code}")

    def log_tail(self, lines: int = 40) -> str:
        """Return the last lines of the daemon's log."""
        if not self._log.exists():
            return ""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-lines:])

    def memory(self, name: str) -> int:
        """Return a line of /proc/PID/status in KB, as VmRSS or VmHWM."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1])
        raise DaemonError(f"/proc/{self.pid}/status has no {name}")

    def reset_peak_memory(self) -> None:
        """Make VmHWM start again at what is used now."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")


def free_ports(count: int) -> list[int]:
    """Return so many loopback ports that nobody listens on.

    They are none of those that the kernel gives to connections: until they are used, nobody else
    should have them.
    """
    found: list[int] = []
    while len(found) < count:
        port = random.choice(_PORTS)
        with contextlib.suppress(OSError), socket.socket() as tried:
            tried.bind((HOST, port))
            if port not in found:
                found.append(port)
    return found


def peers_of(name: str, other: str, url: str) -> dict[str, Json]:
    """Return a peer twice: as OTHER for push mode, as OTHER-pull with RemoteSelf for pull mode."""
    return {other: [url], f"{other}-pull": {"Url": url, "RemoteSelf": name}}


@contextlib.contextmanager
def pair(
    folder: Path, context: ssl.SSLContext | None = None, **settings: Json
) -> Iterator[tuple[Daemon, Daemon]]:
    """Run two daemons, A and B, each a peer of the other; stop both in any case.

    With ``context`` they are reached by TLS, which ``settings`` must ask for.
    """
    port_a, port_b = free_ports(2)
    scheme = "https" if context else "http"
    url_a, url_b = (f"{scheme}://{HOST}:{port}/" for port in (port_a, port_b))
    a = Daemon(
        "A", folder, port_a, {"OrthancPeers": peers_of("A", "B", url_b)} | settings, None, context
    )
    b = Daemon(
        "B", folder, port_b, {"OrthancPeers": peers_of("B", "A", url_a)} | settings, None, context
    )
    try:
        with contextlib.ExitStack() as stack:
            for daemon in (a, b):
                stack.callback(daemon.stop)
                daemon.start()
            yield a, b
    except BaseException as error:
        for daemon in (a, b):
            error.add_note(f"--- end of the log of daemon {daemon.name}\n{daemon.log_tail()}")
        raise
