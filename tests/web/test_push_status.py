"""What daemons that know our extension tell each other of a push: keys, deltas, the status.

And what a transaction does that outlives the request, the connection, or the daemon.
"""

import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from twisted.internet.defer import Deferred, fail

from tests.web.harness import Connection, FakePeer, House, make_dicom
from tests.web.test_hostile import FILE, ID, NOBODY, HostileCase, chunk, instance, opening
from txtransfers.errors import BadState, CorruptedInstances, StorageFailure, StorageFull
from txtransfers.store.memory import MemoryIncoming, MemoryStore
from txtransfers.web.transfers import STATUS_WAIT_S

ABILITIES = {"Packed": True, "Early": True, "Pieces": True, "Zstd": True}
KEY = "01234567-89ab-cdef-0123-456789abcdef"
FILES = tuple(make_dicom(1000, f"1.2.3.{n}") for n in range(4))


def id_of(data: bytes) -> str:
    """The identifier that a DICOM file has in a store."""
    return MemoryStore().add(data)


IDS = tuple(id_of(data) for data in FILES)


def extended(body: bytes, key: Any = KEY, delta: bool = False, **more: Any) -> bytes:
    """An opening with our member."""
    return json.dumps(
        json.loads(body) | {"TxTransfers": {"Key": key, "Delta": delta, **more}}
    ).encode()


def in_fifths() -> bytes:
    """The opening of ``FILE`` in five buckets."""
    return opening(buckets=[[chunk(offset=n, size=200)] for n in range(0, 1000, 200)])


def of_files(buckets: Sequence[Sequence[int]], files: Sequence[bytes] = FILES) -> bytes:
    """The opening of ``files``, in buckets of whole ones."""
    return opening(
        [instance(id_of(data), data) for data in files],
        [[chunk(id_of(files[n]), 0, len(files[n])) for n in bucket] for bucket in buckets],
    )


class PushCase(HostileCase):
    """Base of the tests below."""

    def setUp(self) -> None:
        self.store = MemoryStore()
        self.house = House(store=self.store, peers=[FakePeer("B")])

    def restart(self) -> None:
        """Another life of the daemon, with the same store."""
        for incoming in self.store.incoming.values():
            incoming.is_open = False
        self.house = House(store=self.store, peers=[FakePeer("B")])

    def incoming(self, path: str) -> MemoryIncoming:
        """The staging area of a push."""
        return self.store.incoming[f"push.{path[-36:]}"]

    def open(self, body: bytes) -> Any:
        """Open a push; gives the answer."""
        answer = self.house.request("POST", "/transfers/push", body)
        self.assertEqual(200, answer.status, answer.body)
        return answer.json()

    def put(self, path: str, number: int, body: bytes) -> None:
        """Send a bucket."""
        answer = self.house.request("PUT", f"{path}/{number}", body)
        self.assertEqual((200, b"{}"), (answer.status, answer.body))

    def commit(self, path: str) -> None:
        """Commit a push."""
        answer = self.house.request("POST", f"{path}/commit", b"")
        self.assertEqual((200, b"{}"), (answer.status, answer.body))

    def status(self, path: str, query: str = "") -> Any:
        """How a push stands."""
        answer = self.house.request("GET", path + query)
        self.assertEqual((200, "application/json"), (answer.status, answer.header("Content-Type")))
        return answer.json()

    def begin(self, method: str, target: str) -> Connection:
        """Ask for something whose answer may take a while."""
        connection = self.house.connect()
        connection.request(method, target, b"" if method == "POST" else None)
        return connection

    def assert_unknown(self, path: str) -> None:
        """There is no such transaction any more."""
        for method, target, body in (
            ("GET", path, None),
            ("GET", f"{path}?verify=1", None),
            ("PUT", f"{path}/0", FILE),
            ("DELETE", path, None),
            ("POST", f"{path}/commit", b""),
        ):
            answer = self.house.request(method, target, body)
            self.assert_refused(answer, 404, 17, path[-36:])


