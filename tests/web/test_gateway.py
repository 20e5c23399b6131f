"""The gateway as a proxy: what travels, who waits for whom, and what happens when one goes away."""

import json
from base64 import b64encode
from pathlib import Path
from typing import Any

from twisted.internet import error as net
from twisted.trial.unittest import SynchronousTestCase

from tests.web.fake_orthanc import FakeOrthanc, Line, make_house
from tests.web.harness import Connection, House

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
LARGE = bytes(range(256)) * 4096


def headers_of(sent: bytes) -> dict[str, str]:
    """The headers of a request, by their names in lower case."""
    lines = sent.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")[1:]
    return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}


class GatewayCase(SynchronousTestCase):
    configuration: dict[str, Any] = {}

    def setUp(self) -> None:
        self.house: House
        self.orthanc: FakeOrthanc
        self.house, self.orthanc = make_house(dict(self.configuration))

    def ask(self, method: str = "GET", target: str = "/x", **more: Any) -> tuple[Connection, Line]:
        """A request that is handed on; both ends of its way."""
        before = len(self.orthanc.lines)
        client = self.house.connect()
        client.request(method, target, **more)
        self.assertEqual(before + 1, len(self.orthanc.lines))
        return client, self.orthanc.lines[-1]


class TravelTests(GatewayCase):
    def test_path_and_query_byte_for_byte(self) -> None:
        for target in (
            "/modalities/a%2Fb%20c/../d//e;f=%c3%A9?x=%20+y&&z",
            "/%74ransfersX/send?",
            "/instances/1/attachments/dicom/data?a=b?c",
            "/x?%ff=%fe&\x7f",
            "/?",
        ):
            client, line = self.ask(target=target)
            self.assertEqual(f"GET {target} HTTP/1.1".encode(), line.sent().split(b"\r\n")[0])
            line.answer(OK)
            self.assertEqual(b"hi", client.answers()[0].body)
            line.close()

    def test_below_the_path_of_the_store(self) -> None:
        self.house, self.orthanc = make_house({"Store": {"Url": "http://pacs.test/orthanc/"}})
        _client, line = self.ask(target="/system")
        sent = line.sent()
        self.assertEqual(b"GET /orthanc/system HTTP/1.1", sent.split(b"\r\n")[0])
        self.assertEqual("pacs.test", headers_of(sent)["host"])
        self.assertEqual("here", headers_of(sent)["x-forwarded-host"])

    def test_headers_of_the_request(self) -> None:
        headers = {
            "Authorization": "Basic eDp5",
            "Cookie": "a=1; b=2",
            "X-Own": "é",
            "Connection": "close, X-Hop, Host",
            "X-Hop": "1",
            "Keep-Alive": "timeout=5",
            "TE": "trailers",
            "Upgrade": "h2c",
            "X-Forwarded-For": "10.0.0.1",
            "Via": "1.0 before",
        }
        _client, line = self.ask(headers=headers)
        self.assertEqual(
            {
                "host": "here",
                "authorization": "Basic eDp5",
                "cookie": "a=1; b=2",
                "x-own": "é",
                "x-forwarded-for": "10.0.0.1, 127.0.0.1",
                "x-forwarded-host": "here",
                "x-forwarded-proto": "http",
                "via": "1.0 before, 1.1 txtransfers",
            },
            headers_of(line.sent()),
        )

    def test_status_and_headers_of_the_answer(self) -> None:
        client, line = self.ask()
        line.answer(
            b"HTTP/1.1 418 I am\xe9 a teapot\r\nSet-Cookie: a=1\r\nset-cookie: b=2\r\n"
            b"WWW-Authenticate: Basic realm=x\r\nKeep-Alive: timeout=1\r\nServer: S\r\n"
            b"Connection: keep-alive, X-Hop\r\nX-Hop: 1\r\nContent-Length: 0\r\n\r\n"
        )
        head = client.received()
        self.assertEqual(b"HTTP/1.1 418 I am\xe9 a teapot", head.split(b"\r\n")[0])
        names = sorted(name.lower() for name, _value in client.answers()[0].headers)
        wanted = ["content-length", "server", "set-cookie", "set-cookie", "www-authenticate"]
        self.assertEqual(wanted, names)
        self.assertTrue(client.is_open)

    def test_answers_of_every_length(self) -> None:
        for head, body, wanted in (
            (b"Content-Length: 5\r\n", b"hello", b"hello"),
            (
                b"Transfer-Encoding: chunked\r\n",
                b"2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nT: 1\r\n\r\n",
                b"hello",
            ),
            (b"", b"hello", b"hello"),
            (b"Content-Length: 0\r\n", b"", b""),
        ):
            for step in (1, 1000):
                client, line = self.ask()
                data = b"HTTP/1.1 200 OK\r\n" + head + b"\r\n" + body
                for start in range(0, len(data), step):
                    line.answer(data[start : start + step])
                line.close()
                answer = client.answers()[0]
                self.assertEqual((200, wanted, True), (answer.status, answer.body, answer.whole))
                self.assertTrue(client.is_open)

    def test_no_body_where_there_is_none(self) -> None:
        client, line = self.ask("HEAD")
        line.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n")
        self.assertEqual("500", client.answers()[0].header("Content-Length"))
        line.close()
        for status in (b"204 No Content", b"304 Not Modified"):
            client, line = self.ask()
            line.sent()
            line.answer(b"HTTP/1.1 " + status + b"\r\nETag: x\r\n\r\n")
            wanted = b"HTTP/1.1 " + status + b"\r\nEtag: x\r\n\r\n"
            self.assertEqual(wanted.lower(), client.received().lower())
            client.request("GET", "/again")
            self.assertIn(b"GET /again", line.sent())
            line.answer(OK)
            self.assertTrue(client.received().endswith(b"\r\n\r\nhi"))
            line.close()

    def test_bodies_of_requests(self) -> None:
        client, line = self.ask("POST", body=b"hello", headers={"Content-Type": "a/b"})
        head, _, body = line.sent().partition(b"\r\n\r\n")
        self.assertEqual(
            ("5", "a/b"), tuple(headers_of(head)[n] for n in ("content-length", "content-type"))
        )
        self.assertEqual(b"hello", body)
        line.answer(OK)
        self.assertEqual(200, client.answers()[0].status)
        client, line = self.ask("PUT", body=b"", headers={"Transfer-Encoding": "chunked"})
        client.send(b"3\r\nabc\r\n")
        head, _, body = line.sent().partition(b"\r\n\r\n")
        self.assertEqual("chunked", headers_of(head)["transfer-encoding"])
        self.assertEqual(b"3\r\nabc\r\n", body)
        client.send(b"1\r\nd\r\n0\r\n\r\n")
        self.assertEqual(b"1\r\nd\r\n0\r\n\r\n", line.sent())
        _client, line = self.ask("POST", body=b"")
        self.assertEqual("0", headers_of(line.sent())["content-length"])
        _client, line = self.ask("DELETE")
        self.assertNotIn("content-length", headers_of(line.sent()))

    def test_other_methods(self) -> None:
        for method in ("PROPFIND", "PATCH", "TRACE"):
            client, line = self.ask(method, "/webdav/")
            self.assertTrue(line.sent().startswith(f"{method} /webdav/ HTTP/1.1".encode()))
            line.answer(OK)
            self.assertEqual(200, client.answers()[0].status)
            line.close()

    def test_old_clients(self) -> None:
        client, line = self.ask(version="HTTP/1.0")
        line.answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n")
        self.assertFalse(client.is_open)
        answer = client.answers()[0]
        self.assertEqual((b"hi", None), (answer.body, answer.header("Transfer-Encoding")))

    def test_leave_to_send_a_body(self) -> None:
        """Expect: 100-continue is between the client and Orthanc."""
        headers = {"Expect": "100-continue", "Content-Length": "5"}
        client, line = self.ask("POST", headers=headers)
        self.assertEqual("100-continue", headers_of(line.sent())["expect"])
        self.assertEqual(b"", client.received())
        line.answer(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.assertEqual(b"HTTP/1.1 100 Continue\r\n\r\n", client.received())
        client.send(b"hello")
        self.assertEqual(b"hello", line.sent())
        line.answer(OK)
        self.assertEqual([100, 200], [answer.status for answer in client.answers()])
        self.assertTrue(client.is_open)

    def test_an_orthanc_that_gives_no_leave(self) -> None:
        client, line = self.ask("POST", headers={"Expect": "100-continue", "Content-Length": "5"})
        self.house.clock.advance(0.2)
        self.assertEqual(b"HTTP/1.1 100 Continue\r\n\r\n", client.received())
        client.send(b"hello")
        line.answer(b"HTTP/1.1 100 Continue\r\n\r\n" + OK)
        self.assertEqual([100, 200], [answer.status for answer in client.answers()])
        self.assertTrue(client.is_open)

    def test_a_client_that_does_not_wait_for_leave(self) -> None:
        headers = {"Expect": "100-continue"}
        client, line = self.ask("POST", body=b"hello", headers=headers)
        self.assertTrue(line.sent().endswith(b"hello"))
        line.answer(OK)
        self.house.clock.advance(1)
        self.assertEqual([200], [answer.status for answer in client.answers()])
        self.assertTrue(client.is_open)

    def test_no_leave_to_send_a_body(self) -> None:
        headers = {"Expect": "100-continue", "Content-Length": "5"}
        client, line = self.ask("POST", headers=headers)
        line.answer(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno")
        answer = client.answers()[0]
        self.assertEqual(
            (401, b"no", "close"), (answer.status, answer.body, answer.header("Connection"))
        )
        self.assertFalse(client.is_open)
        self.assertFalse(line.is_open)


class RoundTests(GatewayCase):
    def test_a_request_that_comes_back_to_us(self) -> None:
        """Each time as this gateway has handed it on, until that is enough."""
        headers: dict[str, str] = {}
        for _ in range(4):
            _client, line = self.ask(headers=headers)
            headers = {"Via": headers_of(line.sent())["via"]}
        answer = self.house.request("GET", "/x", headers=headers)
        self.assertEqual(502, answer.status)
        self.assertIn("Store.Url leads to this daemon", answer.json()["Details"])


class BackpressureTests(GatewayCase):
    def test_a_slow_client_stops_orthanc(self) -> None:
        client, line = self.ask()
        client.stop_reading_after(1000)
        line.answer(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (2 * len(LARGE)))
        line.answer(LARGE)
        self.assertFalse(line.is_read)
        self.house.clock.advance(50)
        client.read_on()
        self.assertTrue(line.is_read)
        line.answer(LARGE)
        self.assertEqual(LARGE + LARGE, client.answers()[0].body)

    def test_the_connection_to_orthanc_is_read_again_after_a_slow_end(self) -> None:
        client, line = self.ask()
        client.stop_reading_after(10)
        line.ok(LARGE)
        self.assertTrue(line.is_read)
        client.read_on()
        self.assertEqual(LARGE, client.answers()[0].body)
        client.request("GET", "/again")
        line.answer(OK)
        self.assertEqual(2, len(client.answers()))

    def test_a_client_that_reads_no_more(self) -> None:
        client, line = self.ask()
        client.stop_reading_after(10)
        line.answer(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (2 * len(LARGE)) + LARGE)
        self.house.clock.advance(self.house.settings.http_timeout + 1)
        self.assertFalse(client.is_open)
        self.assertFalse(line.is_open)

    def test_a_slow_orthanc_stops_the_client(self) -> None:
        size = 8 * len(LARGE)
        client, line = self.ask("POST", headers={"Content-Length": str(size)})
        line.wire.room = 1000
        client.send(LARGE)
        self.assertFalse(client.is_read)
        line.wire.make_room(None)
        self.assertTrue(client.is_read)
        client.send(LARGE * 7)
        self.assertEqual(size, len(line.sent().partition(b"\r\n\r\n")[2]))

    def test_an_answer_before_the_body(self) -> None:
        client, line = self.ask("POST", headers={"Content-Length": "100"})
        line.ok(b"enough")
        self.assertEqual(b"enough", client.answers()[0].body)
        self.assertFalse(line.is_open)
        client.send(b"x" * 100)
        client.request("GET", "/next")
        self.orthanc.lines[-1].answer(OK)
        self.assertEqual(b"hi", client.answers()[1].body)


class FailureTests(GatewayCase):
    def assert_told(self, client: Connection, status: int, *words: str) -> None:
        answer = client.answers()[0]
        self.assertEqual(status, answer.status, answer.body)
        told = answer.json()
        self.assertEqual((status, "/x"), (told["HttpStatus"], told["Uri"]))
        for word in ("http://localhost:8142/", *words):
            self.assertIn(word, told["Details"])

    def test_not_there(self) -> None:
        for refusal, status, word in (
            (net.ConnectionRefusedError(), 502, "is it running"),
            (net.DNSLookupError(), 502, "Store.Url"),
            (net.TimeoutError(), 504, "in time"),
            (net.ConnectError(), 502, "cannot connect"),
        ):
            self.orthanc.refusal = refusal
            client = self.house.connect()
            client.request("POST", "/x", b"data")
            self.assert_told(client, status, word)
            self.assertTrue(client.is_open)

    def test_gone_before_the_answer(self) -> None:
        for begun in (b"", b"HTTP/1.1 200 OK\r\nContent-"):
            client, line = self.ask("POST", body=b"")
            line.answer(begun)
            line.cut()
            self.assert_told(client, 502, "broke", "log")

    def test_gone_after_it_began(self) -> None:
        for end in ("close", "cut"):
            client, line = self.ask()
            line.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
            getattr(line, end)()
            self.assertFalse(client.is_open)
            self.assertFalse(client.answers()[0].whole)
        client, line = self.ask()
        line.answer(b"HTTP/1.1 200 OK\r\n\r\nhello")
        line.cut()
        self.assertNotIn(b"0\r\n\r\n", client.received())
        self.assertFalse(client.is_open)

    def test_silent(self) -> None:
        client, line = self.ask()
        self.house.clock.advance(3599)
        self.assertEqual(b"", client.received())
        self.house.clock.advance(2)
        self.assert_told(client, 504, "3600 s", "Store.ProxyTimeout")
        self.assertFalse(line.is_open)

    def test_silent_in_the_middle(self) -> None:
        client, line = self.ask()
        line.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
        self.house.clock.advance(3601)
        self.assertFalse(client.is_open)
        self.assertFalse(line.is_open)

    def test_no_http(self) -> None:
        for answer in (
            b"SSH-2.0-OpenSSH\r\n\r\n",
            b"HTTP/1.1 101 Switching\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nBad Name: 1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nX: a\r\n folded\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nX: a\nb\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000,
        ):
            client, line = self.ask()
            line.answer(answer)
            self.assert_told(client, 502, "no HTTP", "Store.Url")
            self.assertFalse(line.is_open)

    def test_a_malformed_chunk_cuts_the_answer(self) -> None:
        client, line = self.ask()
        line.answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
        self.assertFalse(client.is_open)
        self.assertFalse(line.is_open)

    def test_the_client_goes_away(self) -> None:
        for method, headers in (("GET", {}), ("POST", {"Content-Length": "100"})):
            for begun in (False, True):
                client, line = self.ask(method, headers=headers)
                if begun:
                    line.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
                client.leave()
                self.assertFalse(line.is_open)

    def test_shutdown_closes_what_is_idle(self) -> None:
        _client, line = self.ask()
        line.answer(OK)
        self.assertTrue(line.is_open)
        self.house.gateway.upstream.close()
        self.house.clock.advance(0)
        self.assertFalse(line.is_open)


class PoolTests(GatewayCase):
    def answered(self, method: str = "GET", **more: Any) -> Line:
        client, line = self.ask(method, **more)
        line.answer(OK)
        self.assertEqual(200, client.answers()[0].status)
        line.sent()
        return line

    def again(self, method: str, body: bytes | None = None) -> Connection:
        client = self.house.connect()
        client.request(method, "/again", body)
        return client

    def test_connections_are_kept(self) -> None:
        line = self.answered("POST", body=b"x")
        client = self.again("GET")
        self.assertIn(b"GET /again", line.sent())
        line.answer(OK)
        self.assertEqual(200, client.answers()[0].status)

    def test_a_kept_connection_that_is_gone_fails_nothing(self) -> None:
        line = self.answered()
        client = self.again("GET")
        line.cut()
        other = self.orthanc.lines[-1]
        self.assertIsNot(line, other)
        self.assertIn(b"GET /again", other.sent())
        other.answer(OK)
        self.assertEqual(200, client.answers()[0].status)

    def test_not_twice(self) -> None:
        """What a new connection does not answer is not asked for again."""
        line = self.answered()
        client = self.again("GET")
        line.cut()
        self.orthanc.lines[-1].cut()
        self.assertEqual((2, 502), (len(self.orthanc.lines), client.answers()[0].status))

    def test_an_answer_that_has_begun_is_not_asked_for_again(self) -> None:
        line = self.answered()
        client = self.again("GET")
        line.answer(b"HTTP/1.1 2")
        line.cut()
        self.assertEqual((1, 502), (len(self.orthanc.lines), client.answers()[0].status))

    def test_what_changes_something_takes_a_new_connection(self) -> None:
        for method, body in (("POST", b"x"), ("POST", b""), ("PUT", b"x"), ("DELETE", None)):
            line = self.answered()
            self.again(method, body)
            self.assertEqual(b"", line.sent())
            self.assertTrue(self.orthanc.lines[-1].sent().startswith(method.encode()))
            line.close()

    def test_not_longer_than_orthanc_keeps_it(self) -> None:
        client, line = self.ask()
        line.ok(b"hi", "Keep-Alive: timeout=1")
        self.house.clock.advance(0.9)
        self.assertFalse(line.is_open)
        self.assertEqual(200, client.answers()[0].status)

    def test_not_where_orthanc_closes(self) -> None:
        for answer in (
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi",
            b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi",
            OK + b"more",
        ):
            client, line = self.ask()
            line.answer(answer)
            self.assertFalse(line.is_open)
            self.assertEqual(b"hi", client.answers()[0].body)

    def test_something_unasked(self) -> None:
        line = self.answered()
        line.answer(OK)
        self.assertFalse(line.is_open)
        self.again("GET")
        self.assertEqual(2, len(self.orthanc.lines))


USERS = {"RegisteredUsers": {"us": "secret"}, "AuthenticationEnabled": True}


def basic(pair: str) -> dict[str, str]:
    """The header of a user and a password."""
    return {"Authorization": f"Basic {b64encode(pair.encode()).decode()}"}


class DoorTests(GatewayCase):
    configuration = USERS

    def test_what_is_ours_asks_for_our_users(self) -> None:
        for target in ("/transfers/peers", "/jobs", "/plugins", "/peers", "/plugins/explorer.js"):
            answer = self.house.request("GET", target)
            self.assertEqual(401, answer.status)
            self.assertIn("Basic", str(answer.header("WWW-Authenticate")))
        self.assertEqual([], self.orthanc.lines)

    def test_our_users_are_handed_on_with_their_own_credentials(self) -> None:
        client, line = self.ask(headers=basic("us:secret"))
        line.sent()
        line.ok(b"{}")  # Orthanc asks nobody; we do, and know them from then on
        for _ in range(2):
            sent = self.orthanc.lines[-1].sent()
            self.assertTrue(sent.startswith(b"GET /x "), sent)
            self.assertEqual(basic("us:secret")["Authorization"], headers_of(sent)["authorization"])
            self.orthanc.lines[-1].answer(OK)
            self.assertEqual(200, client.answers()[0].status)
            client = self.house.connect()
            client.request("GET", "/x", headers=basic("us:secret"))

    def test_an_orthanc_that_asks_for_passwords_guards_itself(self) -> None:
        client, line = self.ask(headers=basic("orthanc:orthanc"))
        sent = line.sent()
        self.assertTrue(sent.startswith(b"GET /system "))
        self.assertNotIn("authorization", headers_of(sent))
        line.answer(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
        sent = line.sent()
        self.assertTrue(sent.startswith(b"GET /x "))
        self.assertEqual(
            basic("orthanc:orthanc")["Authorization"], headers_of(sent)["authorization"]
        )
        line.answer(OK)
        self.assertEqual(200, client.answers()[0].status)

    def test_an_orthanc_that_asks_for_none_is_guarded(self) -> None:
        client, line = self.ask()
        line.ok(b"{}")
        self.assertEqual(401, client.answers()[0].status)
        self.assertNotIn(b"/x", line.sent())
        client = self.house.connect()
        client.request("POST", "/x", b"data", headers=basic("us:wrong"))
        self.assertEqual(401, client.answers()[0].status)

    def test_when_in_doubt_it_is_guarded(self) -> None:
        self.orthanc.refusal = net.ConnectionRefusedError()
        self.assertEqual(401, self.house.request("GET", "/x").status)

    def test_it_is_asked_again(self) -> None:
        client, line = self.ask()
        line.answer(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
        line.answer(OK)
        self.house.clock.advance(11)
        client, line = self.ask()
        line.ok(b"{}")
        self.assertEqual(401, client.answers()[0].status)

    def test_other_hosts_are_refused_first(self) -> None:
        answer = self.house.request("GET", "/x", host="10.1.2.3", headers=basic("us:secret"))
        self.assertEqual((403, []), (answer.status, self.orthanc.lines))


class PermissionTests(GatewayCase):
    """Where Orthanc asks nobody, what our users may do there is what they may do here."""

    configuration = {**USERS, "Permissions": {"us": ["read"]}}

    def test_who_may_read_only(self) -> None:
        for method, target, status in (
            ("GET", "/studies", 200),
            ("POST", "/tools/find", 200),
            ("POST", "/instances", 403),
            ("DELETE", "/studies/x", 403),
            ("PUT", "/modalities/x", 403),
        ):
            client = self.house.connect()
            client.request(method, target, b"{}", headers=basic("us:secret"))
            for _ in range(2):  # the first time, /system is asked for before
                self.orthanc.lines[-1].ok(b"{}")
            self.assertEqual(status, client.answers()[0].status, target)

    def test_what_orthanc_guards_is_orthancs(self) -> None:
        client, line = self.ask("DELETE", "/studies/x", headers=basic("us:secret"))
        line.answer(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
        self.orthanc.lines[-1].answer(OK)
        self.assertEqual(200, client.answers()[0].status)


class AuditTests(GatewayCase):
    """What is handed on and moves something is in the audit log, whoever has let it in."""

    configuration = USERS

    def setUp(self) -> None:
        self.path = Path(self.mktemp()).absolute()
        self.configuration = {**USERS, "Name": "Here", "AuditLog": str(self.path)}
        super().setUp()

    def lines(self) -> list[dict[str, Any]]:
        text = self.path.read_text() if self.path.exists() else ""
        return [json.loads(line) for line in text.splitlines()]

    def test_who_was_let_in_by_orthanc(self) -> None:
        _client, line = self.ask("DELETE", "/studies/x", headers=basic("bob:secret"))
        line.answer(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")  # of /system
        self.orthanc.lines[-1].answer(OK)
        [told] = self.lines()
        self.assertEqual(
            ("Deleted", "bob@127.0.0.1", "Success", "/studies/x"),
            (told["Event"], told["By"], told["Result"], told["Resource"]),
        )
        client = self.house.connect()
        client.request("DELETE", "/studies/x", headers=basic("mallory:guess"))
        self.orthanc.lines[-1].answer(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
        self.assertEqual(1, len(self.lines()), "it is not known who that was")

    def test_what_orthanc_sends_and_gives(self) -> None:
        for method, target, event, more in (
            ("POST", "/modalities/pacs/store", "Sent", {"From": "Here", "To": "pacs"}),
            ("GET", "/studies/x/archive", "Downloaded", {"Resource": "/studies/x"}),
        ):
            client = self.house.connect()
            client.request(method, target, headers=basic("us:secret"))
            for _ in range(2):  # the first time, /system is asked for before
                self.orthanc.lines[-1].ok(b"{}")
            told = self.lines()[-1]
            self.assertEqual((event, "us@127.0.0.1"), (told["Event"], told["By"]))
            self.assertEqual(more, {name: told[name] for name in more})
