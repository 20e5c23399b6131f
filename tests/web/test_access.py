"""Who may come in, what each may do, and what it costs to try."""

from base64 import b64encode
from collections.abc import Callable
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from tests.test_passwords import cheap_hash
from tests.web.harness import Answer, FakePeer, House, make_dicom
from txtransfers import config
from txtransfers.config_access import Permission
from txtransfers.errors import TooBusy
from txtransfers.threads import SynchronousThreads
from txtransfers.web.access import KNOWN_S, Access, User
from txtransfers.web.origins import is_foreign
from txtransfers.web.permissions import needed
from txtransfers.web.slowdown import FORGET_S, LONGEST_S, MOST_WAITING, Slowdown
from txtransfers.web.tls import Door, is_local

TOKEN = "t" * 40
SECRET = "hunter2"
ID = "00000000-00000000-00000000-00000000-00000000"


def basic(user: str, password: str) -> str:
    return "Basic " + b64encode(f"{user}:{password}".encode()).decode()


class HeldThreads(SynchronousThreads):
    """Threads whose work is done when the test says so; counts it."""

    def __init__(self) -> None:
        self.calls: list[tuple[Deferred[Any], Callable[[], Any]]] = []
        self.count = 0
        self.hold = False

    def run(self, function: Any, *args: Any, **kwargs: Any) -> "Deferred[Any]":
        self.count += 1
        if not self.hold:
            return succeed(function(*args, **kwargs))
        waiter: Deferred[Any] = Deferred()
        self.calls.append((waiter, lambda: function(*args, **kwargs)))
        return waiter

    def work(self) -> None:
        calls, self.calls = self.calls, []
        for waiter, call in calls:
            waiter.callback(call())


class AccessCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.threads = HeldThreads()

    def access(self, **keys: Any) -> Access:
        users = {"plain": SECRET, "hashed": cheap_hash(SECRET)}
        settings = config.default("/nowhere")
        return Access(
            config.attrs.evolve(  # type: ignore[attr-defined]
                settings,
                **{
                    "authentication_enabled": True,
                    "registered_users": users,
                    "bearer_tokens": {"nightly": TOKEN},
                    **keys,
                },
            ),
            self.clock,
            self.threads,
        )

    def ask(self, access: Access, header: str, address: str = "10.0.0.1") -> "Deferred[Any]":
        return Deferred.fromCoroutine(access.identify(header, address))

    def who(self, access: Access, header: str, address: str = "10.0.0.1") -> User | None:
        asked = self.ask(access, header, address)
        self.clock.advance(LONGEST_S)
        found: User | None = self.successResultOf(asked)
        return found


