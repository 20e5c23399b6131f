"""Bad, broken and hostile requests: what each gets, and that it costs little and breaks nothing."""

import gzip
import json
import os
import struct
import tracemalloc
import zlib
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from tests.web.harness import Answer, Connection, FakePeer, House, make_dicom, md5
from txtransfers.store.memory import MemoryIncoming, MemoryStore
from txtransfers.transfer.streams import SLICE
from txtransfers.wire.messages import MAX_MESSAGE_SIZE
from txtransfers.wire.plan import Instance

MB = 2**20
FILE = make_dicom(1000, "1.2.3")
LARGE = make_dicom(5 * MB, "1.2.5")
ID = "a" * 8 + "-bbbbbbbb" * 4
"""What a push calls ``FILE``."""

OTHER = "c" * 8 + "-dddddddd" * 4
NOBODY = "00000000-0000-0000-0000-000000000000"
JSON = {"Content-Type": "application/json"}


def instance(id_: str = ID, data: bytes = FILE, **more: Any) -> dict[str, Any]:
    """An element of ``Instances``."""
    return {"ID": id_, "Size": str(len(data)), "MD5": md5(data), **more}


def chunk(id_: str = ID, offset: int = 0, size: int = len(FILE), **more: Any) -> dict[str, Any]:
    """An element of a bucket."""
    return {"ID": id_, "Offset": str(offset), "Size": str(size), **more}


def opening(
    instances: Sequence[Any] | None = None,
    buckets: Sequence[Any] | None = None,
    compression: str = "none",
) -> bytes:
    """The body that opens a push; of ``FILE``, in one bucket, unless told otherwise."""
    return json.dumps(
        {
            "Instances": [instance()] if instances is None else instances,
            "Buckets": [[chunk()]] if buckets is None else buckets,
            "Compression": compression,
        }
    ).encode()


def transfer(peer: str = "B", **more: Any) -> bytes:
    """The body of a submission."""
    body = {"Resources": [], "Compression": "none", "Peer": peer, **more}
    return json.dumps(body).encode()


class HostileCase(SynchronousTestCase):
    """Base of the tests below: a house, and what is asked of its answers."""

    def setUp(self) -> None:
        self.house = House(peers=[FakePeer("B")])

    def assert_refused(
        self, answer: Answer, status: int, code: int, *told: str, method: str = "", uri: str = ""
    ) -> None:
        """An error of the protocol, whose Details say each of ``told``."""
        self.assertEqual(status, answer.status, answer.body)
        self.assertEqual("text/plain", answer.header("Content-Type"))
        self.assertEqual("nosniff", answer.header("X-Content-Type-Options"))
        self.assertIsNone(answer.header("Server"))
        self.assertTrue(answer.whole)
        body = answer.json()
        self.assertEqual((status, code), (body["HttpStatus"], body["OrthancStatus"]), body)
        for name in ("HttpError", "Message", "Method", "OrthancError", "Uri"):
            self.assertIsInstance(body[name], str)
        if method:
            self.assertEqual((method, uri), (body["Method"], body["Uri"]))
        for text in told:
            self.assertIn(text, body["Details"])

    def open_push(self, body: bytes | None = None, house: House | None = None) -> str:
        """Open a push; gives its path."""
        house = house or self.house
        answer = house.request("POST", "/transfers/push", body or opening())
        self.assertEqual(200, answer.status, answer.body)
        return str(answer.json()["Path"])

    def ask(self, target: str) -> Connection:
        """Ask for something large, and read only its first 100 KB."""
        connection = self.house.connect()
        connection.stop_reading_after(100_000)
        connection.request("GET", target)
        return connection

    def assert_usable(self, path: str, body: bytes = FILE) -> None:
        """The push at ``path`` takes its bucket and its commit."""
        self.assertEqual(200, self.house.request("PUT", f"{path}/0", body).status)
        answer = self.house.request("POST", f"{path}/commit", b"")
        self.assertEqual((200, b"{}"), (answer.status, answer.body))


