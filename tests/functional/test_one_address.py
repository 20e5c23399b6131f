"""One address for a real Orthanc and for us: everything passes, both ways, and says who it is from.

In memory, and in detail: ``tests/web/test_gateway.py``.
"""

import http.client
import os
import signal
import socket
import subprocess
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import repeat
from typing import Any

from demo import dataset
from demo.daemon import Daemon, free_ports
from demo.orthanc import Orthanc
from tests.dicom_files import make
from tests.functional.gateways import GatewayTestCase
from tests.functional.live import HOST, ask, md5, peer_url, study_of, wait_until
from tests.real_parts import need

LARGE_MB = 48
MB = 2**20


def is_listening(port: int) -> bool:
    """Whether somebody does. A process that was killed may have ended before all its threads."""
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def login(pair: str) -> dict[str, str]:
    """The header of a user and a password."""
    return {"Authorization": f"Basic {b64encode(pair.encode()).decode()}"}


class OneAddressTests(GatewayTestCase):
    def one(self, host: str = HOST) -> tuple[Orthanc, Daemon]:
        orthanc = self.orthanc("A")
        url = f"http://{host}:{orthanc.port}/"
        return orthanc, self.gateway("A", orthanc, Store={"Url": url})

    def same(
        self, orthanc: Orthanc, gateway: Daemon, method: str, path: str, body: Any = None
    ) -> Any:
        """Both answer the same; gives that."""
        past, through = (ask(port, method, path, body) for port in (orthanc.port, gateway.port))
        self.assertEqual((past.status, past.body), (through.status, through.body), path)
        hop = {"connection", "keep-alive", "transfer-encoding", "content-length"}
        for name in set(past.headers) - hop:
            self.assertEqual(past.headers[name], through.headers.get(name), f"{path}: {name}")

    def test_the_same_answers(self) -> None:
        orthanc, gateway = self.one("localhost")
        data = make(1, patient="Müller", SpecificCharacterSet="ISO_IR 100")
        told = ask(gateway.port, "POST", "/instances", data).json
        path = told["Path"]
        for method, target, body in (
            ("GET", "/system", None),
            ("GET", "/", None),
            ("GET", "/app/explorer.html", None),
            ("GET", "/app/libs/jquery.min.js", None),
            ("GET", f"{path}/file", None),
            ("GET", f"{path}/tags?simplify", None),
            ("GET", f"{path}/content/0010-0010", None),
            ("GET", f"{path}%2Ffile", None),
            ("GET", "/changes?since=0&limit=5", None),
            ("GET", "/instances/nothing", None),
            ("GET", "/nothing/at%20all?x=%ff", None),
            ("HEAD", "/system", None),
            ("OPTIONS", "/system", None),
            ("DELETE", "/instances/nothing", None),
            ("PUT", "/tools/nothing", b"x"),
            ("POST", "/tools/lookup", b"P1"),
            ("POST", "/tools/find", b'{"Level":"Study","Query":{"PatientID":"*"}}'),
            ("POST", "/instances", b"no DICOM"),
        ):
            self.same(orthanc, gateway, method, target, body)
        archive = ask(gateway.port, "GET", f"/studies/{told['ParentStudy']}/archive")
        self.assertEqual(
            ("application/zip", b"PK"), (archive.headers["content-type"], archive.body[:2])
        )

    def test_large_bodies_both_ways(self) -> None:
        _orthanc, gateway = self.one()
        path = dataset.multiframe(self.folder / "large.dcm", LARGE_MB, 1)
        data = path.read_bytes()
        gateway.reset_peak_memory()
        before = gateway.memory("VmHWM")
        told = ask(gateway.port, "POST", "/instances", data).json
        self.assertEqual("Success", told["Status"])
        pieces = [data[start : start + MB] for start in range(0, len(data), MB)]
        chunked = ask(gateway.port, "POST", "/instances", iter(pieces)).json
        self.assertEqual("AlreadyStored", chunked["Status"])
        back = ask(gateway.port, "GET", f"{told['Path']}/file")
        self.assertEqual(md5(data), md5(back.body))
        grown = (gateway.memory("VmHWM") - before) / 1024
        self.assertLess(grown, LARGE_MB / 2, "no body is held whole")

    def test_curl_waits_for_leave(self) -> None:
        curl = need(self, "curl")
        _orthanc, gateway = self.one()
        path = self.folder / "one.dcm"
        path.write_bytes(make(1, filler=2 * MB))
        command = [curl, "-sv", "--expect100-timeout", "30", "-H", "Expect: 100-continue"]
        command += ["--data-binary", f"@{path}", f"{gateway.url}instances"]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        self.assertIn("HTTP/1.1 100 Continue", ended.stderr)
        self.assertIn('"Success"', ended.stdout)

    def test_orthanc_asks_who_comes(self) -> None:
        users = {"AuthenticationEnabled": True, "RegisteredUsers": {"alice": "secret"}}
        orthanc = self.orthanc("A", **users)
        store = {"Username": "alice", "Password": "secret"}
        gateway = self.gateway("A", orthanc, Store=store)
        for headers, status in (({}, 401), (login("alice:no"), 401), (login("alice:secret"), 200)):
            for path in ("/system", "/instances", "/app/explorer.html", "/jobs", "/peers"):
                answer = ask(gateway.port, "GET", path, headers=headers)
                self.assertEqual(status, answer.status, path)
                if status == 401:
                    self.assertIn("Basic realm", answer.headers["www-authenticate"])
        self.assertEqual(["transfers"], ask(gateway.port, "GET", "/plugins").json)

    def test_an_open_orthanc_is_closed_where_we_are(self) -> None:
        users = {"AuthenticationEnabled": True, "RegisteredUsers": {"bob": "secret"}}
        orthanc = self.orthanc("A")
        gateway = self.start(
            "A", free_ports(1)[0], Store={"Type": "Orthanc", "Url": orthanc.url}, **users
        )
        for path in ("/system", "/instances", "/transfers/peers", "/jobs"):
            self.assertEqual(401, ask(gateway.port, "GET", path).status, path)
            known = ask(gateway.port, "GET", path, headers=login("bob:secret"))
            self.assertEqual(200, known.status, path)

    def test_orthanc_comes_and_goes(self) -> None:
        orthanc, gateway = self.one()
        self.kill(orthanc)
        wait_until(lambda: not is_listening(orthanc.port), "nobody listens there")
        answer = ask(gateway.port, "GET", "/system")
        self.assertEqual(502, answer.status)
        self.assert_says(answer.json["Details"], orthanc.url, "connection refused")
        self.assertEqual([], ask(gateway.port, "GET", "/jobs").json)
        self.orthanc("A", orthanc.port)
        self.assertEqual(200, ask(gateway.port, "GET", "/system").status)

    def test_orthanc_ends_in_the_middle(self) -> None:
        orthanc, gateway = self.one()
        path = dataset.multiframe(self.folder / "large.dcm", LARGE_MB, 1)
        told = ask(gateway.port, "POST", "/instances", path.read_bytes()).json
        connection = http.client.HTTPConnection(HOST, gateway.port, timeout=60)
        self.addCleanup(connection.close)
        connection.request("GET", f"{told['Path']}/file")
        response = connection.getresponse()
        response.read(MB)
        os.kill(orthanc.pid, signal.SIGKILL)
        self._ended.append(orthanc)
        with self.assertRaises((http.client.IncompleteRead, ConnectionError)):
            response.read()

    def test_its_own_peers_can_be_used(self) -> None:
        port_b = free_ports(1)[0]
        peers = {
            "B": [peer_url(port_b)],
            "locked": [peer_url(port_b), "carol", "secret"],
            "ours": [peer_url(1)],
        }
        orthanc = self.orthanc("A", OrthancPeers=peers)
        other = self.start("B", port_b)
        gateway = self.gateway("A", orthanc, OrthancPeers={"ours": [peer_url(port_b)]})
        self.assertEqual(["B", "locked", "ours"], sorted(gateway.client.get("/peers")))
        self.assertEqual(peer_url(port_b), gateway.client.get("/peers?expand")["ours"]["Url"])
        self.assertIn("both have ours: ours are used", gateway.log_tail())
        seen = {"B": "installed", "ours": "installed"}
        self.assertEqual(seen, gateway.client.get("/transfers/peers"))
        uploaded = self.upload(gateway, dataset.shipped(2))
        for told in uploaded.values():
            self.transfer(gateway, "send", study_of(told), "B")
        self.assert_holds(other, uploaded)
        wanted = {"Resources": [], "Compression": "none", "Peer": "locked"}
        body = str(wanted).replace("'", '"').encode()
        answer = ask(gateway.port, "POST", "/transfers/send", body)
        self.assertEqual(400, answer.status)
        self.assert_says(answer.json["Details"], '"locked"', "carol", "not its password")