class IdentifyTests(AccessCase):
    def test_users_and_tokens(self) -> None:
        access = self.access()
        for header, name in (
            (basic("plain", SECRET), "plain"),
            (basic("hashed", SECRET), "hashed"),
            (f"Bearer {TOKEN}", "nightly"),
            (f"bearer  {TOKEN} ", "nightly"),
        ):
            found = self.who(access, header)
            self.assertEqual(User(name), found)
        for header in (
            basic("plain", "wrong"),
            basic("hashed", "wrong"),
            basic("hashed", cheap_hash(SECRET)),
            basic("nobody", SECRET),
            basic("nightly", TOKEN),
            basic("", ""),
            f"Bearer {SECRET}",
            "Bearer ",
            "Bearer",
            "Basic",
            "Basic !!!",
            "Basic " + b64encode(b"plain").decode(),
            "Digest x",
            "",
            basic("plain", SECRET * 2000),
        ):
            self.assertIsNone(self.who(access, header), header)
            self.assertIsNone(access.known(header))

    def test_nobody_is_asked(self) -> None:
        access = self.access(authentication_enabled=False)
        found = access.known(None)
        self.assertTrue(found is not None and found.may(frozenset({Permission.ADMINISTER})))

    def test_permissions_come_along(self) -> None:
        table = {"plain": frozenset({Permission.READ}), "hashed": frozenset(), "nightly": {}}
        access = self.access(permissions=table)
        found = self.who(access, basic("plain", SECRET))
        self.assertEqual(User("plain", frozenset({Permission.READ})), found)

    def test_a_bucket_does_not_pay_a_hash(self) -> None:
        access = self.access()
        header = basic("hashed", SECRET)
        self.who(access, header)
        self.assertEqual(1, self.threads.count)
        self.assertIsNotNone(access.known(header))
        self.clock.advance(KNOWN_S)
        self.assertIsNone(access.known(header))

    def test_the_same_at_once_is_verified_once(self) -> None:
        access = self.access()
        self.threads.hold = True
        asked = [self.ask(access, basic("hashed", SECRET)) for _ in range(100)]
        self.assertEqual(1, self.threads.count)
        self.threads.work()
        self.assertEqual({"hashed"}, {self.successResultOf(each).name for each in asked})

    def test_few_hashes_at_once(self) -> None:
        """They take memory: 32 MB each."""
        access = self.access()
        self.threads.hold = True
        asked = [self.ask(access, basic("hashed", f"wrong {n}"), f"10.0.{n}.1") for n in range(80)]
        self.assertEqual(2, len(self.threads.calls))
        busy = [each for each in asked if each.called]
        self.assertEqual(16, len(busy))
        for each in busy:
            self.failureResultOf(each, TooBusy)
        while self.threads.calls:
            self.threads.work()
        self.assertEqual([None] * 64, [self.successResultOf(e) for e in asked if e not in busy])
        self.assertEqual(64, access.failed, "those that were turned away are no failures")

    def test_an_unknown_user_costs_as_much(self) -> None:
        access = self.access()
        self.who(access, basic("nobody", SECRET))
        self.assertEqual(1, self.threads.count)

    def test_what_is_logged(self) -> None:
        events: list[Any] = []
        globalLogPublisher.addObserver(events.append)
        self.addCleanup(globalLogPublisher.removeObserver, events.append)
        access = self.access()
        for header in (
            basic("plain", f"{SECRET}x"),
            basic(f"{SECRET}-as-user", "x"),
            f"Bearer {SECRET}",
            SECRET,
        ):
            self.who(access, header)
        self.assertEqual(4, access.failed)
        text = " ".join(each["log_format"].format(**each) for each in events)
        self.assertIn("of user plain from 10.0.0.1 failed (1 lately)", text)
        self.assertIn("of an unknown user from 10.0.0.1 failed (2 lately)", text)
        self.assertIn("with a token from 10.0.0.1", text)
        self.assertNotIn(SECRET, repr(events))


class SlowdownTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.slowdown = Slowdown(self.clock)

    def turn(self, address: str = "10.0.0.1") -> "Deferred[None]":
        return Deferred.fromCoroutine(self.slowdown.turn(address))

    def fail_(self, address: str = "10.0.0.1") -> float:
        """Fail once; gives how long that had to wait."""
        began = self.clock.seconds()
        turn = self.turn(address)
        while not turn.called:
            self.clock.advance(0.25)
        self.slowdown.done(address, right=False)
        return self.clock.seconds() - began

    def test_each_failure_makes_the_next_wait_longer(self) -> None:
        waits = [self.fail_() for _ in range(9)]
        self.assertEqual([0, 0.25, 0.5, 1, 2, 4, 8, 8, 8], waits)
        self.assertEqual(0, self.fail_("10.0.0.2"), "another address does not wait")

    def test_many_at_once_go_one_after_the_other(self) -> None:
        for _ in range(5):
            self.fail_()
        turns = [self.turn() for _ in range(4)]
        self.clock.pump([1.0] * 12)
        self.assertLess(sum(turn.called for turn in turns), 4)
        self.clock.pump([1.0] * 12)
        self.assertEqual(4, sum(turn.called for turn in turns))

    def test_too_many_at_once_are_turned_away(self) -> None:
        for _ in range(MOST_WAITING):
            self.successResultOf(self.turn())
        error = self.failureResultOf(self.turn(), TooBusy).value
        self.assertGreaterEqual(error.retry_after, 1)  # type: ignore[attr-defined]
        self.slowdown.done("10.0.0.1", right=True)
        self.successResultOf(self.turn())

    def test_who_is_right_pays_for_those_before(self) -> None:
        """The address counts: a good password among bad ones does not make the others free."""
        for _ in range(3):
            self.fail_()
        turn = self.turn()
        self.clock.advance(1.0)
        self.successResultOf(turn)
        self.slowdown.done("10.0.0.1", right=True)
        self.assertNoResult(self.turn())

    def test_it_is_forgotten(self) -> None:
        for _ in range(5):
            self.fail_()
        self.clock.advance(FORGET_S + 1)
        self.assertEqual([0, 0.25], [self.fail_(), self.fail_()])

    def test_a_network_of_ipv6_is_one(self) -> None:
        self.fail_("2001:db8::1")
        self.assertEqual(0.25, self.fail_("2001:db8::2"))
        self.assertEqual(0, self.fail_("2001:db8:0:1::2"))
        self.assertEqual(0, self.fail_("::ffff:10.1.1.1"))
        self.assertEqual(0, self.fail_("::ffff:10.1.1.2"))

    def test_addresses_are_not_kept_for_ever(self) -> None:
        for number in range(10_100):
            self.fail_(f"10.{number // 250}.{number % 250}.1")
        self.assertLessEqual(len(self.slowdown._entries), 10_000)