class BadRequestTests(HostileCase):
    """The table of the protocol, section 4, row by row."""

    def check(self, rows: Iterable[tuple[str, str, bytes | None, int, int, str]]) -> None:
        for method, target, body, status, code, told in rows:
            with self.subTest(f"{method} {target} {(body or b'')[:80]!r}"):
                answer = self.house.request(method, target, body)
                path = target.partition("?")[0]
                self.assert_refused(answer, status, code, told, method=method, uri=path)

    def test_bodies_of_the_wrong_form(self) -> None:
        lookup, push, pull = "/transfers/lookup", "/transfers/push", "/transfers/pull"
        no_id = {"Size": "1", "MD5": ""}
        self.check(
            [
                ("POST", lookup, b"", 400, 15, "empty"),
                ("POST", lookup, b"hello", 400, 15, "JSON"),
                ("POST", lookup, b'[{"Level":', 400, 15, "JSON"),
                ("POST", lookup, b"\xff\xfe", 400, 15, "JSON"),
                ("POST", lookup, b'{"Resources": []}', 400, 15, "array"),
                ("POST", lookup, b'[{"ID": "x"}]', 400, 15, "Level"),
                ("POST", lookup, b'[{"Level": "Study"}]', 400, 15, "ID"),
                ("POST", lookup, b'[{"Level": "Study", "ID": 5}]', 400, 15, "ID"),
                ("POST", push, b"[]", 400, 15, "object"),
                ("POST", push, opening(compression=None), 400, 15, "Compression"),  # type: ignore[arg-type]
                ("POST", push, opening([no_id]), 400, 15, "ID"),
                ("POST", push, opening([instance(Size=1000)]), 400, 15, "Size"),
                ("POST", push, opening([instance(Size="1e3")]), 400, 15, "1e3"),
                ("POST", push, opening([instance(Size="-1")]), 400, 15, "-1"),
                ("POST", push, opening([instance(Size=str(2**63))]), 400, 15, str(2**63)),
                ("POST", push, opening([instance(Size="9" * 30)]), 400, 15, "999"),
                ("POST", push, opening(buckets=[[chunk(Offset=0)]]), 400, 15, "Offset"),
                ("POST", push, opening(buckets=[[chunk(Size=str(2**63))]]), 400, 15, str(2**63)),
                ("POST", pull, transfer(Priority="1"), 400, 15, "Priority"),
                ("POST", pull, transfer(Originator=5), 400, 15, "Originator"),
                ("POST", pull, transfer(SenderTransferID=5), 400, 15, "SenderTransferID"),
            ]
        )

    def test_values_out_of_range(self) -> None:
        path = self.open_push()
        frame = b'[{"Level": "Frame", "ID": "x"}]'
        self.check(
            [
                ("POST", "/transfers/lookup", frame, 400, 3, "Frame"),
                ("POST", "/transfers/push", opening(compression="zstd"), 400, 3, "zstd"),
                ("POST", "/transfers/pull", transfer(Compression="GZIP"), 400, 3, "GZIP"),
                ("POST", "/transfers/send", transfer(Compression=""), 400, 3, "Compression"[1:]),
                ("POST", "/transfers/send", transfer(Priority=2**40), 400, 3, str(2**40)),
                ("GET", f"/transfers/chunks/{ID}?compression=lz4", None, 400, 3, "lz4"),
                ("PUT", f"{path}/7", FILE, 400, 3, "7"),
                ("PUT", f"{path}/99999999999999999999", FILE, 400, 3, "9999"),
            ]
        )
        self.assert_usable(path)

    def test_offsets_and_sizes_that_are_none(self) -> None:
        self.check(
            [
                ("GET", f"/transfers/chunks/{ID}?{argument}", None, 400, 5, argument)
                for name in ("offset", "size")
                for argument in (f"{name}=-1", f"{name}=abc", f"{name}=", f"{name}=1.5")
            ]
        )

    def test_unknown_things(self) -> None:
        path = self.open_push()
        levels = ("Patient", "Study", "Series", "Instance")
        rows = [
            (
                "POST",
                "/transfers/lookup",
                json.dumps([{"Level": level, "ID": OTHER}]).encode(),
                *(404, 17, OTHER),
            )
            for level in levels
        ]
        self.check(
            [
                *rows,
                ("GET", f"/transfers/chunks/{OTHER}", None, 404, 17, OTHER),
                ("POST", "/transfers/send", transfer("Z"), 404, 17, "Z"),
                ("POST", "/transfers/pull", transfer("b"), 404, 17, "OrthancPeers has B"),
                ("PUT", f"/transfers/push/{NOBODY}/0", FILE, 404, 17, NOBODY),
                ("POST", f"/transfers/push/{NOBODY}/commit", b"", 404, 17, NOBODY),
                ("DELETE", f"/transfers/push/{NOBODY}", None, 404, 17, NOBODY),
                ("GET", f"/transfers/push/{NOBODY}", None, 404, 17, NOBODY),
                ("GET", f"/transfers/push/{NOBODY}?verify=1", None, 404, 17, NOBODY),
                ("GET", "/transfers/push/nothing", None, 404, 17, "nothing"),
                ("PUT", f"{path}/x", FILE, 404, 17, "x"),
                ("PUT", f"{path}/-1", FILE, 404, 17, "-1"),
                ("GET", f"{path}/0/nothing", None, 404, 17, "route"),
                ("GET", "/nothing", None, 404, 17, "route"),
            ]
        )
        self.assert_usable(path)
        self.check(
            [
                ("PUT", f"{path}/0", FILE, 404, 17, path[-36:]),
                ("DELETE", path, None, 404, 17, path[-36:]),
            ]
        )
        again = self.house.request("POST", f"{path}/commit", b"")
        self.assertEqual((200, b"{}"), (again.status, again.body))

    def test_buckets_of_another_length(self) -> None:
        path = self.open_push()
        for body in (FILE[:-1], FILE + b"x", b""):
            answer = self.house.request("PUT", f"{path}/0", body)
            self.assert_refused(answer, 500, 9, "Bucket 0", "1000")
        self.assert_usable(path)

    def test_gzipped_buckets_of_another_length(self) -> None:
        path = self.open_push(opening(compression="gzip"))
        for data in (FILE[:-1], FILE + b"x", b""):
            answer = self.house.request("PUT", f"{path}/0", gzip.compress(data))
            self.assert_refused(answer, 500, 9, "Bucket 0", "1000")
        self.assert_usable(path, gzip.compress(FILE))

    def test_broken_gzip(self) -> None:
        path = self.open_push(opening(compression="gzip"))
        member = gzip.compress(FILE)
        crc, size = struct.unpack("<II", member[-8:])
        for name, body in (
            ("as it is", FILE),
            ("empty", b""),
            ("zlib", zlib.compress(FILE)),
            ("header only", member[:10]),
            ("truncated", member[:-20]),
            ("without its last byte", member[:-1]),
            ("wrong CRC", member[:-8] + struct.pack("<II", crc ^ 1, size)),
            ("wrong length", member[:-8] + struct.pack("<II", crc, size + 1)),
        ):
            with self.subTest(name):
                self.assert_refused(self.house.request("PUT", f"{path}/0", body), 400, 15, "gzip")
        self.assert_usable(path, member)

    def test_bytes_after_the_member_do_not_count(self) -> None:
        path = self.open_push(opening(compression="gzip"))
        self.assert_usable(path, gzip.compress(FILE) + b"\0" * 100_000)

    def test_plans_that_are_none(self) -> None:
        push = "/transfers/push"
        far = chunk(offset=990, size=11)
        halves = [[chunk(size=501)], [chunk(offset=500, size=500)]]
        rows = [
            (opening(buckets=[[far]]), "1001"),
            (opening(buckets=[[chunk(), chunk(OTHER)]]), OTHER),
            (opening(buckets=halves), "overlap"),
            (opening(buckets=[[chunk(), chunk()]]), "overlap"),
            (opening(buckets=[[chunk(size=999)]]), "Byte 999"),
            (opening(buckets=[]), "Byte 0"),
            (opening([instance(), instance()]), "twice"),
        ]
        self.check([("POST", push, body, 400, 15, told) for body, told in rows])
        for body, told in rows:
            details = self.house.request("POST", push, body).json()["Details"]
            self.assertIn(told if told == OTHER else ID, details)
        self.assertEqual(0, self.house.transactions.counters.created)

    def test_commits_of_what_is_not_there(self) -> None:
        path = self.open_push()
        commit = f"{path}/commit"
        self.assert_refused(self.house.request("POST", commit, b""), 500, 20, ID)
        self.house.request("PUT", f"{path}/0", bytes(1000))
        answer = self.house.request("POST", commit, b"")
        self.assert_refused(answer, 500, 20, ID, md5(FILE), md5(bytes(1000)))
        self.assertEqual({}, self.house.store.files)
        self.assert_usable(path)

    def test_commit_of_what_is_no_dicom_file(self) -> None:
        data = b"no DICOM file" * 100
        body = opening([instance(data=data)], [[chunk(size=len(data))]])
        path = self.open_push(body)
        self.assertEqual(200, self.house.request("PUT", f"{path}/0", data).status)
        self.assert_refused(self.house.request("POST", f"{path}/commit", b""), 400, 15, ID)

    def test_wrong_methods(self) -> None:
        for target, allowed in (
            ("/transfers/lookup", "POST"),
            ("/transfers/pull", "POST"),
            ("/transfers/send", "POST"),
            ("/transfers/push", "POST"),
            ("/transfers/peers", "GET"),
            (f"/transfers/chunks/{ID}", "GET"),
            (f"/transfers/push/{NOBODY}", "GET,DELETE"),
            (f"/transfers/push/{NOBODY}/0", "PUT"),
            (f"/transfers/push/{NOBODY}/commit", "POST"),
            ("/jobs", "GET"),
            (f"/jobs/{NOBODY}/pause", "POST"),
            (f"/jobs/{NOBODY}/receipt", "GET"),
            ("/system", "GET"),
        ):
            for method in {"GET", "POST", "PUT", "DELETE", "PATCH", "BREW"} - {*allowed.split(",")}:
                answer = self.house.request(method, target, b"{}")
                self.assertEqual(405, answer.status, f"{method} {target}")
                self.assertEqual((allowed, b""), (answer.header("Allow"), answer.body))
                self.assertIsNone(answer.header("Content-Type"))

    def test_head_and_options(self) -> None:
        id_ = self.house.store.add(FILE)
        for target in ("/transfers/lookup", "/transfers/push", f"/transfers/push/{NOBODY}"):
            for method in ("HEAD", "OPTIONS"):
                answer = self.house.request(method, target)
                self.assertEqual((404, b""), (answer.status, answer.body), f"{method} {target}")
        self.assertEqual(404, self.house.request("OPTIONS", "/transfers/peers").status)
        for compression in ("none", "gzip"):
            target = f"/transfers/chunks/{id_}?compression={compression}"
            head, get = self.house.request("HEAD", target), self.house.request("GET", target)
            self.assertEqual((200, b""), (head.status, head.body))
            for name in ("Content-Type", "ETag", "Cache-Control"):
                self.assertEqual(get.header(name), head.header(name))
            told = get.header("Content-Length") if compression == "none" else None
            self.assertEqual(told, head.header("Content-Length"), "nothing is compressed for it")

    def test_jobs(self) -> None:
        path = self.house.request("POST", "/transfers/send", transfer()).json()["Path"]
        id_ = path.removeprefix("/jobs/")
        self.check(
            [
                ("POST", f"{path}/resume", b"", 400, 6, id_),
                ("POST", f"{path}/resubmit", b"", 400, 6, "Running"),
                ("POST", f"/jobs/{NOBODY}/cancel", b"", 400, 6, NOBODY),
                ("GET", f"/jobs/{NOBODY}", None, 404, 17, NOBODY),
                ("GET", f"/jobs/{NOBODY}/receipt", None, 404, 17, NOBODY),
                ("GET", f"{path}/receipt", None, 404, 17, "Running"),
                ("POST", f"{path}/explode", b"", 404, 17, "route"),
            ]
        )


