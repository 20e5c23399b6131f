"""Too many, too slow, too large, over real sockets: the daemon goes on answering, in its memory."""

import contextlib
import json
import socket
import threading
from collections.abc import Iterator, Sequence
from http.client import HTTPException
from pathlib import Path

from demo.daemon import Daemon, free_ports
from tests.dicom_files import make
from tests.functional.certified import CertifiedCase
from tests.functional.live import HOST, LiveTestCase, ask, peer_url, study_of, wait_until

MB = 2**20
OTHERS = "127.0.0.2"
"""From where the floods come."""

ANSWER_S = 10.0
"""How long an answer may take in the middle of a flood, on a machine that does much else."""


def resident(daemon: Daemon) -> int:
    """Bytes of memory that a daemon has."""
    for line in Path(f"/proc/{daemon.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


def connect(port: int, data: bytes = b"") -> socket.socket:
    """A connection of :data:`OTHERS` that has sent some bytes."""
    found = socket.socket()
    found.settimeout(ANSWER_S)
    found.bind((OTHERS, 0))
    found.connect((HOST, port))
    if data:
        found.sendall(data)
    return found


def is_cut(connection: socket.socket) -> bool:
    """Whether the other side has ended it; what it said does not count."""
    connection.setblocking(False)
    try:
        while True:
            if not connection.recv(65536):
                return True
    except BlockingIOError:
        return False
    except OSError:
        return True


class OverloadCase(LiveTestCase):
    """Base: two daemons, of which B is flooded."""

    def begin(self, limits: dict[str, object], **b: object) -> None:
        self.a, self.b = self.pair(b={"Limits": limits, **b})
        paths = [self.folder / f"{n}.dcm" for n in range(40)]
        for n, path in enumerate(paths):
            path.write_bytes(make(SOPInstanceUID=f"1.2.{n}") + bytes([n]) * 50_000)
        self.uploaded = self.upload(self.a, paths)
        self.study = study_of(next(iter(self.uploaded.values())))

    def many(self, count: int, data: bytes = b"") -> list[socket.socket]:
        found = [connect(self.b.port, data) for _ in range(count)]
        for each in found:
            self.addCleanup(each.close)
        return found

    def assert_answers(self) -> None:
        """At once, or soon after it was turned away: who has just come is not closed for us."""
        wait_until(self.is_answered, "an answer", ANSWER_S)

    def is_answered(self) -> bool:
        try:
            return ask(self.b.port, "GET", "/system").status == 200
        except (OSError, HTTPException):  # too many were told so already: it is just closed
            return False

    def assert_transfers(self, **more: object) -> None:
        self.transfer(self.a, "send", self.study, **more)
        self.assert_holds(self.b, self.uploaded)

    @contextlib.contextmanager
    def meanwhile(self, work: "Sequence[object]") -> Iterator[None]:
        """Call each of these, again and again, in a thread of its own."""
        ending = threading.Event()

        def run(each: object) -> None:
            while not ending.is_set():
                with contextlib.suppress(OSError):
                    each()  # type: ignore[operator]

        threads = [threading.Thread(target=run, args=(each,)) for each in work]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            ending.set()
            for thread in threads:
                thread.join()


class FloodTests(OverloadCase):
    def test_connections_that_are_left_open_and_openings_without_end(self) -> None:
        self.begin({"MaxConnections": 200, "HeaderTimeout": 3600})
        before = resident(self.b)
        idle = self.many(150)
        trickling = self.many(150, b"GET /system HTTP/1.1\r\nX: ")

        def trickle() -> None:
            for each in trickling:
                with contextlib.suppress(OSError):
                    each.send(b"x")

        def open_one() -> None:
            connect(self.b.port).close()

        def ask_half() -> None:
            connect(self.b.port, b"POST /transfers/lookup HTTP/1.1\r\nContent-Le").close()

        with self.meanwhile([trickle, open_one, ask_half]):
            for _ in range(5):
                self.assert_answers()
            self.assert_transfers(Compression="gzip")
        self.assertLess(resident(self.b) - before, 100 * MB)
        cut = sum(map(is_cut, idle + trickling))
        self.assertGreaterEqual(cut, 100)
        self.assertIn("Limits.MaxConnections: ", self.log(self.b))
        self.assertLess(self.log(self.b).count("\n"), 500)

    def log(self, daemon: Daemon) -> str:
        return "".join(
            path.read_text() for path in self.folder.glob(f"life-*/{daemon.name}/daemon.log")
        )

    def test_slow_clients_are_given_up(self) -> None:
        self.begin({"HeaderTimeout": 0.5})
        slow = self.many(20) + self.many(20, b"GET /sys")
        wait_until(lambda: all(map(is_cut, slow)), "the end of those that are slow")
        self.assert_answers()

    def test_where_all_connections_are_busy_one_more_gets_503(self) -> None:
        self.begin({"MaxConnections": 20, "MinimumBodyRate": 0})
        head = b"POST /transfers/lookup HTTP/1.1\r\nHost: b\r\nContent-Length: 100000\r\n\r\n["
        self.b.client.close()
        busy = self.many(20, head)
        answer = wait_until(self.turned_away, "a refusal")
        self.assertEqual("2", answer.headers["retry-after"])
        self.assertIn("MaxConnections", answer.json["Details"])
        job = self.submit(self.a, "send", self.study)  # is turned away, and comes again
        for each in busy:
            each.close()
        self.wait_for(self.a, job)
        self.assert_holds(self.b, self.uploaded)

    def turned_away(self) -> object:
        answer = ask(self.b.port, "PUT", "/transfers/push/x/0", bytes(3 * MB))
        return answer if answer.status == 503 else None

    def test_large_messages_one_after_the_other(self) -> None:
        self.begin({"MaxMessageSize": 4, "MaxUploads": 64})
        before = resident(self.b)
        body = b"[" + b" " * (4 * MB - 2) + b"]"
        bad = b'{"Instances":[],"Compression":"none","Buckets":[' + b"[]," * (5 * MB // 4)
        statuses: list[int] = []

        def post(path: str, data: bytes) -> None:
            statuses.append(ask(self.b.port, "POST", path, data).status)

        threads = [
            threading.Thread(target=post, args=each)
            for each in [("/transfers/lookup", body)] * 20 + [("/transfers/push", bad)] * 20
        ]
        for thread in threads:
            thread.start()
        self.assert_answers()
        for thread in threads:
            thread.join()
        self.assertEqual([200] * 20 + [400] * 20, sorted(statuses))
        self.assertLess(resident(self.b) - before, 120 * MB)

    def test_answers_that_nobody_reads(self) -> None:
        self.begin({"MaxDownloads": 8}, Transfers={"CacheSize": 16})
        self.assert_transfers()
        large = self.folder / "large.dcm"
        large.write_bytes(make(SOPInstanceUID="1.3") + bytes(12 * MB))
        id_ = self.b.client.upload(large)["ID"]
        before = resident(self.b)
        for compression in ("none", "gzip"):
            head = (
                f"GET /transfers/chunks/{id_}?compression={compression} HTTP/1.1\r\nHost: b\r\n\r\n"
            )
            self.many(50, head.encode())
        self.assert_answers()
        self.assertLess(resident(self.b) - before, 120 * MB)


class SenderTests(OverloadCase):
    """A txtransfers that sends more at once than the other takes: it comes again, and succeeds."""

    def test_more_bodies_than_are_taken(self) -> None:
        self.begin({"MaxUploads": 2})
        self.more_than_is_taken("MaxUploads")

    def test_more_connections_than_are_taken(self) -> None:
        self.begin({"MaxConnectionsPerAddress": 6})
        self.more_than_is_taken("")

    def more_than_is_taken(self, limit: str) -> None:
        (port,) = free_ports(1)
        sender = self.start(
            "S",
            port,
            OrthancPeers={"B": [peer_url(self.b.port)]},
            Transfers={"Threads": 16, "BucketSize": 64},
        )
        self.upload(sender, [told["File"] for told in self.uploaded.values()])
        self.b.client.close()
        for compression in ("none", "gzip"):
            self.transfer(sender, "send", self.study, Compression=compression)
            if compression == "none":
                self.b.client.request("DELETE", f"/studies/{self.study[0]['ID']}")
                self.b.client.close()
        self.assert_holds(self.b, self.uploaded)

    def test_what_it_is_told(self) -> None:
        self.begin({"MaxInstances": 3, "MaxStagingSize": 1})
        text = self.failure(self.a, "send", self.study)
        self.assert_says(text, "40 instances", "3", "MaxInstances")
        large = self.folder / "large.dcm"
        large.write_bytes(make(StudyInstanceUID="1.4", SOPInstanceUID="1.3") + bytes(2 * MB))
        told = self.upload(self.a, [large])
        text = self.failure(self.a, "send", study_of(next(iter(told.values()))))
        self.assert_says(text, "MaxStagingSize", str(MB))
        self.assertEqual([], json.loads(self.b.client.request("GET", "/instances")))


class TlsTests(CertifiedCase):
    def test_one_who_never_begins_with_tls(self) -> None:
        (port,) = free_ports(1)
        daemon = self.start("A", port, **self.tls(Limits={"HeaderTimeout": 0.5}))
        half_a_hello = b"\x16\x03\x01\x02\x00\x01\x00"
        slow = [connect(daemon.port), connect(daemon.port, half_a_hello)]
        for each in slow:
            self.addCleanup(each.close)
        wait_until(lambda: all(map(is_cut, slow)), "the end of those that are slow")
        self.assertTrue(daemon.client.get("/system")["IsHttpServerSecure"])