class StatusTests(PushCase):
    """``GET /transfers/push/T``."""

    def test_receiving(self) -> None:
        path = self.open_push(in_fifths())
        wanted = {
            "ID": path[-36:],
            "State": "Receiving",
            "Missing": [[0, 4]],
            "AlreadyStored": [],
            "Different": [],
            "Replaced": [],
            "Error": "",
            "Received": "0",
            "Partial": {},
            "Wasted": "0",
        }
        self.assertEqual(wanted, self.status(path))
        for number in (0, 3):
            self.put(path, number, FILE[number * 200 :][:200])
        wanted |= {"Missing": [[1, 2], [4, 4]], "Received": "400"}
        self.assertEqual(wanted, self.status(path))
        for number in (1, 2, 4):
            self.put(path, number, FILE[number * 200 :][:200])
        wanted |= {"Missing": [], "Received": str(len(FILE))}
        self.assertEqual(wanted, self.status(path))

    def test_half_a_bucket_is_missing(self) -> None:
        path = self.open_push(in_fifths())
        connection = self.house.connect()
        connection.request("PUT", f"{path}/2", FILE[400:500], {"Content-Length": "200"})
        for query in ("", "?verify=1"):
            self.assertEqual([[0, 4]], self.status(path, query)["Missing"])
        connection.send(FILE[500:600])
        self.assertEqual([200], [answer.status for answer in connection.answers()])
        self.assertEqual([[0, 1], [3, 4]], self.status(path)["Missing"])

    def test_after_a_commit_that_failed(self) -> None:
        path = self.open_push()
        self.put(path, 0, bytes(1000))
        self.assertEqual(500, self.house.request("POST", f"{path}/commit", b"").status)
        status = self.status(path)
        self.assertEqual(("Receiving", [[0, 0]]), (status["State"], status["Missing"]))
        self.assertIn(ID, status["Error"])
        self.assert_usable(path)

    def test_verifying(self) -> None:
        path = self.open_push()
        reading: list[Deferred[Any]] = []

        def missing(_plan: Any) -> Any:
            reading.append(Deferred())
            return reading[-1]

        self.incoming(path).missing = missing  # type: ignore[method-assign]
        connection = self.begin("GET", f"{path}?verify=1")
        self.house.clock.advance(STATUS_WAIT_S - 0.1)
        self.assertEqual([], connection.answers())
        self.house.clock.advance(0.1)
        (answer,) = connection.answers()
        self.assertEqual((200, "Verifying"), (answer.status, answer.json()["State"]))
        self.assertEqual([], answer.json()["Missing"])
        waiting = self.begin("GET", path)
        for done in reading:
            done.callback((0,))
        (answer,) = waiting.answers()
        self.assertEqual(
            ("Receiving", [[0, 0]]), (answer.json()["State"], answer.json()["Missing"])
        )
        self.assertEqual([200], [answer.status for answer in connection.answers()])

    def test_verifying_that_fails_after_the_answer(self) -> None:
        path = self.open_push()
        reading: Deferred[Any] = Deferred()
        self.incoming(path).missing = lambda _plan: reading  # type: ignore[method-assign]
        connection = self.begin("GET", path)
        self.house.clock.advance(STATUS_WAIT_S)
        reading.errback(StorageFailure("the disk is broken"))
        self.assertEqual([200], [answer.status for answer in connection.answers()])
        self.assertEqual([], self.flushLoggedErrors())

    def test_verifying_that_fails(self) -> None:
        path = self.open_push()
        self.incoming(path).missing = lambda _plan: fail(  # type: ignore[method-assign]
            StorageFailure("the disk is broken")
        )
        self.assert_refused(self.house.request("GET", path), 500, 14, "the disk is broken")

    def test_committing(self) -> None:
        path = self.open_push()
        self.put(path, 0, FILE)
        incoming = self.incoming(path)
        real, ending = incoming.commit, Deferred()  # type: ignore[var-annotated]
        incoming.commit = lambda: ending  # type: ignore[method-assign]
        committing = self.begin("POST", f"{path}/commit")
        for query in ("", "?verify=1"):
            asking = self.begin("GET", path + query)
            self.house.clock.advance(STATUS_WAIT_S - 0.1)
            self.assertEqual([], asking.answers())
            self.house.clock.advance(0.1)
            (answer,) = asking.answers()
            self.assertEqual("Committing", answer.json()["State"])
        self.assert_refused(self.house.request("PUT", f"{path}/0", FILE), 409, 6, "committed")
        asking = self.begin("GET", path)
        real().chainDeferred(ending)
        self.assertEqual([b"{}"], [answer.body for answer in committing.answers()])
        self.assertEqual(["Committed"], [answer.json()["State"] for answer in asking.answers()])
        self.assertEqual("Committed", self.status(path)["State"])

    def test_a_commit_that_fails_while_it_is_asked_for(self) -> None:
        path = self.open_push()
        ending: Deferred[Any] = Deferred()
        self.incoming(path).commit = lambda: ending  # type: ignore[method-assign]
        self.begin("POST", f"{path}/commit")
        asking = self.begin("GET", path)
        ending.errback(CorruptedInstances("not what was announced", (ID,)))
        (answer,) = asking.answers()
        self.assertEqual("Receiving", answer.json()["State"])
        self.assertEqual("not what was announced", answer.json()["Error"])

    def test_a_sender_that_leaves_while_it_is_committed(self) -> None:
        path = self.open_push()
        self.put(path, 0, FILE)
        incoming = self.incoming(path)
        real, ending = incoming.commit, Deferred()  # type: ignore[var-annotated]
        incoming.commit = lambda: ending  # type: ignore[method-assign]
        self.begin("POST", f"{path}/commit").leave()
        self.begin("GET", path).leave()
        real().chainDeferred(ending)
        self.assertEqual("Committed", self.status(path)["State"])
        self.assertEqual([FILE], list(self.store.files.values()))
        self.assertEqual([], self.flushLoggedErrors())

    def committed(self) -> Any:
        """The status of a push of what is new, of what is here, and of what is here otherwise."""
        other = make_dicom(1200, "1.2.3.2")
        files = (FILES[0], FILES[1], other, FILES[3])
        self.store.add(FILES[1])
        self.store.add(FILES[2])
        path = self.open_push(of_files([[0, 1], [2, 3]], files))
        self.put(path, 0, files[0] + files[1])
        self.put(path, 1, files[2] + files[3])
        self.commit(path)
        before = self.status(path)
        self.assertEqual(before, self.status(path, "?verify=1"))
        self.restart()
        self.assertEqual(before, self.status(path))
        self.assertEqual(("Committed", [], ""), tuple(before[n] for n in _MEMBERS))
        return [before[name] for name in ("AlreadyStored", "Different", "Replaced")]

    def test_committed(self) -> None:
        self.assertEqual([[[1, 1]], [[2, 2]], []], self.committed())

    def test_committed_where_instances_are_replaced(self) -> None:
        self.store.overwrite_instances = True
        self.assertEqual([[], [], [[1, 2]]], self.committed())

    def test_unknown(self) -> None:
        self.assert_unknown(f"/transfers/push/{NOBODY}")
        path = self.open_push()
        self.assertEqual(200, self.house.request("DELETE", path).status)
        self.assert_unknown(path)

    def test_one_that_is_being_deleted(self) -> None:
        path = self.open_push()
        gone: Deferred[bool] = Deferred()
        self.incoming(path).discard = lambda: gone  # type: ignore[method-assign]
        deleting = self.begin("DELETE", path)
        self.assert_refused(self.house.request("GET", path), 404, 17)
        gone.callback(False)
        self.assertEqual([200], [answer.status for answer in deleting.answers()])

    def test_a_question_keeps_it_alive(self) -> None:
        path = self.open_push()
        for _ in range(5):
            self.house.clock.advance(50)
            self.status(path)
            expiring = Deferred.fromCoroutine(self.house.transactions.expire(60, 0))
            self.successResultOf(expiring)
        self.assert_usable(path)


