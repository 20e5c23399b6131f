"""A commit that names buckets which are still on their way (``docs/protocol.md``)."""

from twisted.internet.defer import Deferred

from tests.transfer.fake_peer import SlowStore
from txtransfers.transfer.received_push import AWAITED_S
from txtransfers.wire.pushes import commit_json

from .harness import Connection
from .test_hostile import FILE
from .test_push_status import PushCase, in_fifths


class AwaitedTests(PushCase):
    def setUp(self) -> None:
        super().setUp()
        self.path = self.open_push(in_fifths())

    def send(self, *numbers: int) -> None:
        for number in numbers:
            self.put(self.path, number, FILE[number * 200 :][:200])

    def commit_after(self, *numbers: int) -> Connection:
        connection = self.house.connect()
        connection.request("POST", f"{self.path}/commit", commit_json(numbers))
        return connection

    def test_all_are_there(self) -> None:
        self.send(0, 1, 2, 3, 4)
        for _ in range(2):  # again, as if the first answer had been lost
            (answer,) = self.commit_after(3, 4).answers()
            self.assertEqual((200, "Committed"), (answer.status, answer.json()["State"]))
        self.assertEqual([FILE], list(self.store.files.values()))

    def test_it_waits_for_the_last(self) -> None:
        self.send(0, 1, 2)
        committing = self.commit_after(2, 3, 4)
        self.send(4)
        self.assertEqual([], committing.answers())
        self.assertEqual("Receiving", self.status(self.path)["State"])
        self.send(3)
        (answer,) = committing.answers()
        self.assertEqual([], answer.json()["AlreadyStored"])
        self.assertEqual([FILE], list(self.store.files.values()))

    def test_one_that_never_comes(self) -> None:
        self.send(0, 1, 2)
        committing = self.commit_after(3, 4)
        self.house.clock.advance(AWAITED_S / 2)
        self.send(4)
        self.house.clock.advance(AWAITED_S / 2)
        self.assertEqual([], committing.answers(), "something came meanwhile")
        self.house.clock.advance(AWAITED_S)
        (answer,) = committing.answers()
        self.assert_refused(answer, 409, 6, "Bucket 3")
        self.send(3)
        self.commit(self.path)

    def test_deleted_meanwhile(self) -> None:
        self.send(0, 1, 2)
        committing = self.commit_after(3, 4)
        self.assertEqual(200, self.house.request("DELETE", self.path).status)
        (answer,) = committing.answers()
        self.assert_refused(answer, 404, 17)

    def test_one_that_it_does_not_name_is_missing(self) -> None:
        self.send(0, 1, 2)
        (answer,) = self.commit_after(2).answers()
        self.assertEqual(500, answer.status)
        self.send(3, 4)
        self.commit(self.path)

    def test_numbers_that_are_none(self) -> None:
        for body in (b'{"TxTransfers": {"After": [[1]]}}', b'{"TxTransfers": {"After": [[2, 1]]}}'):
            answer = self.house.request("POST", f"{self.path}/commit", body)
            self.assert_refused(answer, 400, 15)
        (answer,) = self.commit_after().answers()
        self.assertEqual(500, answer.status, "all are missing")

    def test_what_still_comes_of_one_that_came_otherwise_is_cut(self) -> None:
        self.send(0, 1, 2, 3)
        late = self.house.connect()
        late.request("PUT", f"{self.path}/4", FILE[800:900], {"Content-Length": "200"})
        committing = self.commit_after(4)
        self.send(4)
        (answer,) = committing.answers()
        self.assertEqual("Committed", answer.json()["State"])
        late.send(FILE[900:])
        (answer,) = late.answers()
        self.assert_refused(answer, 404, 17, "committed")
        self.assertEqual([FILE], list(self.store.files.values()))


class LeavingTests(PushCase):
    """A sender that leaves while it waits for something."""

    def setUp(self) -> None:
        super().setUp()
        self.store: SlowStore = SlowStore()
        self.restart()

    def test_a_bucket_whose_sender_left_while_the_push_was_verified(self) -> None:
        """It is not on its way: no commit waits for it, and the push expires."""
        path = self.open_push(in_fifths())
        for number in range(4):
            self.put(path, number, FILE[number * 200 :][:200])
        bodies = self.house.transactions.bodies
        bodies.resize(1)
        bodies.acquire()
        sender = self.house.connect()
        sender.request("PUT", f"{path}/4", FILE[800:900], {"Content-Length": "200"})
        self.store.slow = {"close"}
        self.begin("GET", f"{path}?verify=1")
        bodies.release()
        sender.leave()
        self.store.go_on()
        committing = self.house.connect()
        committing.request("POST", f"{path}/commit", commit_json([4]))
        self.house.clock.advance(AWAITED_S)
        (answer,) = committing.answers()
        self.assert_refused(answer, 409, 6, "Bucket 4")
        self.house.clock.advance(100)
        self.successResultOf(Deferred.fromCoroutine(self.house.transactions.expire(99, 0.0)))
        self.assert_unknown(path)
