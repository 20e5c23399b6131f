"""Requests that two readers could read differently: none is answered but with 400, and the end."""

import json
import os
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock, StringTransport

from tests.web.fake_orthanc import make_house
from tests.web.harness import FakePeer, House, make_dicom, peer_settings
from tests.web.test_hostile import HostileCase
from txtransfers.errors import PeerNonsense
from txtransfers.threads import SynchronousThreads
from txtransfers.transfer.asking import Asking
from txtransfers.transfer.link import Link
from txtransfers.transfer.peers import Peer
from txtransfers.wire.codec import Codec
from txtransfers.wire.pushes import PushRequest

HIDDEN = b"DELETE /studies/x HTTP/1.1\r\nHost: a\r\n\r\n"
"""What somebody would like to have asked in the name of the next client."""


def post(*headers: bytes, body: bytes = b"", version: bytes = b"1.1") -> bytes:
    head = b"".join(header + b"\r\n" for header in (b"Host: a", *headers))
    return b"POST /transfers/lookup HTTP/" + version + b"\r\n" + head + b"\r\n" + body


class SmugglingTests(HostileCase):
    def refused(self, data: bytes, what: object) -> None:
        connection = self.house.connect()
        connection.send(data, "POST", "DELETE")
        statuses = [answer.status for answer in connection.answers()]
        self.assertEqual([400], statuses, what)
        self.assertFalse(connection.is_open, what)
        self.assertEqual([], self.flushLoggedErrors(), what)

    def test_two_lengths(self) -> None:
        chunked = b"0\r\n\r\n" + HIDDEN
        for headers in (
            (b"Content-Length: 5", b"Transfer-Encoding: chunked"),
            (b"Transfer-Encoding: chunked", b"Content-Length: 5"),
            (b"Content-Length: 0", b"Content-Length: %d" % len(HIDDEN)),
            (b"Content-Length: 2", b"Content-Length: 2"),
            (b"Content-Length: 2, 2",),
            (b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
            (b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"),
            (b"Transfer-Encoding: identity", b"Content-Length: 5"),
        ):
            self.refused(post(*headers, body=chunked), headers)

    def test_codings_that_are_not_quite_chunked(self) -> None:
        for value in (
            b"xchunked", b"chunked, identity", b"chunked,chunked", b"gzip, chunked", b"\x0bchunked",
            b"chunked\x00", b"'chunked'", b"", b"identity", b"chunked;q=1",
        ):  # fmt: skip
            header = b"Transfer-Encoding: " + value
            self.refused(post(header, body=b"0\r\n\r\n" + HIDDEN), header)

    def test_an_old_version_has_no_chunks(self) -> None:
        data = post(b"Transfer-Encoding: chunked", body=b"0\r\n\r\n" + HIDDEN, version=b"1.0")
        self.refused(data, "HTTP/1.0")

    def test_lengths_that_are_no_numbers(self) -> None:
        for value in (b"+2", b"-2", b"0x2", b"2_0", b"2 2", b"1e1", b"\xb2", b"", b"9" * 5000):
            self.refused(post(b"Content-Length: " + value, body=b"[]" + HIDDEN), value[:20])

    def test_header_lines_that_are_none(self) -> None:
        for line in (
            b"Content-Length : 2", b"Content-Length\t: 2", b": 2", b"no colon", b"X\x00: y",
            b"X: y\x00z", b"X: y\rz", b"X: y\nContent-Length: 40", b"X Y: z",
        ):  # fmt: skip
            self.refused(post(line, body=b"[]" + HIDDEN), line)

    def test_headers_that_go_on_in_the_next_line(self) -> None:
        for lines in (
            (b"Transfer-Encoding:", b" chunked"), (b"X: y", b"\tContent-Length: 40"),
            (b"Content-Length: 4", b" 0"), (b"X: y", b" "), (b"X: y", b" z"),
        ):  # fmt: skip
            self.refused(post(*lines, body=b"[]" + HIDDEN), lines)
        before_any = b"GET /system HTTP/1.1\r\n Host: a\r\n\r\n" + HIDDEN
        self.refused(before_any, "there is none that could go on")

    def test_lines_that_end_in_a_line_feed_alone(self) -> None:
        for data in (
            b"GET /system HTTP/1.1\nHost: a\n\n" + HIDDEN,
            b"POST /transfers/lookup HTTP/1.1\r\nHost: a\nContent-Length: 2\r\n\r\n[]" + HIDDEN,
            b"POST /transfers/lookup HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\n\r\n"
            b"0\r\n\r\n" + HIDDEN,
        ):
            connection = self.house.connect()
            connection.send(data, "POST", "DELETE")
            statuses = [answer.status for answer in connection.answers()]
            self.assertIn(statuses, ([], [400]), data)

    def test_two_hosts(self) -> None:
        self.refused(post(b"Host: b", b"Content-Length: 2", body=b"[]"), "two hosts")

    def test_first_lines_that_are_none(self) -> None:
        for line in (
            b"GET", b"GET /", b"GET / HTTP/1.1 x", b"GET  / HTTP/1.1", b"GET / HTTP/2.0",
            b"GET / FTP/1.1", b"\x00 / HTTP/1.1", b"G(T / HTTP/1.1",
        ):  # fmt: skip
            connection = self.house.connect()
            connection.send(line + b"\r\nHost: a\r\n\r\n" + HIDDEN, "GET", "DELETE")
            statuses = [answer.status for answer in connection.answers()]
            self.assertEqual(1, len(statuses), line)
            self.assertIn(statuses[0], (400, 404, 405), line)

    def test_chunks_that_lie(self) -> None:
        for body in (
            b"5\nhello\r\n0\r\n\r\n", b"0x5\r\nhello\r\n0\r\n\r\n", b"5 \r\nhello\r\n",
            b"+5\r\nhello\r\n0\r\n\r\n", b"5\r\nhelloXX0\r\n\r\n", b"\r\n0\r\n\r\n",
        ):  # fmt: skip
            self.refused(post(b"Transfer-Encoding: chunked", body=body + HIDDEN), body)


class InjectionTests(HostileCase):
    """Texts that end up in headers, ours or a peer's."""

    def test_the_id_of_a_transfer(self) -> None:
        house = House(peers=[FakePeer("B")])
        for bad in ("a\r\nX: y", "a\nb", "a\x00", "\x7f"):
            body = {"Resources": [], "Compression": "none", "Peer": "B", "SenderTransferID": bad}
            for route in ("send", "pull"):
                answer = house.request("POST", f"/transfers/{route}", json.dumps(body).encode())
                self.assertEqual(400, answer.status, bad)
                self.assertIn("SenderTransferID", answer.json()["Details"])

    def test_the_answer_has_no_header_that_was_asked_for(self) -> None:
        for target in (
            "/nowhere%0d%0aX-Evil:%20y",
            "/studies/%0d%0aX-Evil:%20y",
            "/transfers/chunks/%0aX-Evil:y",
            "/jobs/x%0d%0a%0d%0a<html>",
        ):
            answer = self.house.request("GET", target)
            self.assertIn(answer.status, (400, 404))
            self.assertIsNone(answer.header("X-Evil"))
            self.assertNotIn("html", answer.header("Content-Type") or "")


class SsrfTests(HostileCase):
    """Only configured peers are called, whatever a body, a header or an answer says."""

    def test_urls_in_bodies_are_no_peers(self) -> None:
        for peer in ("http://192.0.2.1/", "//192.0.2.1/", "B/../C", "b", "B ", "B\u0000", ""):
            body = {"Resources": [], "Compression": "none", "Peer": peer, "Url": "http://192.0.2.1"}
            for route in ("send", "pull"):
                answer = self.house.request(
                    "POST", f"/transfers/{route}", json.dumps(body).encode()
                )
                self.assertEqual((404, 17), (answer.status, answer.json()["OrthancStatus"]), peer)
        self.assertEqual([], self.house.transfers)

    def test_urls_in_other_members_are_for_comparing_alone(self) -> None:
        url = "http://192.0.2.1:8042/"
        more = {"Originator": url, "SenderTransferID": url, "Url": url, "RemoteSelf": url}
        body = {"Resources": [], "Compression": "none", "Peer": "B", **more}
        for route in ("send", "pull"):
            headers = {"Host": "192.0.2.1", "X-Forwarded-Host": "192.0.2.1", "Referer": url}
            target = f"/transfers/{route}"
            answer = self.house.request("POST", target, json.dumps(body).encode(), headers)
            self.assertEqual(200, answer.status)
            self.assertNotIn(b"192.0.2.1", answer.body, "nor is it told to others")
        self.assertEqual(["B", "B"], [each.request.peer for each in self.house.transfers])

    def test_who_asks_for_an_address_is_refused(self) -> None:
        """A gateway, least of all, is a proxy: its Orthanc may be behind one that would obey."""
        house, orthanc = make_house(peers=[FakePeer("B")])
        for target in ("http://192.0.2.1/x", "http://here/system", "@192.0.2.1/x", "x"):
            for each in (house, self.house):
                answer = each.request("GET", target)
                self.assertEqual(400, answer.status, target)
                self.assertIn("This is no proxy", answer.json()["Details"])
        self.assertEqual([], orthanc.lines)

    def test_paths_that_a_peer_answers_lead_to_it_alone(self) -> None:
        reactor: Any = MemoryReactorClock()
        settings = peer_settings("http://127.0.0.1:8042/", username="alice", password="geheim")
        threads, link = SynchronousThreads(), Link(reactor, 2, 2)
        for path in (
            "http://192.0.2.9/", "192.0.2.9/", "@192.0.2.9/", ":80@192.0.2.9/", "", "/a b",
            "/x HTTP/1.1\r\nX: y\r\n\r\n", "/\n", "/\u00e9", "\\192.0.2.9",
        ):  # fmt: skip
            peer = Peer(Asking(reactor, threads, "B", settings, 60, link))
            opening = PushRequest((), (), Codec.NONE)
            asked = Deferred.fromCoroutine(peer.open_push(opening, peer.session("t")))
            self.answer(reactor, json.dumps({"ID": "x", "Path": path}).encode())
            self.failureResultOf(asked, PeerNonsense)
        peer = Peer(Asking(reactor, threads, "B", settings, 60, link))
        asked = Deferred.fromCoroutine(peer.discard("//192.0.2.9/x", peer.session("t")))
        host, port, wire = self.answer(reactor, b"{}")
        self.assertEqual(("127.0.0.1", 8042), (host, port))
        self.assertIn(b"DELETE //192.0.2.9/x HTTP/1.1\r\n", wire.value())
        self.assertIn(b"Host: 127.0.0.1:8042\r\n", wire.value())
        self.successResultOf(asked)

    def answer(self, reactor: Any, body: bytes) -> Any:
        """Answer the request that was just made; gives where it went, and what went there."""
        host, port, factory, *_rest = reactor.tcpClients.pop()
        self.assertEqual([], reactor.tcpClients)
        protocol, wire = factory.buildProtocol(None), StringTransport()
        protocol.makeConnection(wire)
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        protocol.dataReceived(head % len(body) + body)
        return host, port, wire


class PathTests(HostileCase):
    """What is read and written is found by the index, never by a name that came."""

    NAMES = ("../../etc/passwd", "..%2f..%2fetc%2fpasswd", "/etc/passwd", "%00", "a%0d%0aX-Evil:y")

    def setUp(self) -> None:
        self.folder = self.mktemp()
        self.house = House({"StorageDirectory": self.folder}, folder=self.folder)
        self.addCleanup(self.house.stop)

    def test_names_in_addresses(self) -> None:
        for name in self.NAMES:
            for target in (
                f"/instances/{name}/file", f"/transfers/chunks/{name}", f"/studies/{name}",
                f"/transfers/push/{name}/0", f"/transfers/explorer/{name}", f"/jobs/{name}",
            ):  # fmt: skip
                answer = self.house.request("GET", target)
                self.assertIn(answer.status, (400, 404, 405), target)
                self.assertIsNone(answer.header("X-Evil"))
                self.assertNotIn(b"root:", answer.body)

    def test_names_in_a_push(self) -> None:
        before = sorted(os.walk(self.folder))
        for name in ("../../x", "/etc/x", "x" * 300, "", "\u0000", "a/b"):
            one = {"ID": name, "Size": "1", "MD5": "0" * 32}
            chunk = {"ID": name, "Offset": "0", "Size": "1"}
            body = {"Instances": [one], "Buckets": [[chunk]], "Compression": "none"}
            answer = self.house.request("POST", "/transfers/push", json.dumps(body).encode())
            self.assertEqual((400, 15), (answer.status, answer.json()["OrthancStatus"]), name)
        self.assertEqual(before, sorted(os.walk(self.folder)))

    def test_the_name_of_a_download_is_the_identifier(self) -> None:
        data = make_dicom(600, "1.2.3", patient='"\r\nX-Evil: y')
        id_ = self.house.request("POST", "/instances", data).json()["ID"]
        answer = self.house.request("GET", f"/instances/{id_}/file")
        self.assertEqual(f'filename="{id_}.dcm"', answer.header("Content-Disposition"))
        self.assertIsNone(answer.header("X-Evil"))
