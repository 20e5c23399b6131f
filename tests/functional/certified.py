"""Daemons that speak TLS, a CA of the test's own, and whoever wants to look at what they say."""

import json
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trustme

from demo import dataset
from demo.daemon import Daemon, free_ports
from tests.functional.live import HOST, WAIT_S, LiveTestCase, study_of
from tests.real_parts import need


class CertifiedCase(LiveTestCase):
    """``ca.pem`` is trusted by clients, ``server.pem`` is shown by daemons; both in the folder."""

    def setUp(self) -> None:
        super().setUp()
        self.ca = trustme.CA()
        self.ca.cert_pem.write_to_path(str(self.folder / "ca.pem"))
        self.server = self.issue("server.pem", HOST, "localhost")
        self.context = ssl.create_default_context(cafile=str(self.folder / "ca.pem"))

    def issue(self, name: str, *identities: str, ca: trustme.CA | None = None, **more: Any) -> Path:
        """A certificate and its key, in a file of that name."""
        path = self.folder / name
        issued = (ca or self.ca).issue_cert(*identities, **more)
        issued.private_key_and_cert_chain_pem.write_to_path(str(path))
        return path

    def tls(self, **more: Any) -> dict[str, Any]:
        """The settings of a daemon with TLS both ways."""
        return {
            "SslEnabled": True,
            "SslCertificate": str(self.folder / "server.pem"),
            "HttpsCACertificates": str(self.folder / "ca.pem"),
            **more,
        }

    def certified(
        self, a: dict[str, Any] | None = None, b: dict[str, Any] | None = None, **b_as_peer: Any
    ) -> tuple[Daemon, Daemon]:
        """Two daemons by TLS. :param b_as_peer: further keys of B in A's OrthancPeers."""
        port_a, port_b = free_ports(2)
        url_b = f"https://{HOST}:{port_b}/"
        peers_a = {
            "B": {"Url": url_b, **b_as_peer},
            "B-pulls": {"Url": url_b, "RemoteSelf": "A", **b_as_peer},
        }
        peers_b = {"A": [f"https://{HOST}:{port_a}/"]}
        return (
            self.start("A", port_a, **(self.tls(OrthancPeers=peers_a) | (a or {}))),
            self.start("B", port_b, **(self.tls(OrthancPeers=peers_b) | (b or {}))),
        )

    def client_of(self, url: str, **settings: Any) -> tuple[Daemon, dict[str, Any], Any]:
        """A daemon without TLS of its own whose peer B is at ``url``, and holds a study."""
        ca = {"HttpsCACertificates": str(self.folder / "ca.pem")}
        peers = {"OrthancPeers": {"B": [url]}}
        daemon = self.start("A", free_ports(1)[0], **(ca | peers | settings))
        uploaded = self.upload(daemon, self.files())
        return daemon, uploaded, study_of(next(iter(uploaded.values())))

    def files(self, count: int = 6, kilobytes: int = 100) -> list[Path]:
        """A series."""
        folder = self.folder / f"ct-{count}"
        folder.mkdir()
        return dataset.ct_series(folder, count, kilobytes, 1)

    def s_client(self, port: int, *arguments: str, said: str = "Q\n") -> str:
        """What ``openssl s_client`` prints."""
        done = subprocess.run(
            [
                *(need(self, "openssl"), "s_client", "-connect", f"{HOST}:{port}"),
                *("-CAfile", str(self.folder / "ca.pem"), *arguments),
            ],
            input=said,
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=False,
        )
        return done.stdout + done.stderr

    def curl(self, port: int, *arguments: str, path: str = "/system") -> Any:
        """What ``curl`` makes of it: the process, with the status in its output."""
        return subprocess.run(
            [
                *(need(self, "curl"), "-sS", "--cacert", str(self.folder / "ca.pem")),
                *("-o", "/dev/null", "-w", "%{http_code}", *arguments),
                f"https://{HOST}:{port}{path}",
            ],
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=False,
        )


class Listener:
    """A server of the test's own, one thread a connection; ``close`` ends it."""

    def __init__(self, serve: Callable[[socket.socket], None]) -> None:
        self._serve = serve
        self._listener = socket.create_server((HOST, 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _address = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._run, args=(connection,), daemon=True).start()

    def _run(self, connection: socket.socket) -> None:
        connection.settimeout(WAIT_S)
        with connection:
            try:
                self._serve(connection)
            except OSError:
                return

    def close(self) -> None:
        """Accept no more."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


class ForwardProxy(Listener):
    """A proxy for CONNECT and for whole addresses, that asks for a user where ``login`` is given.

    :ivar asked: the first lines that came, with their ``Proxy-Authorization``.
    """

    def __init__(self, login: str = "", refuse: int = 0) -> None:
        self._login = login
        self._refuse = refuse
        self.asked: list[tuple[str, str]] = []
        super().__init__(self._handle)

    def _handle(self, client: socket.socket) -> None:
        file = client.makefile("rb")
        head = []
        while (line := file.readline()) not in (b"\r\n", b""):
            head.append(line.decode().rstrip())
        named = dict(line.partition(": ")[::2] for line in head[1:])
        lower = {name.lower(): value for name, value in named.items()}
        given = lower.get("proxy-authorization", "")
        self.asked.append((head[0], given))
        method, target, version = head[0].split(" ")
        status = self._refuse or (407 if self._login and given != self._login else 0)
        if status:
            client.sendall(f"{version} {status} No\r\nContent-Length: 0\r\n\r\n".encode())
            return
        if method == "CONNECT":
            host, _, port = target.rpartition(":")
            upstream = socket.create_connection((host, int(port)))
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            place, _, path = target.removeprefix("http://").partition("/")
            host, _, port = place.rpartition(":")
            upstream = socket.create_connection((host, int(port)))
            lines = [f"{method} /{path} {version}"]
            lines += [x for x in head[1:] if not x.lower().startswith(("proxy-", "connection"))]
            lines += ["Connection: close", "", ""]
            upstream.sendall("\r\n".join(lines).encode())
        with upstream:
            threading.Thread(target=self._pass, args=(file, upstream), daemon=True).start()
            while data := upstream.recv(65536):
                client.sendall(data)

    def _pass(self, source: Any, target: socket.socket) -> None:
        try:
            while data := source.read1(65536):
                target.sendall(data)
        except (OSError, ValueError):
            return


def write_json(path: Path, value: Any) -> Path:
    """Write a configuration."""
    path.write_text(json.dumps(value))
    return path