class NeededTests(SynchronousTestCase):
    """The table, by what each permission opens."""

    ROUTES = (
        ("GET", "plugins"), ("GET", "plugins/transfers"),
        ("POST", "transfers/lookup"), ("GET", f"transfers/chunks/{ID}"),
        ("HEAD", f"transfers/chunks/{ID}"),
        ("POST", "transfers/push"), ("PUT", "transfers/push/T/0"), ("GET", "transfers/push/T"),
        ("POST", "transfers/push/T/commit"), ("DELETE", "transfers/push/T"),
        ("POST", "transfers/send"), ("POST", "transfers/pull"), ("GET", "transfers/peers"),
        ("GET", "transfers/bandwidth"), ("PUT", "transfers/bandwidth"),
        ("GET", "jobs"), ("GET", "jobs/J/receipt"), ("POST", "jobs/J/cancel"),
        ("GET", "peers"), ("GET", "system"), ("GET", "studies"), ("GET", f"instances/{ID}/file"),
        ("DELETE", f"studies/{ID}"), ("POST", "instances"), ("POST", "tools/find"),
        ("POST", "tools/lookup"), ("GET", "tools/metrics-prometheus"), ("GET", ""),
        ("POST", "transfers/lookup/x"), ("POST", "transfers"), ("BREW", "plugins"),
        ("GET", "transfers"), ("PUT", "transfers/lookup"), ("POST", "plugins"),
    )  # fmt: skip

    def opened(self, *permissions: Permission) -> set[str]:
        user = User("x", frozenset(permissions))
        return {
            f"{method} {route}"
            for method, route in self.ROUTES
            if user.may(needed(method, route.split("/") if route else []))
        }

    def test_nothing(self) -> None:
        self.assertEqual({"GET plugins", "GET plugins/transfers"}, self.opened())

    def test_a_peer_s_account(self) -> None:
        self.assertEqual(
            {
                *("GET plugins", "GET plugins/transfers", "POST transfers/lookup"),
                *(f"GET transfers/chunks/{ID}", f"HEAD transfers/chunks/{ID}"),
                *("POST transfers/push", "PUT transfers/push/T/0", "GET transfers/push/T"),
                *("POST transfers/push/T/commit", "DELETE transfers/push/T"),
            },
            self.opened(Permission.RECEIVE),
        )

    def test_pushes_alone(self) -> None:
        opened = self.opened(Permission.PUSH)
        self.assertIn("PUT transfers/push/T/0", opened)
        self.assertEqual(set(), {each for each in opened if "lookup" in each or "chunks" in each})

    def test_reading_changes_nothing(self) -> None:
        opened = self.opened(Permission.READ)
        self.assertLessEqual({"GET studies", "GET jobs", "GET ", "POST tools/find"}, opened)
        changing = {each for each in opened if each.split(" ")[0] not in ("GET", "HEAD")}
        self.assertEqual(
            {"POST transfers/lookup", "POST tools/find", "POST tools/lookup"}, changing
        )

    def test_sending(self) -> None:
        opened = self.opened(Permission.SEND)
        self.assertLessEqual({"POST transfers/send", "POST jobs/J/cancel", "GET jobs"}, opened)
        self.assertEqual(
            set(),
            opened & {"GET studies", f"GET transfers/chunks/{ID}", f"DELETE studies/{ID}"},
        )

    def test_administering_is_everything(self) -> None:
        everything = {f"{method} {route}" for method, route in self.ROUTES}
        self.assertEqual(everything, self.opened(Permission.ADMINISTER))


