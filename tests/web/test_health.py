"""``/healthz`` and ``/readyz``: what they say, to whom, and how often anybody is asked for it."""

import json
from collections.abc import Callable
from typing import Any

from twisted.internet import error as net
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from tests.web.fake_orthanc import make_house
from tests.web.harness import House
from txtransfers.errors import StorageFailure, StorageFull
from txtransfers.store import space
from txtransfers.threads import SynchronousThreads
from txtransfers.web.health import Readiness


class RouteTests(SynchronousTestCase):
    def make(self, **configuration: Any) -> House:
        house = House(configuration, folder=self.mktemp())
        self.addCleanup(house.stop)
        return house

    def assert_not_ready(self, house: House, *reasons: str) -> None:
        answer = house.request("GET", "/readyz")
        self.assertEqual((503, "no-store"), (answer.status, answer.header("Cache-Control")))
        self.assertEqual({"Status": "not ready", "Reasons": [*reasons]}, answer.json())

    def test_well(self) -> None:
        house = self.make()
        for path, status in (("/healthz", "alive"), ("/readyz", "ready")):
            answer = house.request("GET", path)
            self.assertEqual((200, {"Status": status}), (answer.status, answer.json()))
            self.assertEqual("no-store", answer.header("Cache-Control"))
            self.assertEqual(200, house.request("HEAD", path).status)
            self.assertEqual(405, house.request("POST", path, b"x").status)

    def test_nobody_is_asked_for_a_password(self) -> None:
        house = self.make(AuthenticationEnabled=True, RegisteredUsers={"a": "b"})
        wrong = {"Authorization": "Basic bm9ib2R5Om5vdGhpbmc="}
        for path in ("/healthz", "/readyz"):
            for headers in ({}, wrong):
                self.assertEqual(200, house.request("GET", path, headers=headers).status)
            self.assertEqual(401, house.request("GET", f"{path}/x").status)

    def test_other_hosts_are_turned_away_as_everywhere(self) -> None:
        house = self.make()
        self.assertEqual(403, house.request("GET", "/healthz", host="192.0.2.1").status)

    def test_a_daemon_that_stops(self) -> None:
        house = self.make()
        house.transactions.refuse_more()
        self.assert_not_ready(house, "stopping")
        self.assertEqual(200, house.request("GET", "/healthz").status)

    def test_no_room(self) -> None:
        house = self.make()
        self.patch(space.Space, "_on_disk", lambda _self: 0)
        self.assert_not_ready(house, "no room in the storage")

    def test_a_store_that_is_closed(self) -> None:
        house = self.make()
        house.store.database.close()
        self.assert_not_ready(house, "the storage cannot be used")
        self.assertEqual(200, house.request("GET", "/healthz").status)


class ReadinessTests(SynchronousTestCase):
    def make(self, probe: Callable[[], None], threads: Any = None) -> Readiness:
        house = House()
        self.clock = house.clock
        return Readiness(self.clock, threads or SynchronousThreads(), probe, lambda: False, None)

    def ask(self, readiness: Readiness) -> "Deferred[Any]":
        return Deferred.fromCoroutine(readiness.reasons())

    def test_it_is_looked_at_once_a_second(self) -> None:
        looks: list[int] = []
        readiness = self.make(lambda: looks.append(1))
        for _ in range(100):
            self.assertEqual((), self.successResultOf(self.ask(readiness)))
        self.assertEqual(1, len(looks))
        self.clock.advance(1)
        self.successResultOf(self.ask(readiness))
        self.assertEqual(2, len(looks))

    def test_it_changes(self) -> None:
        errors: list[Exception] = [StorageFull("full"), StorageFailure("x"), OSError("y")]

        def probe() -> None:
            if errors:
                raise errors.pop(0)

        readiness = self.make(probe)
        told = []
        for _ in range(4):
            told.append(self.successResultOf(self.ask(readiness)))
            self.clock.advance(1)
        unusable = ("the storage cannot be used",)
        self.assertEqual([("no room in the storage",), unusable, unusable, ()], told)

    def test_a_disk_that_hangs(self) -> None:
        calls: list[Deferred[None]] = []

        class Hanging:
            def run(self, _function: Any) -> "Deferred[None]":
                calls.append(Deferred())
                return calls[-1]

        readiness = self.make(lambda: None, Hanging())
        asked = [self.ask(readiness) for _ in range(5)]
        self.assertEqual(1, len(calls))
        self.clock.advance(3)
        for each in asked:
            self.assertEqual(("the storage does not answer",), self.successResultOf(each))


class GatewayTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.house, self.orthanc = make_house({})

    def ask(self, target: str) -> tuple[int, bytes]:
        """Ask, where Orthanc answers at once."""
        client = self.house.connect()
        client.request("GET", target)
        if self.orthanc.lines and self.orthanc.lines[-1].sent():
            self.orthanc.lines[-1].ok(b"{}")
        [answer] = client.answers()
        self.house.clock.advance(1)
        return answer.status, answer.body

    def test_all_three_are_ours(self) -> None:
        self.assertEqual((200, b'{"Status": "ready"}\n'), self.ask("/readyz"))
        self.assertEqual((200, b'{"Status": "alive"}\n'), self.ask("/healthz"))
        status, text = self.ask("/metrics")
        self.assertEqual(200, status)
        self.assertIn(b"\ntxtransfers_orthanc_up 1.0\n", text)

    def test_an_orthanc_that_is_down(self) -> None:
        self.orthanc.refusal = net.ConnectionRefusedError()
        status, body = self.ask("/readyz")
        self.assertEqual((503, ["orthanc does not answer"]), (status, json.loads(body)["Reasons"]))
        self.assertIn(b"\ntxtransfers_orthanc_up 0.0\n", self.ask("/metrics")[1])
        self.assertEqual(200, self.ask("/healthz")[0])

    def test_one_that_is_silent(self) -> None:
        clients = [self.house.connect() for _ in range(5)]
        for client in clients:
            client.request("GET", "/readyz")
        self.assertEqual(1, len(self.orthanc.lines))
        self.house.clock.pump([1] * 4)
        self.assertEqual([503] * 5, [client.answers()[0].status for client in clients])