class UploadTests(HostileCase):
    """``POST /instances``, on the embedded store."""

    def setUp(self) -> None:
        self.folder = self.mktemp()
        self.house = House({"StorageDirectory": self.folder}, folder=self.folder)
        self.addCleanup(self.house.stop)

    def test_what_is_no_dicom_file(self) -> None:
        for body, told in ((b"", "empty"), (b"hello", "5 bytes"), (bytes(1000), "1000 bytes")):
            answer = self.house.request("POST", "/instances", body)
            self.assert_refused(answer, 400, 15, told, method="POST", uri="/instances")
        self.assertEqual([], self.house.request("GET", "/instances").json())

    def test_what_is_no_gzip(self) -> None:
        headers = {"Content-Encoding": "gzip"}
        for body in (FILE, gzip.compress(FILE)[:-3], b""):
            answer = self.house.request("POST", "/instances", body, headers)
            self.assertEqual((400, 15), (answer.status, answer.json()["OrthancStatus"]))
        answer = self.house.request("POST", "/instances", FILE, {"Content-Encoding": "br"})
        self.assert_refused(answer, 400, 5, "br")
        answer = self.house.request("POST", "/instances", gzip.compress(FILE), headers)
        self.assertEqual("Success", answer.json()["Status"])

    def test_numbers_that_are_none_or_too_large(self) -> None:
        for text in ("-1", "x", "", "1.5", str(2**62 + 1), str(2**64), "9" * 30):
            for name in ("since", "limit"):
                for target in ("/changes", "/studies", "/instances"):
                    answer = self.house.request("GET", f"{target}?{name}={text}")
                    self.assert_refused(answer, 400, 5, f"{name}={text}")
        largest = 2**62
        answer = self.house.request("GET", f"/changes?since={largest}&limit={largest}")
        self.assertEqual(200, answer.status)

    def test_nothing_is_left_of_an_upload_that_breaks_off(self) -> None:
        connection = self.house.connect()
        connection.request("POST", "/instances", FILE, {"Content-Length": "5000"})
        connection.leave()
        self.assertEqual([], self.house.request("GET", "/instances").json())
        self.assertEqual([], files_below(os.path.join(self.folder, "instances")))

    def test_identifiers_never_leave_the_folder(self) -> None:
        for id_ in HOSTILE_IDS:
            body = opening([instance(id_)], [[chunk(id_)]])
            answer = self.house.request("POST", "/transfers/push", body)
            self.assert_refused(answer, 400, 15, "identifier")
        self.assertEqual([], files_below(os.path.join(self.folder, "instances")))

    def test_paths_never_leave_the_folder(self) -> None:
        secret = os.path.join(self.folder, "secret")
        with open(secret, "w", encoding="utf-8") as file:
            file.write("secret")
        for path in ("../secret", "../../secret", os.path.abspath(secret), "..", "."):
            for encoded in (path.replace("/", "%2f"), path.replace(".", "%2e"), path):
                for target in (
                    f"/instances/{encoded}/file",
                    f"/instances/{encoded}/attachments/dicom/data",
                    f"/transfers/chunks/{encoded}",
                    f"/transfers/push/{encoded}/commit",
                    f"/{encoded}",
                ):
                    answer = self.house.request("GET", target)
                    self.assertIn(answer.status, (404, 405), target)
                    self.assertNotIn(b"secret\n", answer.body)


