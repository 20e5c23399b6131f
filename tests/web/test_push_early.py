"""Buckets that come before the opening of their push, and openings that are packed."""

import json

from tests.web.harness import Connection
from tests.web.test_hostile import FILE, opening
from tests.web.test_push_status import ABILITIES, FILES, IDS, KEY, PushCase, extended, in_fifths
from tests.web.test_push_status import of_files as opening_of_files
from txtransfers.transfer import incoming
from txtransfers.wire.messages import parse_lookup_answer
from txtransfers.wire.packed import PACKED, pack_push, parse_packed_lookup
from txtransfers.wire.pushes import parse_push

PATH = f"/transfers/push/{KEY}"


class EarlyCase(PushCase):
    def put_early(self, number: int, body: bytes, path: str = PATH) -> Connection:
        """Begin to send a bucket."""
        connection = self.house.connect()
        connection.request("PUT", f"{path}/{number}?early=1", body)
        return connection

    def assert_taken(self, *connections: Connection) -> None:
        for connection in connections:
            (answer,) = connection.answers()
            self.assertEqual((200, b"{}"), (answer.status, answer.body))


class EarlyTests(EarlyCase):
    def test_they_wait_for_the_opening(self) -> None:
        early = [self.put_early(n, FILE[n * 200 :][:200]) for n in (0, 3, 4)]
        self.assertEqual([[]] * 3, [each.answers() for each in early])
        answer = self.open(extended(in_fifths()))
        self.assertEqual(PATH, answer["Path"])
        self.assert_taken(*early)
        self.assertEqual([[1, 2]], self.status(PATH)["Missing"])
        for number in (1, 2):
            self.put(PATH, number, FILE[number * 200 :][:200])
        self.commit(PATH)
        self.assertEqual([FILE], list(self.store.files.values()))

    def test_one_that_comes_after_it(self) -> None:
        self.open(extended(in_fifths()))
        self.assert_taken(self.put_early(0, FILE[:200]))
        self.assertEqual({}, self.house.transactions._expected, "nobody waits, nothing is kept")

    def test_without_the_word_nothing_waits(self) -> None:
        self.assert_unknown(PATH)

    def test_an_opening_that_never_comes(self) -> None:
        early = self.put_early(0, FILE[:200])
        self.house.clock.advance(incoming.EXPECTED_S / 2)
        self.assertEqual([], early.answers())
        self.house.clock.advance(incoming.EXPECTED_S / 2)
        (answer,) = early.answers()
        self.assert_refused(answer, 404, 17, KEY)
        self.open(extended(in_fifths()))
        self.put(PATH, 0, FILE[:200])

    def test_an_opening_that_is_refused(self) -> None:
        early = self.put_early(0, FILE[:200])
        answer = self.house.request("POST", "/transfers/push", extended(opening(buckets=[])))
        self.assertEqual(400, answer.status)
        (answer,) = early.answers()
        self.assert_refused(answer, 404, 17, KEY)

    def test_names_that_cannot_be_opened_do_not_wait(self) -> None:
        for name in ("x", KEY.upper(), "0" * 36):
            (answer,) = self.put_early(0, FILE[:200], f"/transfers/push/{name}").answers()
            self.assertEqual(404, answer.status)

    def test_no_more_wait_than_are_allowed(self) -> None:
        self.patch(incoming, "_MOST_EXPECTED", 2)
        early = [self.put_early(0, FILE[:200]) for _ in range(3)]
        self.assertEqual([0, 0, 1], [len(each.answers()) for each in early])
        self.house.clock.advance(incoming.EXPECTED_S)
        self.assertEqual([], self.put_early(0, FILE[:200]).answers(), "there is room again")

    def test_a_large_body_is_not_read_before(self) -> None:
        data = bytes(2**20)
        early = self.put_early(0, data)
        self.assertGreater(early.flush(), 2**19)
        self.assertFalse(early.is_read)
        self.house.clock.advance(incoming.EXPECTED_S)
        (answer,) = early.answers()
        self.assertEqual(404, answer.status)

    def test_what_is_here_must_not_come(self) -> None:
        """Its bucket has become shorter, which its sender could not know."""
        self.store.add(FILES[1])
        early = [self.put_early(0, FILES[0] + FILES[1]), self.put_early(1, FILES[2] + FILES[3])]
        answer = self.open(extended(opening_of_files([[0, 1], [2, 3]]), delta=True))
        self.assertEqual([[1, 1]], answer["TxTransfers"]["AlreadyStored"])
        (refused,) = early[0].answers()
        self.assert_refused(refused, 409, 6, "bucket 0 are here already")
        self.assert_taken(early[1])
        self.put(PATH, 0, FILES[0])
        self.commit(PATH)
        self.assertEqual(set(IDS), set(self.store.files))


class PackedTests(EarlyCase):
    def test_an_opening(self) -> None:
        body = pack_push(parse_push(extended(in_fifths())))
        headers = {"Content-Type": PACKED}
        answer = self.house.request("POST", "/transfers/push", body, headers)
        self.assertEqual((200, PATH), (answer.status, answer.json()["Path"]), answer.body)
        for number in range(5):
            self.put(PATH, number, FILE[number * 200 :][:200])
        self.commit(PATH)
        self.assertEqual([FILE], list(self.store.files.values()))

    def test_one_that_is_none(self) -> None:
        headers = {"Content-Type": PACKED}
        answer = self.house.request("POST", "/transfers/push", in_fifths(), headers)
        self.assert_refused(answer, 400, 15, "packed")

    def test_a_lookup(self) -> None:
        body = json.dumps([{"Level": "Instance", "ID": self.store.add(FILE)}]).encode()
        plain = self.house.request("POST", "/transfers/lookup", body)
        headers = {"Accept": f"{PACKED}, application/json", "Accept-Transfer-Codecs": "none"}
        answer = self.house.request("POST", "/transfers/lookup", body, headers)
        self.assertEqual(PACKED, answer.header("Content-Type"))
        wanted = parse_lookup_answer(plain.body)
        found = parse_packed_lookup(answer.body)
        self.assertEqual(wanted.instances, found.instances)
        self.assertEqual((wanted.originator, frozenset()), (found.originator, found.codecs))

    def test_what_can_be_done_is_told(self) -> None:
        plugin = self.house.request("GET", "/plugins/transfers").json()
        self.assertEqual(ABILITIES, plugin["TxTransfers"])