class GateTests(SynchronousTestCase):
    """The whole site."""

    def house(self, **keys: Any) -> House:
        settings = {
            "AuthenticationEnabled": True,
            "RegisteredUsers": {"B": cheap_hash(SECRET), "reader": SECRET},
            "BearerTokens": {"nightly": TOKEN},
            "Permissions": {"B": ["receive"], "reader": ["read"], "nightly": ["administer"]},
            **keys,
        }
        return House(settings, peers=[FakePeer("C")])

    def test_what_a_peer_may_not(self) -> None:
        house = self.house()
        peer = {"Authorization": basic("B", SECRET)}
        for method, target in (
            ("GET", "/studies"), ("GET", "/jobs"), ("POST", "/transfers/send"),
            ("POST", "/transfers/pull"), ("GET", "/peers?expand"), ("GET", "/system"),
            ("GET", "//transfers/%70eers"), ("PUT", "/transfers/bandwidth"), ("GET", "/"),
            ("GET", "/transfers/chunks%2f..%2f..%2fjobs"),
        ):  # fmt: skip
            answer = house.request(method, target, b"" if method != "GET" else None, peer)
            self.assertEqual(403, answer.status, target)
            self.assertEqual(45, answer.json()["OrthancStatus"])
            self.assertIn("B may not do this", answer.json()["Details"])
        dots = house.request("GET", "/transfers/push/../../studies", headers=peer)
        self.assertEqual(404, dots.status, "dots lead nowhere")
        lookup = house.request("POST", "//transfers//lookup/", b"[]", peer)
        self.assertEqual(200, lookup.status)
        self.assertEqual(200, house.request("GET", "/plugins/transfers", headers=peer).status)

    def test_a_hashed_user_streams_a_body(self) -> None:
        """The body comes while the password is being verified: none of it is lost."""
        house = self.house(Permissions={})
        headers = {"Authorization": basic("B", SECRET)}
        data = make_dicom(300_000, "1.2.3")
        answer = house.request("POST", "/transfers/lookup", b" " * len(data) + b"[]", headers)
        self.assertEqual(200, answer.status, answer.body)

    def test_tokens(self) -> None:
        house = self.house()
        good = {"Authorization": f"Bearer {TOKEN}"}
        self.assertEqual(200, house.request("GET", "/system", headers=good).status)
        bad = {"Authorization": f"Bearer {TOKEN[:-1]}"}
        self.assertEqual(401, house.request("GET", "/system", headers=bad).status)

    def test_failures_are_counted(self) -> None:
        house = self.house()
        house.request("GET", "/system", headers={"Authorization": basic("B", "x")})
        self.assertEqual(401, house.request("GET", "/system").status)
        good = {"Authorization": f"Bearer {TOKEN}"}
        connection = house.connect()
        connection.request("GET", "/tools/metrics-prometheus", headers=good)
        house.clock.advance(LONGEST_S)
        (answer,) = connection.answers()
        self.assertIn(b"orthanc_transfers_failed_login_count 1 ", answer.body)

    def test_too_many_tries_are_turned_away(self) -> None:
        house = self.house()
        bad = {"Authorization": basic("B", "x")}
        house.request("GET", "/system", headers=bad)
        connections = [house.connect() for _ in range(20)]
        for number, connection in enumerate(connections):
            headers = {"Authorization": basic("B", f"x{number}")}
            connection.request("GET", "/system", headers=headers)
        answered = [a for c in connections for a in c.answers()]
        self.assertEqual({503}, {answer.status for answer in answered})
        self.assertTrue(all(answer.header("Retry-After") for answer in answered))
        for connection in connections:
            connection.leave()
        house.clock.pump([LONGEST_S] * 30)

    def test_a_refused_client_that_leaves(self) -> None:
        house = self.house()
        house.request("GET", "/system", headers={"Authorization": basic("B", "x")})
        connection = house.connect()
        connection.request("GET", "/system", headers={"Authorization": basic("B", "y")})
        connection.leave()
        house.clock.pump([1] * 20)
        self.assertEqual([], self.flushLoggedErrors())