HOSTILE_IDS = (
    "..",
    "../../etc/passwd",
    "/etc/passwd",
    "a/b",
    "%2e%2e%2f",
    "..%2f",
    "",
    " ",
    ID.upper(),
    ID + "\n",
    ID + "\0",
    ID[:-1],
    "x" * 100_000,
)


def files_below(folder: str) -> list[str]:
    """All files in ``folder``, at any depth."""
    return [name for _path, _folders, names in os.walk(folder) for name in names]


class JsonTests(HostileCase):
    """JSON that is meant to cost."""

    def test_deep_nesting(self) -> None:
        for depth in (10_000, 1_000_000):
            nested = b"[" * depth + b"]" * depth
            for target, body in (
                ("/transfers/lookup", nested),
                ("/transfers/lookup", b"[" * depth),
                ("/transfers/lookup", b'{"a":' * depth),
                ("/transfers/lookup", b'[{"Level":"Study","ID":"x","More":' + nested + b"}]"),
                ("/transfers/push", b'{"Instances":' + nested + b"}"),
                ("/transfers/pull", b'{"Unknown":' + nested + b"}"),
            ):
                answer = self.house.request("POST", target, body)
                self.assert_refused(answer, 400, 15, "JSON")

    def test_long_comments_and_strings(self) -> None:
        for body in (b"/*" * MB, b'"' + b"\\" * MB, b"[" + b"," * MB, b"//" * MB):
            answer = self.house.request("POST", "/transfers/lookup", body)
            self.assert_refused(answer, 400, 15)

    def test_a_million_chunks(self) -> None:
        one = json.dumps(chunk(id_="x", size=0)).encode()
        body = opening(buckets=["HERE"]).replace(b'"HERE"', b"[" + b",".join([one] * 10**6) + b"]")
        answer = self.house.request("POST", "/transfers/push", body)
        self.assert_refused(answer, 400, 15, "Bucket 0", "1000000")

    def test_many_overlapping_chunks(self) -> None:
        chunks = [chunk(offset=n, size=2) for n in range(999)]
        answer = self.house.request("POST", "/transfers/push", opening(buckets=[chunks]))
        self.assert_refused(answer, 400, 15, "overlap", ID)

    def test_half_a_character(self) -> None:
        """JSON can escape what UTF-8 cannot carry."""
        body = b'[{"Level": "Study", "ID": "\\ud800"}]'
        answer = self.house.request("POST", "/transfers/lookup", body)
        self.assertIn(answer.status, (400, 404))
        self.assertIsInstance(answer.json()["Details"], str)

    def test_half_a_character_in_a_job(self) -> None:
        resources = [{"Level": "Study", "ID": "\ud800"}]
        answer = self.house.request("POST", "/transfers/send", transfer(Resources=resources))
        self.assertIn(answer.status, (200, 400))
        self.assertEqual(200, self.house.request("GET", "/jobs?expand").status)

    def test_control_characters_in_the_identifier_of_a_transfer(self) -> None:
        for text in ("a\r\nX-Evil: 1", "a\nb", "\0", "\x7f"):
            for route in ("/transfers/send", "/transfers/pull"):
                answer = self.house.request("POST", route, transfer(SenderTransferID=text))
                self.assert_refused(answer, 400, 15, "SenderTransferID")


