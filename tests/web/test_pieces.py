"""Messages in pieces, as the server takes and gives them (docs/protocol.md, "In pieces")."""

import json
import uuid
from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.web.harness import Answer, Connection, House, make_dicom
from txtransfers.errors import BadParameter, BadState, TooBusy, UnknownResource
from txtransfers.web.pieces import PATIENCE_S, Pieces
from txtransfers.wire import packed
from txtransfers.wire.codec import Codec
from txtransfers.wire.pieces import PIECE, Piece, join, pieces
from txtransfers.wire.plan import Cut, Instance, plan_buckets
from txtransfers.wire.pushes import PushExtension, PushRequest

KEY = str(uuid.UUID(int=7))
TOKEN = "0123abcd-0123"


class PiecesTests(SynchronousTestCase):
    """Whatever comes, in any order, or does not come."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.pieces = Pieces(self.clock)

    def tearDown(self) -> None:
        self.assertEqual([], self.clock.getDelayedCalls(), "nothing is left under way")

    def collect(self, piece: Piece, data: bytes) -> "Deferred[bytes | None]":
        return Deferred.fromCoroutine(self.pieces.collect(piece, data))

    def deal(self, piece: Piece, make: Any) -> "Deferred[Any]":
        return Deferred.fromCoroutine(self.pieces.deal(piece, make))

    def test_the_first_gets_the_whole(self) -> None:
        for order in ((0, 1, 2), (2, 1, 0), (1, 0, 2)):
            message = pieces(3)
            came = {n: self.collect(message[n], b"%d" % n) for n in order}
            self.assertEqual(self.successResultOf(came[0]), b"012")
            for number in (1, 2):
                self.assertIsNone(self.successResultOf(came[number]))

    def test_one_that_does_not_come(self) -> None:
        first, second, _third = pieces(3)
        waiting = self.collect(first, b"a")
        self.successResultOf(self.collect(second, b"b"))
        self.clock.advance(PATIENCE_S)
        error = self.failureResultOf(waiting, BadState).value
        self.assertIn("Of 3 pieces 2 came", str(error))

    def test_one_that_comes_twice(self) -> None:
        first, second = pieces(2)
        waiting = [self.collect(first, b"a"), self.collect(first, b"a")]
        self.successResultOf(self.collect(second, b"b"))
        self.assertEqual([b"ab", b"ab"], [self.successResultOf(each) for each in waiting])

    def test_whoever_goes_away_leaves_nothing(self) -> None:
        first, _second = pieces(2)
        waiting = self.collect(first, b"a")
        waiting.cancel()
        self.clock.advance(PATIENCE_S)
        self.failureResultOf(waiting)

    def test_of_how_many(self) -> None:
        self.successResultOf(self.collect(Piece(TOKEN, 1, 2), b"a"))
        self.failureResultOf(self.collect(Piece(TOKEN, 1, 3), b"a"), BadParameter)
        self.clock.advance(PATIENCE_S)

    def test_so_many_messages_and_no_more(self) -> None:
        for _ in range(8):
            self.collect(pieces(2)[1], b"x")
        self.failureResultOf(self.collect(pieces(2)[1], b"x"), TooBusy)
        self.clock.advance(PATIENCE_S)
        self.successResultOf(self.collect(pieces(2)[1], b"x"))
        self.clock.advance(PATIENCE_S)

    def test_so_many_bytes_and_no_more(self) -> None:
        first, second = pieces(2)
        self.successResultOf(self.collect(second, bytes(2**24)))
        self.failureResultOf(self.collect(first, b"x"), TooBusy)
        self.clock.advance(PATIENCE_S)

    def test_it_is_made_once(self) -> None:
        made: list[Deferred[str]] = []

        def make() -> "Deferred[str]":
            made.append(Deferred())
            return made[-1]

        dealt = [self.deal(piece, make) for piece in pieces(3)]
        dealt[0].cancel()
        self.failureResultOf(dealt[0])
        made[0].callback("whole")
        self.assertEqual(["whole"] * 2, [self.successResultOf(each) for each in dealt[1:]])
        self.assertEqual(len(made), 1)
        self.clock.advance(PATIENCE_S)

    def test_what_fails_fails_for_all(self) -> None:
        async def make() -> str:
            raise UnknownResource("Unknown study")

        for piece in pieces(2):
            self.failureResultOf(self.deal(piece, make), UnknownResource)
        self.clock.advance(PATIENCE_S)

    def test_what_takes_longer_is_given_all_the_same(self) -> None:
        made: Deferred[str] = Deferred()
        dealt = [self.deal(piece, lambda: made) for piece in pieces(2)]
        self.clock.advance(PATIENCE_S)
        made.callback("whole")
        self.assertEqual(["whole"] * 2, [self.successResultOf(each) for each in dealt])


class RouteTests(SynchronousTestCase):
    """The two routes that know pieces."""

    def setUp(self) -> None:
        self.house = House()
        files = [make_dicom(1000, f"1.2.3.{number}") for number in range(5)]
        self.ids = sorted(self.house.store.add(data) for data in files)
        self.resources = json.dumps([{"Level": "Instance", "ID": id_} for id_ in self.ids]).encode()

    def look_up(self, query: str = "", body: bytes | None = None, accept: str = "") -> Answer:
        headers = {"Accept": accept or f"{packed.PACKED}, application/json"}
        target = f"/transfers/lookup{query}"
        return self.house.request("POST", target, body or self.resources, headers)

    def test_a_lookup(self) -> None:
        answers = [self.look_up(f"?{piece.query}") for piece in pieces(4)]
        self.assertEqual({PIECE}, {answer.header("Content-Type") for answer in answers})
        whole = join([answer.body for answer in answers])
        self.assertEqual(whole, self.look_up().body)
        self.assertEqual(5, len(packed.parse_packed_lookup(whole).instances))

    def test_who_takes_nothing_packed_gets_all_of_it(self) -> None:
        answer = self.look_up(f"?{pieces(2)[1].query}", accept="application/json")
        self.assertEqual(5, len(answer.json()["Instances"]))

    def test_what_cannot_be_packed_is_given_whole(self) -> None:
        self.patch(packed, "LARGEST", 10)
        answers = [self.look_up(f"?{piece.query}") for piece in pieces(2)]
        self.assertEqual(5, len(answers[0].json()["Instances"]))
        self.assertEqual((PIECE, b""), (answers[1].header("Content-Type"), answers[1].body))

    def test_a_lookup_of_nothing_known(self) -> None:
        body = json.dumps([{"Level": "Study", "ID": "nope"}]).encode()
        answers = [self.look_up(f"?{piece.query}", body) for piece in pieces(2)]
        self.assertEqual([404, 404], [answer.status for answer in answers])

    def test_what_is_no_piece(self) -> None:
        for query in (
            "of=x&piece=0&pieces=2", f"of={TOKEN}", f"of={TOKEN}&piece=2&pieces=2",
            f"of={TOKEN}&piece=-1&pieces=2", f"of={TOKEN}&piece=0&pieces=1000000000000",
            f"of={TOKEN}&piece=0&pieces=9", f"of={TOKEN}&piece=a&pieces=2",
        ):  # fmt: skip
            self.assertEqual(400, self.look_up(f"?{query}").status, query)

    def opening(self) -> bytes:
        known = [Instance(f"{n:08x}" + "-00000000" * 4, 1000, f"{n:032x}") for n in range(9)]
        plan = plan_buckets(known, Cut(1500))
        body = packed.pack_push(
            PushRequest(tuple(known), plan, Codec.NONE, PushExtension(KEY, True))
        )
        assert body is not None
        return body

    def begin(self, pieces: Sequence[Piece], body: bytes) -> list[Connection]:
        connections = []
        for piece in pieces:
            connection = self.house.connect()
            headers = {"Content-Type": packed.PACKED}
            target = f"/transfers/push?{piece.query}"
            connection.request("POST", target, piece.cut(body), headers)
            connections.append(connection)
        return connections

    def test_an_opening(self) -> None:
        first, *others = self.begin(pieces(3), self.opening())
        (answer,) = first.answers()
        self.assertEqual(KEY, answer.json()["ID"])
        for connection in others:
            self.assertEqual([{}], [answer.json() for answer in connection.answers()])
        self.assertEqual(1, self.house.transactions.open_count)

    def test_an_opening_that_does_not_come_together(self) -> None:
        (first,) = self.begin(pieces(2)[:1], self.opening())
        self.assertEqual([], first.answers())
        self.house.clock.advance(PATIENCE_S)
        (answer,) = first.answers()
        self.assertEqual(409, answer.status)
        self.assertIn("Of 2 pieces 1 came", answer.json()["Details"])
        self.assertEqual(0, self.house.transactions.open_count)

    def test_an_opening_of_two(self) -> None:
        one, other = pieces(2)
        body = self.opening()
        mixed = self.begin([one], body), self.begin([other], body[::-1])
        (answer,) = mixed[0][0].answers()
        self.assertEqual(400, answer.status)
        self.assertEqual(0, self.house.transactions.open_count)
