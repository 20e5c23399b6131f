"""Messages in pieces: cut, and put together again."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from txtransfers.errors import BadMessage, BadParameter
from txtransfers.wire.pieces import MOST, Piece, how_many, join, pieces, read_piece, stamp_of

TOKEN = "0123abcd-0123"


class CutTests(SynchronousTestCase):
    @given(st.binary(max_size=100), st.integers(2, MOST))
    def test_together_they_are_the_whole(self, whole: bytes, count: int) -> None:
        cut = [piece.cut(whole) for piece in pieces(count)]
        self.assertEqual(b"".join(cut), whole)
        lengths = {len(part) for part in cut}
        self.assertLessEqual(max(lengths) - min(lengths), 1)
        stamp = stamp_of(whole)
        self.assertEqual(join([piece.stamped(stamp, whole) for piece in pieces(count)]), whole)

    def test_of_two_messages_nothing_is_joined(self) -> None:
        first, second = (
            [piece.stamped(stamp_of(whole), whole) for piece in pieces(3)]
            for whole in (b"a" * 90, b"b" * 90)
        )
        for wrong in (
            [*first[:2], second[2]],
            [first[0], first[2], first[1][:-1]],
            first[:2],
            [first[0], first[1], b""],
        ):
            with self.assertRaises(BadMessage):
                join(wrong)

    def test_how_many(self) -> None:
        for size, expected in ((0, 1), (12_288, 1), (12_289, 2), (21_000, 2), (10**9, MOST)):
            self.assertEqual(how_many(size), expected, size)


class UrlTests(SynchronousTestCase):
    def test_each_message_has_its_token(self) -> None:
        first, second = pieces(2), pieces(2)
        self.assertEqual(len({piece.of for piece in (*first, *second)}), 2)
        self.assertEqual(read_piece(first[1].of, 1, 2), first[1])
        self.assertEqual(Piece(TOKEN, 1, 4).query, f"piece=1&pieces=4&of={TOKEN}")

    def test_what_is_none(self) -> None:
        wrong: list[tuple[Any, ...]] = [
            ("short", 0, 2), ("x" * 20, 0, 2), ("a" * 65, 0, 2), ("a" * 20 + "\n", 0, 2),
            (TOKEN, None, 2), (TOKEN, 0, None), (TOKEN, 0, 1), (TOKEN, 0, 0), (TOKEN, 2, 2),
            (TOKEN, 0, MOST + 1),
        ]  # fmt: skip
        for each in wrong:
            with self.assertRaises(BadParameter, msg=each):
                read_piece(*each)