_MEMBERS = ("State", "Missing", "Error")


class KeyTests(PushCase):
    """Openings with a key that the sender chose."""

    def test_without_the_member(self) -> None:
        answer = self.open(in_fifths())
        self.assertEqual({"ID", "Path"}, set(answer))
        self.assertEqual(answer["ID"], str(UUID(answer["ID"])))
        self.assertEqual(f"/transfers/push/{answer['ID']}", answer["Path"])

    def test_with_it(self) -> None:
        wanted = {
            "ID": KEY,
            "Path": f"/transfers/push/{KEY}",
            "TxTransfers": {"AlreadyStored": [], "Awaits": True, **ABILITIES},
        }
        self.assertEqual(wanted, self.open(extended(opening())))
        self.assert_usable(wanted["Path"])

    def test_twice(self) -> None:
        first = self.open(extended(in_fifths()))
        self.put(first["Path"], 1, FILE[200:400])
        self.assertEqual(first, self.open(extended(in_fifths())))
        self.assertEqual([[0, 0], [2, 4]], self.status(first["Path"])["Missing"])
        self.assertEqual(1, self.house.transactions.counters.created)
        self.assertEqual(3, self.house.transactions.available)

    def test_twice_with_a_restart_between(self) -> None:
        first = self.open(extended(in_fifths()))
        self.put(first["Path"], 1, FILE[200:400])
        self.restart()
        self.assertEqual(first, self.open(extended(in_fifths())))
        self.assertEqual([[0, 0], [2, 4]], self.status(first["Path"])["Missing"])

    def test_twice_where_there_is_no_room(self) -> None:
        first = self.open(extended(opening()))
        for _ in range(3):
            self.open_push()
        self.assertEqual(503, self.house.request("POST", "/transfers/push", opening()).status)
        self.assertEqual(first, self.open(extended(opening())))

    def test_of_other_content(self) -> None:
        path = self.open(extended(opening()))["Path"]
        for body in (
            in_fifths(),
            opening(compression="gzip"),
            opening([instance(data=FILES[0])]),
            of_files([[0], [1, 2, 3]]),
        ):
            answer = self.house.request("POST", "/transfers/push", extended(body))
            self.assert_refused(answer, 409, 6, KEY)
            self.assertNotIn("PushExtension", answer.json()["Details"])
        self.assert_usable(path)

    def test_of_what_is_committed(self) -> None:
        """A key is used once."""
        self.assert_usable(self.open(extended(opening()))["Path"])
        for body in (opening(), of_files([[0, 1, 2, 3]])):
            answer = self.house.request("POST", "/transfers/push", extended(body))
            self.assert_refused(answer, 409, 6, KEY)

    def test_of_what_was_deleted(self) -> None:
        path = self.open(extended(opening()))["Path"]
        self.assertEqual(200, self.house.request("DELETE", path).status)
        self.assertEqual(path, self.open(extended(in_fifths()))["Path"])
        self.assertEqual([[0, 4]], self.status(path)["Missing"])

    def test_keys_that_are_none(self) -> None:
        for key in ("", "x", KEY.upper(), KEY[:-1], KEY + "\n", "{" + KEY + "}", "../" + KEY):
            answer = self.house.request("POST", "/transfers/push", extended(opening(), key))
            self.assert_refused(answer, 400, 15, "Key")
        for key in (5, None, [KEY]):
            answer = self.house.request("POST", "/transfers/push", extended(opening(), key))
            self.assert_refused(answer, 400, 15)
        for member in (None, [], "x", {}, {"Delta": True}, {"Key": KEY, "Delta": "yes"}):
            body = json.dumps(json.loads(opening()) | {"TxTransfers": member}).encode()
            answer = self.house.request("POST", "/transfers/push", body)
            self.assert_refused(answer, 400, 15)
        self.assertEqual({}, self.store.incoming)

    def test_members_that_are_not_known_yet(self) -> None:
        self.open(extended(opening(), More=[1, 2]))
        body = json.dumps(json.loads(opening()) | {"TxTransfers": {"Key": NOBODY}}).encode()
        self.assertEqual(NOBODY, self.open(body)["ID"], "Delta may be left out")

    def test_twice_at_once(self) -> None:
        """The answer to the first was given up, while the store was still busy with it."""
        self.check_at_once(reopening_is_slow=False)

    def test_twice_at_once_where_it_takes_long_to_look(self) -> None:
        self.check_at_once(reopening_is_slow=True)

    def check_at_once(self, reopening_is_slow: bool) -> None:
        looking: list[Deferred[Any]] = []
        receiving: list[Deferred[Any]] = []
        receive = self.store.receive

        def slow_receive(*args: Any) -> Any:
            receiving.append(Deferred())
            receiving[-1].addCallback(lambda _nothing: receive(*args))
            return receiving[-1]

        def slow_reopen(_name: str) -> Any:
            looking.append(Deferred())
            return looking[-1]

        self.store.receive = slow_receive  # type: ignore[method-assign]
        if reopening_is_slow:
            self.store.reopen = slow_reopen  # type: ignore[method-assign]
        asking = []
        for _ in range(3):
            asking.append(self.house.connect())
            asking[-1].request("POST", "/transfers/push", extended(opening()))
        while looking:
            looking.pop().callback(None)
        self.assertEqual(1, len(receiving), "one staging area for one key")
        receiving[0].callback(None)
        answers = [connection.answers()[0].json() for connection in asking]
        self.assertEqual([answers[0]] * 3, answers)
        self.assertEqual(1, self.house.transactions.counters.created)
        self.assertEqual(3, self.house.transactions.available)
        self.assert_usable(answers[0]["Path"])