class DoorTests(SynchronousTestCase):
    """Before anything is read."""

    def door(self, host: str, allowed: bool = False) -> Any:
        inner: Any = Factory.forProtocol(Protocol)
        door = Door(Clock(), inner, lambda address: allowed or is_local(address), None)
        kind = IPv6Address if ":" in host else IPv4Address
        return door.buildProtocol(kind("TCP", host, 50_000))

    def test_another_host(self) -> None:
        for host in ("10.0.0.1", "2001:db8::1", "fe80::1%eth0", "::ffff:10.0.0.1", "0.0.0.0"):
            self.assertIsNone(self.door(host), host)
            self.assertIsNotNone(self.door(host, allowed=True), host)

    def test_this_host(self) -> None:
        for host in ("127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1"):
            self.assertIsNotNone(self.door(host), host)


class OriginTests(SynchronousTestCase):
    def test_pages_of_others(self) -> None:
        for origin, site, host, foreign in (
            (None, None, "pacs", False),
            (None, "none", "pacs", False),
            (None, "same-origin", "pacs", False),
            (None, "cross-site", "pacs", True),
            (None, "same-site", "pacs", True),
            ("http://pacs", None, "pacs", False),
            ("https://pacs", None, "pacs", False),
            ("https://PACS:443", None, "pacs", False),
            ("https://pacs:8443", None, "pacs:8443", False),
            ("https://pacs:8443", None, "pacs", True),
            ("https://outside", "same-origin", "pacs", False),
            ("http://pacs.evil", None, "pacs", True),
            ("http://pacs@evil", None, "pacs", True),
            ("null", None, "pacs", True),
            ("", None, "", True),
            ("https://friend", "cross-site", "pacs", False),
        ):
            found = is_foreign("POST", origin, site, [host], ["https://friend"])
            self.assertIs(foreign, found, (origin, site, host))
            for method in ("GET", "HEAD"):
                self.assertFalse(is_foreign(method, origin, site, [host], []))

    def test_the_site(self) -> None:
        house = House()
        evil = {"Origin": "https://evil.example.org", "Content-Type": "text/plain"}
        for method, target in (
            ("POST", "/transfers/send"),
            ("POST", "/instances"),
            ("DELETE", f"/studies/{ID}"),
            ("PUT", "/transfers/bandwidth"),
            ("POST", "/jobs/J/cancel"),
        ):
            answer = house.request(method, target, b"{}", evil)
            self.assertEqual(403, answer.status)
            self.assertIn("AllowedOrigins", answer.json()["Details"])
        allowed = House({"AllowedOrigins": ["https://evil.example.org"]})
        self.assertEqual(200, allowed.request("POST", "/transfers/lookup", b"[]", evil).status)
        own = {"Host": "pacs:8042", "Origin": "http://pacs:8042"}
        self.assertEqual(200, house.request("POST", "/transfers/lookup", b"[]", own).status)

    def test_what_browsers_are_told(self) -> None:
        house = House({"AuthenticationEnabled": True, "RegisteredUsers": {"a": "b"}})
        header = {"Authorization": basic("a", "b")}

        def told(answer: Answer) -> None:
            self.assertEqual("nosniff", answer.header("X-Content-Type-Options"))
            self.assertEqual("DENY", answer.header("X-Frame-Options"))
            self.assertIn("frame-ancestors 'none'", answer.header("Content-Security-Policy") or "")
            self.assertEqual("no-referrer", answer.header("Referrer-Policy"))
            self.assertEqual("no-store", answer.header("Cache-Control"))
            self.assertIsNone(answer.header("Access-Control-Allow-Origin"))

        for path in ("/system", "/nowhere", "/transfers/peers", "/"):
            told(house.request("GET", path, headers=header))
            told(house.request("GET", path))
