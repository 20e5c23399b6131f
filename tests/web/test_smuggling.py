"""Requests that two readers could read differently: none is answered but with 400, and the end."""

import json

from tests.web.harness import FakePeer, House
from tests.web.test_hostile import HostileCase

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
    """Only configured peers are called, whatever a body says."""

    def test_urls_in_bodies_are_no_peers(self) -> None:
        for peer in ("http://192.0.2.1/", "//192.0.2.1/", "B/../C", "b", "B ", "B\u0000", ""):
            body = {"Resources": [], "Compression": "none", "Peer": peer, "Url": "http://192.0.2.1"}
            for route in ("send", "pull"):
                answer = self.house.request(
                    "POST", f"/transfers/{route}", json.dumps(body).encode()
                )
                self.assertEqual((404, 17), (answer.status, answer.json()["OrthancStatus"]), peer)
        self.assertEqual([], self.house.transfers)