class DeltaTests(PushCase):
    """Instances that the receiver holds are not sent."""

    def test_what_is_held_is_named_and_its_buckets_are_shorter(self) -> None:
        for n in (0, 1, 3):
            self.store.add(FILES[n])
        answer = self.open(extended(of_files([[0, 1], [2, 3]]), delta=True))
        path = answer["Path"]
        self.assertEqual(
            {"AlreadyStored": [[0, 1], [3, 3]], "Awaits": True, **ABILITIES}, answer["TxTransfers"]
        )
        status = self.status(path)
        self.assertEqual([[1, 1]], status["Missing"])
        self.assertEqual([[0, 1], [3, 3]], status["AlreadyStored"])
        whole = self.house.request("PUT", f"{path}/1", FILES[2] + FILES[3])
        self.assert_refused(whole, 500, 9, "Bucket 1", "1000")
        self.put(path, 1, FILES[2])
        self.put(path, 0, b"")
        self.commit(path)
        self.assertEqual([[0, 1], [3, 3]], self.status(path)["AlreadyStored"])
        self.assertEqual(sorted(FILES), sorted(self.store.files.values()))

    def test_all_is_held(self) -> None:
        for data in FILES:
            self.store.add(data)
        answer = self.open(extended(of_files([[0, 1], [2, 3]]), delta=True))
        self.assertEqual(
            {"AlreadyStored": [[0, 3]], "Awaits": True, **ABILITIES}, answer["TxTransfers"]
        )
        self.commit(answer["Path"])
        status = self.status(answer["Path"])
        self.assertEqual(("Committed", [[0, 3]]), (status["State"], status["AlreadyStored"]))

    def test_it_is_not_asked_for(self) -> None:
        self.store.add(FILES[0])
        answer = self.open(extended(of_files([[0]], FILES[:1]), delta=False))
        self.assertEqual({"AlreadyStored": [], "Awaits": True, **ABILITIES}, answer["TxTransfers"])
        plain = self.open(of_files([[0]], FILES[:1]))
        for path in (answer["Path"], plain["Path"]):
            self.put(path, 0, FILES[0])
            self.commit(path)
            self.assertEqual([[0, 0]], self.status(path)["AlreadyStored"])

    def test_other_content_is_not_held(self) -> None:
        self.store.add(make_dicom(1200, "1.2.3.0"))
        answer = self.open(extended(of_files([[0]], FILES[:1]), delta=True))
        self.assertEqual({"AlreadyStored": [], "Awaits": True, **ABILITIES}, answer["TxTransfers"])
        self.put(answer["Path"], 0, FILES[0])
        self.commit(answer["Path"])
        self.assertEqual([[0, 0]], self.status(answer["Path"])["Different"])

    def test_deleted_meanwhile(self) -> None:
        """The commit says so, and what is missing can be sent."""
        self.store.add(FILES[0])
        path = self.open(extended(of_files([[0, 1, 2, 3]]), delta=True))["Path"]
        self.put(path, 0, b"".join(FILES[1:]))
        del self.store.files[IDS[0]]
        answer = self.house.request("POST", f"{path}/commit", b"")
        self.assert_refused(answer, 500, 20)
        status = self.status(path)
        self.assertEqual(([], [[0, 0]]), (status["AlreadyStored"], status["Missing"]))
        self.put(path, 0, b"".join(FILES))
        self.commit(path)
        self.assertEqual(sorted(FILES), sorted(self.store.files.values()))

    def test_the_same_after_a_restart(self) -> None:
        self.store.add(FILES[0])
        body = extended(of_files([[0, 1, 2, 3]]), delta=True)
        first = self.open(body)
        self.restart()
        self.assertEqual(first, self.open(body))
        self.put(first["Path"], 0, b"".join(FILES[1:]))
        self.commit(first["Path"])