class LengthTests(HostileCase):
    """Bodies that are longer, shorter or slower than they say."""

    def test_a_gzip_bomb_is_not_inflated(self) -> None:
        bomb = gzip.compress(bytes(64 * MB))
        path = self.open_push(opening(compression="gzip"))
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        answer = self.house.request("PUT", f"{path}/0", bomb)
        _now, peak = tracemalloc.get_traced_memory()
        self.assert_refused(answer, 500, 9, "Bucket 0", "1000")
        self.assertLess(peak, 4 * MB)
        self.assert_usable(path, gzip.compress(FILE))

    def test_a_body_over_64_mb_is_refused_before_it_comes(self) -> None:
        for target in ("/transfers/lookup", "/transfers/push", "/transfers/pull"):
            connection = self.house.connect()
            headers = {"Content-Length": str(MAX_MESSAGE_SIZE + 1)}
            connection.request("POST", target, None, headers)
            (answer,) = connection.answers()
            self.assert_refused(answer, 413, 15, str(MAX_MESSAGE_SIZE))

    def test_a_chunked_body_over_64_mb_is_refused_when_it_has_come_so_far(self) -> None:
        connection = self.house.connect()
        connection.request("POST", "/transfers/lookup", None, {"Transfer-Encoding": "chunked"})
        piece = b"%x\r\n%b\r\n" % (MB, b" " * MB)
        for _ in range(MAX_MESSAGE_SIZE // MB):
            connection.send(piece)
        self.assertEqual([], connection.answers())
        connection.send(piece)
        (answer,) = connection.answers()
        self.assert_refused(answer, 413, 15, str(MAX_MESSAGE_SIZE))

    def test_a_body_much_longer_than_the_bucket_is_not_read_to_its_end(self) -> None:
        path = self.open_push()
        connection = self.house.connect()
        connection.request("PUT", f"{path}/0", None, {"Content-Length": str(10 * 2**30)})
        sent = 0
        while connection.is_read and sent < 100 * MB and not connection.wire.write_closed:
            connection.send(bytes(MB))
            sent += MB
        self.assertLess(sent, 40 * MB)
        (answer,) = connection.answers()
        self.assert_refused(answer, 500, 9, "Bucket 0", "1000")
        connection.send(bytes(MB))  # in the void
        self.house.clock.advance(5)
        self.assertFalse(connection.is_open)
        self.assert_usable(path)

    def test_a_body_that_ends_before_its_length(self) -> None:
        path = self.open_push()
        connection = self.house.connect()
        connection.request("PUT", f"{path}/0", FILE[:500], {"Content-Length": "1000"})
        connection.leave()
        self.assertEqual(b"", connection.received())
        self.assert_usable(path)

    def test_what_follows_a_body_is_another_request(self) -> None:
        path = self.open_push()
        connection = self.house.connect()
        connection.request("PUT", f"{path}/0", FILE + b"garbage\r\n", {"Content-Length": "1000"})
        first, second = connection.answers()
        self.assertEqual((200, 400), (first.status, second.status))
        self.assertFalse(connection.is_open)

    def test_lengths_that_are_none(self) -> None:
        path = self.open_push()
        for headers in (
            {"Content-Length": "-1"},
            {"Content-Length": "1e3"},
            {"Content-Length": "1000", "Transfer-Encoding": "chunked"},
            {"Transfer-Encoding": "gzip, chunked"},
        ):
            connection = self.house.connect()
            connection.request("PUT", f"{path}/0", None, headers)
            self.assertEqual([400], [answer.status for answer in connection.answers()])
            self.assertFalse(connection.is_open)
        self.assert_usable(path)

    def test_a_client_that_falls_silent_is_given_up(self) -> None:
        path = self.open_push()
        silent = self.house.connect()
        silent.request("PUT", f"{path}/0", FILE[:500], {"Content-Length": "1000"})
        self.assertEqual(1, self.house.transactions.bodies.held)
        self.house.clock.pump([10] * 10)
        self.assertFalse(silent.is_open)
        self.assertEqual(0, self.house.transactions.bodies.held)
        self.assert_usable(path)

    def test_headers_that_never_end(self) -> None:
        connection = self.house.connect()
        connection.send(b"GET / HTTP/1.1\r\n", "GET")
        for n in range(10_000):
            connection.send(b"X-%d: aaaaaaaaaaaaaaaaaaaaaa\r\n" % n)
        self.assertEqual([400], [answer.status for answer in connection.answers()])
        self.assertFalse(connection.is_open)

    def test_a_url_that_never_ends(self) -> None:
        connection = self.house.connect()
        connection.send(b"GET /", "GET")
        for _ in range(10):
            connection.send(b"a" * 10_000)
        self.assertEqual([400], [answer.status for answer in connection.answers()])
        self.assertFalse(connection.is_open)


class HttpTests(HostileCase):
    """What HTTP allows."""

    def test_chunked_bodies_byte_by_byte(self) -> None:
        path = self.open_push()
        connection = self.house.connect()
        connection.request("PUT", f"{path}/0", None, {"Transfer-Encoding": "chunked"})
        for start in range(0, 1000, 300):
            part = FILE[start : start + 300]
            for byte in b"%X;extension=1\r\n%b\r\n" % (len(part), part):
                connection.send(bytes([byte]))
        self.assertEqual([], connection.answers())
        connection.send(b"0\r\n\r\n")
        self.assertEqual([200], [answer.status for answer in connection.answers()])
        self.assertEqual(200, self.house.request("POST", f"{path}/commit", b"").status)

    def test_broken_chunked_bodies(self) -> None:
        path = self.open_push()
        for body in (b"xyz\r\n", b"5\r\nabcdefgh\r\n", b"-5\r\n"):
            connection = self.house.connect()
            connection.request("PUT", f"{path}/0", body, {"Transfer-Encoding": "chunked"})
            self.assertEqual([400], [answer.status for answer in connection.answers()])
            self.assertFalse(connection.is_open)
            self.assertEqual(0, self.house.transactions.bodies.held)
        self.assert_usable(path)

    def test_expect_continue(self) -> None:
        path = self.open_push()
        connection = self.house.connect()
        headers = {"Expect": "100-continue", "Content-Length": "1000"}
        connection.request("PUT", f"{path}/0", None, headers)
        self.assertEqual([100], [answer.status for answer in connection.answers()])
        connection.send(FILE)
        self.assertEqual([100, 200], [answer.status for answer in connection.answers()])

    def test_pipelined_requests(self) -> None:
        id_ = self.house.store.add(FILE)
        path = self.open_push()
        connection = self.house.connect()
        get = f"GET /transfers/chunks/{id_}?size=10 HTTP/1.1\r\n\r\n".encode()
        put = f"PUT {path}/0 HTTP/1.1\r\nContent-Length: 1000\r\n\r\n".encode() + FILE
        commit = f"POST {path}/commit HTTP/1.1\r\nContent-Length: 0\r\n\r\n".encode()
        connection.send(get + put + b"\r\n" + commit + get, "GET", "PUT", "POST", "GET")
        answers = connection.answers()
        self.assertEqual([200] * 4, [answer.status for answer in answers])
        told = [answer.body for answer in answers]
        self.assertEqual([FILE[:10], b"{}", b"{}", FILE[:10]], told)
        self.assertTrue(connection.is_open)

    def test_a_body_that_nobody_wants_leaves_the_connection_usable(self) -> None:
        connection = self.house.connect()
        target = f"/transfers/push/{NOBODY}/0"
        connection.request("PUT", target, None, {"Content-Length": str(3 * MB)})
        self.assertEqual([404], [answer.status for answer in connection.answers()])
        connection.send(bytes(3 * MB))
        connection.request("GET", "/plugins")
        self.assertEqual([404, 200], [answer.status for answer in connection.answers()])

    def test_slashes_and_percent_encoding(self) -> None:
        path = self.open_push()
        identifier = path.rsplit("/", 1)[1]
        for target in (
            f"//transfers//push//{identifier}//0",
            f"/%74ransfers/push/{identifier.replace('-', '%2D')}/%30/",
            f"{path}/00",
            f"{path}/0?anything=1&else",
        ):
            self.assertEqual(200, self.house.request("PUT", target, FILE).status, target)
        self.assertEqual(200, self.house.request("POST", f"/{path}//commit//", b"x=1").status)

    def test_forms_are_no_forms(self) -> None:
        for kind in ("application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
            path = self.open_push()
            self.house.request("PUT", f"{path}/0", FILE, {"Content-Type": kind})
            answer = self.house.request("POST", f"{path}/commit", b"a=b", {"Content-Type": kind})
            self.assertEqual(200, answer.status)

    def test_an_older_client(self) -> None:
        id_ = self.house.store.add(FILE)
        connection = self.house.connect()
        connection.request("GET", f"/transfers/chunks/{id_}", version="HTTP/1.0")
        (answer,) = connection.answers()
        self.assertEqual((200, FILE), (answer.status, answer.body))
        self.assertFalse(connection.is_open)

    def test_without_keep_alive(self) -> None:
        connection = House({"KeepAlive": False}).connect()
        connection.request("GET", "/plugins")
        (answer,) = connection.answers()
        self.assertEqual((200, "close"), (answer.status, answer.header("Connection")))
        self.assertFalse(connection.is_open)

    def test_an_idle_connection_is_closed(self) -> None:
        connection = self.house.connect()
        connection.request("GET", "/plugins")
        self.house.clock.pump([10] * 10)
        self.assertFalse(connection.is_open)


USER = {"RemoteAccessAllowed": True, "RegisteredUsers": {"alice": "sécret"}}


def basic(user: str, password: str) -> dict[str, str]:
    """The header that tells who one is."""
    return {"Authorization": "Basic " + b64encode(f"{user}:{password}".encode()).decode()}


class AccessTests(HostileCase):
    """Who may come in."""

    def test_passwords(self) -> None:
        house = House(USER)
        guests = (f"10.0.0.{number}" for number in range(1, 250))  # who fails has to wait
        for headers in (
            {},
            basic("alice", "wrong"),
            basic("alice", ""),
            basic("bob", "sécret"),
            basic("", ""),
            {"Authorization": "Basic !!!"},
            {"Authorization": "Basic"},
            {"Authorization": "Bearer " + "x" * 1000},
            {"Authorization": "Basic " + b64encode(b"\xff\xfe:\xff").decode()},
        ):
            for method, target in (("GET", "/plugins"), ("HEAD", "/nothing"), ("BREW", "/system")):
                answer = house.request(method, target, headers=headers, host=next(guests))
                self.assertEqual((401, b""), (answer.status, answer.body), headers)
                self.assertEqual(
                    'Basic realm="Orthanc Secure Area"', answer.header("WWW-Authenticate")
                )
                self.assertEqual("nosniff", answer.header("X-Content-Type-Options"))
        for host in ("10.0.0.1", "127.0.0.1"):
            answer = house.request("GET", "/plugins", headers=basic("alice", "sécret"), host=host)
            self.assertEqual(200, answer.status)

    def test_without_a_password_no_body_is_taken(self) -> None:
        house = House(USER)
        connection = house.connect("10.0.0.1")
        connection.request("POST", "/instances", None, {"Content-Length": str(10 * 2**30)})
        self.assertEqual([401], [answer.status for answer in connection.answers()])

    def test_other_hosts_are_turned_away(self) -> None:
        for host in ("10.0.0.1", "192.168.1.1", "2001:db8::1", "fe80::1%eth0"):
            connection = self.house.connect(host)
            connection.request("POST", "/transfers/push", None, {"Content-Length": "1000"})
            (answer,) = connection.answers()
            self.assertEqual((403, b""), (answer.status, answer.body), host)
        for host in ("127.0.0.1", "127.9.9.9", "::1"):
            self.assertEqual(200, self.house.request("GET", "/plugins", host=host).status, host)

    def test_a_header_does_not_make_one_local(self) -> None:
        headers = {"X-Forwarded-For": "127.0.0.1", "Host": "localhost"}
        answer = self.house.request("GET", "/plugins", headers=headers, host="10.0.0.1")
        self.assertEqual(403, answer.status)


class SlowReaderTests(HostileCase):
    """Clients that take their answer slowly, or not at all."""

    def test_reading_stops_with_the_reader(self) -> None:
        id_ = self.house.store.add(LARGE)
        connection = self.ask(f"/transfers/chunks/{id_}")
        self.assertLess(len(connection.received()), 100_000 + 3 * SLICE)
        before = len(connection.received())
        self.house.clock.advance(30)
        self.assertEqual(before, len(connection.received()))
        connection.read_on()
        (answer,) = connection.answers()
        self.assertEqual(LARGE, answer.body)
        self.assertTrue(connection.is_open)

    def test_a_reader_that_never_goes_on_is_given_up(self) -> None:
        id_ = self.house.store.add(LARGE)
        connection = self.ask(f"/transfers/chunks/{id_}")
        self.house.clock.pump([10] * 10)
        self.assertFalse(connection.is_open)

    def test_a_slow_reader_is_not_given_up(self) -> None:
        id_ = self.house.store.add(LARGE)
        connection = self.ask(f"/transfers/chunks/{id_}")
        while connection.wire.room < 6 * MB:  # type: ignore[operator]
            self.house.clock.advance(50)
            connection.read_on(len(connection.received()) + 100_000)
            if connection.answers()[0].whole:
                break
        self.assertEqual(LARGE, connection.answers()[0].body)

    def test_a_reader_that_leaves(self) -> None:
        id_ = self.house.store.add(LARGE)
        connection = self.ask(f"/transfers/chunks/{id_}")
        connection.leave()
        self.assertEqual([], self.flushLoggedErrors())
        self.assertEqual([], self.house.clock.getDelayedCalls())


class VanishingTests(HostileCase):
    """Instances that go, or shrink, while they are being read: never a 200 with fewer bytes."""

    def setUp(self) -> None:
        super().setUp()
        self.id_ = self.house.store.add(LARGE)

    def assert_cut(self, connection: Connection) -> None:
        self.assertTrue(connection.wire.aborted)
        self.assertFalse(connection.is_open)
        (answer,) = connection.answers()
        self.assertEqual((200, False), (answer.status, answer.whole))

    def test_deleted_in_the_middle(self) -> None:
        connection = self.ask(f"/transfers/chunks/{self.id_}")
        del self.house.store.files[self.id_]
        connection.read_on()
        self.assert_cut(connection)

    def test_truncated_in_the_middle(self) -> None:
        connection = self.ask(f"/transfers/chunks/{self.id_}")
        self.house.store.files[self.id_] = LARGE[:-1]
        connection.read_on()
        self.assert_cut(connection)

    def test_deleted_in_the_middle_of_a_gzipped_answer(self) -> None:
        """One that is too large to be made whole: its length is not told."""
        data = make_dicom(17 * MB, "1.2.17")
        id_ = self.house.store.add(data)
        connection = self.ask(f"/transfers/chunks/{id_}?compression=gzip")
        del self.house.store.files[id_]
        connection.read_on()
        self.assert_cut(connection)
        self.house.store.add(data)
        answer = self.house.request("GET", f"/transfers/chunks/{id_}?compression=gzip")
        self.assertIsNone(answer.header("Content-Length"))
        self.assertEqual(data, gzip.decompress(answer.body))

    def test_deleted_before_the_first_byte(self) -> None:
        real = self.house.store.open

        def vanish(chunks: Any, md5s: Any) -> Any:
            self.house.store.files.pop(self.id_, None)
            return real(chunks, md5s)

        self.house.store.open = vanish
        for compression in ("none", "gzip"):
            self.house.store.add(LARGE)
            target = f"/transfers/chunks/{self.id_}?compression={compression}"
            self.assert_refused(self.house.request("GET", target), 404, 17, self.id_)


class VanishingFilesTests(HostileCase):
    """The same, on the embedded store."""

    def setUp(self) -> None:
        self.folder = self.mktemp()
        self.house = House({"StorageDirectory": self.folder}, folder=self.folder)
        self.addCleanup(self.house.stop)
        self.id_ = self.house.request("POST", "/instances", LARGE).json()["ID"]

    def test_truncated_in_the_middle(self) -> None:
        for route in (f"/transfers/chunks/{self.id_}", f"/instances/{self.id_}/file"):
            connection = self.ask(route)
            self.resize(len(LARGE) - 1)
            connection.read_on()
            self.assertTrue(connection.wire.aborted)
            (answer,) = connection.answers()
            self.assertEqual((200, False), (answer.status, answer.whole))
            self.resize(len(LARGE))

    def test_truncated_before(self) -> None:
        self.resize(10)
        answer = self.house.request("GET", f"/transfers/chunks/{self.id_}")
        self.assert_refused(answer, 500, 14)

    def resize(self, size: int) -> None:
        for path, _folders, names in os.walk(os.path.join(self.folder, "instances")):
            for name in names:
                os.truncate(os.path.join(path, name), size)


class SlowStore(MemoryStore):
    """A store whose disk takes as long as the test wants."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[Deferred[None]] = []

    def _receive(
        self, instances: tuple[Instance, ...], name: str, note: bytes, delta: bool
    ) -> MemoryIncoming:
        incoming = super()._receive(instances, name, note, delta)
        real = incoming.write

        def write(pieces: Any) -> Deferred[None]:
            real(pieces)
            self.writes.append(Deferred())
            return self.writes[-1]

        incoming.write = write  # type: ignore[method-assign]
        return incoming

    def release(self) -> None:
        """The disk has done all it was given."""
        while self.writes:
            self.writes.pop(0).callback(None)


class SlowDiskTests(HostileCase):
    """Bodies that come faster than they can be written."""

    def setUp(self) -> None:
        self.store = SlowStore()
        self.house = House(store=self.store)

    def open_large(self, data: bytes) -> str:
        return self.open_push(opening([instance(data=data)], [[chunk(size=len(data))]]))

    def test_the_socket_is_read_no_faster_than_the_disk(self) -> None:
        path = self.open_large(LARGE)
        connection = self.house.connect()
        connection.request("PUT", f"{path}/0", LARGE)
        self.assertFalse(connection.is_read)
        self.assertGreater(connection.flush(), 2 * MB)
        self.house.clock.pump([100] * 10)
        self.assertTrue(connection.is_open, "a slow disk is not the client's fault")
        while connection.flush():
            self.store.release()
        self.store.release()
        self.store.release()
        self.assertEqual([200], [answer.status for answer in connection.answers()])

    def test_the_disk_may_be_slow_after_the_last_byte_too(self) -> None:
        """Where the last bytes that came were just too many at once."""
        data = make_dicom(3 * SLICE, "1.2.8")
        path = self.open_large(data)
        connection = self.house.connect()
        connection.request("PUT", f"{path}/0", None, {"Content-Length": str(len(data))})
        connection.send(data)
        self.assertEqual(0, connection.flush())
        self.assertFalse(connection.is_read, "the last bytes were not too many: no test")
        while self.store.writes:
            self.house.clock.pump([10] * 20)
            self.assertTrue(connection.is_open, "cut while the disk was busy")
            self.store.writes.pop(0).callback(None)
            self.house.clock.advance(0)
        self.assertEqual([200], [answer.status for answer in connection.answers()])
        self.house.clock.pump([10] * 10)
        self.assertFalse(connection.is_open, "an idle connection is closed")

    def test_a_client_that_falls_silent_after_a_pause_is_given_up(self) -> None:
        path = self.open_large(LARGE)
        connection = self.house.connect()
        connection.request("PUT", f"{path}/0", None, {"Content-Length": str(len(LARGE))})
        connection.send(LARGE[: 3 * SLICE])
        self.assertFalse(connection.is_read)
        self.store.release()
        self.store.release()
        self.assertTrue(connection.is_read)
        self.house.clock.pump([10] * 10)
        self.assertFalse(connection.is_open)
        self.assertEqual(0, self.house.transactions.bodies.held)

    def test_a_client_that_leaves_while_the_disk_is_busy(self) -> None:
        path = self.open_large(LARGE)
        connection = self.house.connect()
        connection.request("PUT", f"{path}/0", LARGE)
        connection.leave()
        self.store.release()
        self.assertEqual(0, self.house.transactions.bodies.held)
        self.assertEqual([], self.flushLoggedErrors())
        again = self.house.connect()
        again.request("PUT", f"{path}/0", LARGE)
        while again.flush() or self.store.writes:
            self.store.release()
        self.assertEqual([200], [answer.status for answer in again.answers()])


class MeanwhileTests(HostileCase):
    """Requests that cross each other."""

    def start(self, path: str) -> Connection:
        """Send the first half of a bucket."""
        connection = self.house.connect()
        connection.request("PUT", f"{path}/0", FILE[:500], {"Content-Length": "1000"})
        return connection

    def test_deleted_while_a_bucket_comes(self) -> None:
        path = self.open_push()
        connection = self.start(path)
        self.assertEqual(200, self.house.request("DELETE", path).status)
        connection.send(FILE[500:])
        (answer,) = connection.answers()
        self.assert_refused(answer, 404, 17, path[-36:])
        self.assertEqual(0, self.house.transactions.bodies.held)

    def test_deleted_slowly_while_a_bucket_comes(self) -> None:
        path = self.open_push()
        connection = self.start(path)
        incoming = next(iter(self.house.transactions._transactions.values()))._incoming
        gone: Deferred[None] = Deferred()
        incoming.discard = lambda: gone  # type: ignore[method-assign]
        deleting = self.house.connect()
        deleting.request("DELETE", path)
        connection.send(FILE[500:])
        (answer,) = connection.answers()
        self.assert_refused(answer, 404, 17, path[-36:])
        gone.callback(None)
        self.assertEqual([200], [answer.status for answer in deleting.answers()])

    def test_committed_while_a_bucket_comes(self) -> None:
        path = self.open_push()
        connection = self.start(path)
        answer = self.house.request("POST", f"{path}/commit", b"")
        self.assert_refused(answer, 500, 20, ID)
        connection.send(FILE[500:])
        self.assertEqual([200], [answer.status for answer in connection.answers()])
        self.assertEqual(200, self.house.request("POST", f"{path}/commit", b"").status)

    def test_the_same_bucket_twice_at_once(self) -> None:
        path = self.open_push()
        first, second = self.start(path), self.start(path)
        second.send(FILE[500:])
        first.send(FILE[500:])
        for connection in (first, second):
            self.assertEqual([200], [answer.status for answer in connection.answers()])
        self.assertEqual(200, self.house.request("POST", f"{path}/commit", b"").status)

    def test_a_client_that_leaves_in_the_middle(self) -> None:
        path = self.open_push()
        self.start(path).leave()
        self.assertEqual(0, self.house.transactions.bodies.held)
        self.assertEqual([], self.flushLoggedErrors())
        self.assert_usable(path)

    def test_more_bodies_than_there_is_memory_for_wait(self) -> None:
        path = self.open_push()
        waiting = [self.start(path) for _ in range(12)]
        self.assertEqual(8, self.house.transactions.bodies.held)
        waiting[-1].leave()
        for connection in waiting[:-1]:
            connection.send(FILE[500:])
        for connection in waiting[:-1]:
            self.assertEqual([200], [answer.status for answer in connection.answers()])
        self.assertEqual(0, self.house.transactions.bodies.held)

    def test_a_fifth_push_waits_for_its_turn(self) -> None:
        paths = [self.open_push() for _ in range(4)]
        answer = self.house.request("POST", "/transfers/push", opening())
        self.assert_refused(answer, 503, 6, "MaxPushTransactions")
        self.assertLessEqual(int(answer.header("Retry-After") or "x"), 60)
        self.assert_usable(paths[0])
        self.open_push()

    def test_a_push_that_cannot_fit(self) -> None:
        self.house.store.room = 999
        answer = self.house.request("POST", "/transfers/push", opening())
        self.assert_refused(answer, 507, 19, "1000", "999")
        self.assertEqual(4, self.house.transactions.available)

    def test_a_terabyte(self) -> None:
        size = 2**40
        body = opening([instance(Size=str(size))], [[chunk(size=size)]])
        answer = self.house.request("POST", "/transfers/push", body)
        self.assert_refused(answer, 507, 19, str(size))


class DefectTests(HostileCase):
    """Errors that nobody thought of."""

    def setUp(self) -> None:
        super().setUp()
        self.events: list[Mapping[str, Any]] = []
        globalLogPublisher.addObserver(self.events.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.events.append)

    def test_an_unknown_error_has_an_incident(self) -> None:
        self.house.store.lookup = self.fail_oddly
        answer = self.house.request("POST", "/transfers/lookup", b"[]")
        self.assert_refused(answer, 500, -1, "incident")
        self.assertNotIn("odd", answer.json()["Details"])
        (failure,) = self.flushLoggedErrors(OddError)
        self.assertIn("fail_oddly", failure.getTraceback())
        (incident,) = {event["incident"] for event in self.events if "incident" in event}
        self.assertIn(incident, answer.json()["Details"])

    def test_an_unknown_error_in_the_middle_of_an_answer_cuts_it(self) -> None:
        id_ = self.house.store.add(LARGE)
        connection = self.ask(f"/transfers/chunks/{id_}")
        self.house.store.files = Odd()
        connection.read_on()
        self.assertTrue(connection.wire.aborted)
        self.assertFalse(connection.answers()[0].whole)
        self.flushLoggedErrors(OddError)

    def test_an_unknown_error_while_a_bucket_comes(self) -> None:
        path = self.open_push()
        incoming = next(iter(self.house.transactions._transactions.values()))._incoming
        real, incoming.write = incoming.write, self.fail_oddly  # type: ignore[method-assign]
        answer = self.house.request("PUT", f"{path}/0", FILE)
        self.assert_refused(answer, 500, -1, "incident")
        self.assertEqual(1, len(self.flushLoggedErrors(OddError)))
        incoming.write = real  # type: ignore[method-assign]
        self.assert_usable(path)

    def fail_oddly(self, *args: Any) -> Any:
        raise OddError("odd")


class OddError(Exception):
    """Nobody thought of it."""


@attrs.define
class Odd(dict):  # type: ignore[type-arg]
    """A dictionary that cannot be looked into."""

    def __contains__(self, key: object) -> bool:
        raise OddError("odd")