class Stream:
    """A server that answers with bytes without end, and counts what it could send."""

    def __init__(self) -> None:
        self._listening = socket.create_server((HOST, 0))
        self.port = self._listening.getsockname()[1]
        self.sent = 0
        self.broken = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            with connection:
                if b" /stream " in connection.recv(65536):
                    self._stream(connection)
                else:
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    def _stream(self, connection: socket.socket) -> None:
        try:
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            for block in repeat(bytes(65536)):
                self.sent += connection.send(block)
        except OSError:
            self.broken.set()

    def close(self) -> None:
        self._listening.close()


class BackpressureTests(GatewayTestCase):
    @contextmanager
    def streaming(self) -> Iterator[tuple[Stream, socket.socket]]:
        stream = Stream()
        self.addCleanup(stream.close)
        store = {"Type": "Orthanc", "Url": peer_url(stream.port)}
        gateway = self.start("A", free_ports(1)[0], Store=store)
        with socket.create_connection((HOST, gateway.port)) as client:
            client.sendall(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
            yield stream, client

    def test_a_reader_that_stops_then_goes_away(self) -> None:
        with self.streaming() as (stream, client):
            client.recv(1000)

            def stands_still() -> bool:
                before = stream.sent
                return not stream.broken.wait(0.3) and stream.sent == before > 0

            wait_until(stands_still, "the stream stands still")
            self.assertLess(stream.sent, 32 * MB)
            self.assertFalse(stream.broken.is_set())
            at_rest = stream.sent
            while stream.sent < at_rest + 16 * MB:
                self.assertTrue(client.recv(MB))
        self.assertTrue(stream.broken.wait(10), "who goes away takes the other along")