class SurvivingTests(PushCase):
    """Transactions, and their ends, outlive requests and the daemon."""

    def test_goes_on_after_a_restart(self) -> None:
        path = self.open_push(in_fifths())
        for number in (0, 1):
            self.put(path, number, FILE[number * 200 :][:200])
        self.restart()
        self.assertEqual([[2, 4]], self.status(path, "?verify=1")["Missing"])
        for number in (2, 3, 4):
            self.put(path, number, FILE[number * 200 :][:200])
        self.commit(path)
        self.assertEqual([FILE], list(self.store.files.values()))

    def test_a_commit_that_comes_again(self) -> None:
        path = self.open_push()
        self.assert_usable(path)
        self.commit(path)
        self.restart()
        self.commit(path)
        self.assertEqual([FILE], list(self.store.files.values()))
        self.assertEqual(0, self.house.transactions.counters.committed)

    def test_what_is_committed_takes_nothing_more(self) -> None:
        path = self.open_push()
        self.assert_usable(path)
        for _ in range(2):
            for method, target in (("DELETE", path), ("PUT", f"{path}/0")):
                answer = self.house.request(method, target, FILE)
                self.assert_refused(answer, 404, 17, path[-36:], "committed")
            self.restart()
        self.assertEqual([FILE], list(self.store.files.values()))

    def commit_slowly(self) -> tuple[str, Connection, "Deferred[Any]"]:
        """A push that is being committed."""
        path = self.open_push()
        self.put(path, 0, FILE)
        ending: Deferred[Any] = Deferred()
        self.incoming(path).commit = lambda: ending  # type: ignore[method-assign]
        return path, self.begin("POST", f"{path}/commit"), ending

    def test_deleted_during_its_commit(self) -> None:
        path, committing, ending = self.commit_slowly()
        asking = self.begin("GET", path)
        answer = self.house.request("DELETE", path)
        self.assertEqual((200, b"{}"), (answer.status, answer.body))
        ending.errback(BadState("What was received is discarded: it cannot be committed"))
        (answer,) = committing.answers()
        self.assert_refused(answer, 409, 6, "discarded")
        (answer,) = asking.answers()
        self.assert_refused(answer, 404, 17)
        self.assert_unknown(path)
        self.assertEqual({}, self.store.files)

    def test_deleted_during_its_commit_when_it_is_too_late(self) -> None:
        path, committing, ending = self.commit_slowly()
        incoming = self.incoming(path)
        del incoming.commit  # the real one
        self.successResultOf(incoming.commit())
        answer = self.house.request("DELETE", path)
        self.assert_refused(answer, 404, 17, "committed")
        ending.callback(incoming.report)
        self.assertEqual([b"{}"], [answer.body for answer in committing.answers()])
        self.assertEqual("Committed", self.status(path)["State"])
        self.commit(path)

    def test_committed_twice_at_once(self) -> None:
        path, committing, ending = self.commit_slowly()
        again = self.begin("POST", f"{path}/commit")
        incoming = self.incoming(path)
        del incoming.commit
        incoming.commit().chainDeferred(ending)
        for connection in (committing, again):
            self.assertEqual([b"{}"], [answer.body for answer in connection.answers()])
        self.assertEqual(1, self.house.transactions.counters.committed)


class FullDiskTests(PushCase):
    """A disk that is full ends the transaction, and frees what it took."""

    def open_on_a_full_disk(self) -> str:
        path = self.open_push()
        self.incoming(path).write = lambda _pieces: fail(  # type: ignore[method-assign]
            StorageFull("No room left on the disk")
        )
        return path

    def test_freed(self) -> None:
        path = self.open_on_a_full_disk()
        answer = self.house.request("PUT", f"{path}/0", FILE)
        self.assert_refused(answer, 507, 19, "No room left")
        self.assertEqual({}, self.store.incoming)
        self.assertEqual(4, self.house.transactions.available)
        self.assertEqual(1, self.house.transactions.counters.aborted)
        self.assertEqual(0, self.house.transactions.bodies.held)
        self.assert_refused(
            self.house.request("POST", f"{path}/commit", b""), 507, 19, "No room left"
        )
        self.assertEqual(404, self.house.request("GET", path).status)

    def test_while_another_bucket_comes(self) -> None:
        path = self.open_on_a_full_disk()
        other = self.house.connect()
        other.request("PUT", f"{path}/0", FILE[:500], {"Content-Length": "1000"})
        self.assertEqual(507, self.house.request("PUT", f"{path}/0", FILE).status)
        other.send(FILE[500:])
        (answer,) = other.answers()
        self.assert_refused(answer, 507, 19, "No room left")
        self.assertEqual(0, self.house.transactions.bodies.held)
        self.assertEqual(1, self.house.transactions.counters.aborted)
        self.assertEqual(4, self.house.transactions.available)

    def test_others_are_left(self) -> None:
        path, other = self.open_on_a_full_disk(), self.open_push()
        self.assertEqual(507, self.house.request("PUT", f"{path}/0", FILE).status)
        self.assert_usable(other)

    def test_not_at_its_opening(self) -> None:
        self.store.room = 999
        answer = self.house.request("POST", "/transfers/push", extended(opening()))
        self.assert_refused(answer, 507, 19, "1000", "999")
        self.store.room = 1000
        self.assert_usable(self.open(extended(opening()))["Path"])

    def test_what_is_held_needs_no_room(self) -> None:
        for data in FILES:
            self.store.add(data)
        self.store.room = sum(map(len, FILES))
        self.open(extended(of_files([[0, 1, 2, 3]]), delta=True))
        answer = self.house.request("POST", "/transfers/push", of_files([[0, 1, 2, 3]]))
        self.assert_refused(answer, 507, 19)
