"""Whose turn it is: priorities, then equal bytes for each job, then the stream that began first."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from txtransfers.transfer.turns import Turn, Turns


class TurnsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.turns: Turns[str] = Turns()

    def serve(self, turn: Turn, size: int = 10) -> str:
        item = self.turns.first()
        self.turns.serve(turn, item, size)
        return item

    def test_the_highest_priority_then_the_oldest(self) -> None:
        low, high = Turn(0, "a"), Turn(5, "b")
        for turn, item in ((low, "a1"), (low, "a2"), (high, "b1"), (high, "b2")):
            self.turns.add(turn, item)
        served = [self.serve(turn) for turn in (high, high, low, low)]
        self.assertEqual(["b1", "b2", "a1", "a2"], served)
        self.assertFalse(self.turns)

    def test_the_stream_that_began_first_goes_on(self) -> None:
        turn = Turn(0, "a")
        for stream in (3, 1, 2):
            self.turns.add(turn, str(stream), stream)
        served = []
        for again in ("1", "1", ""):
            served.append(item := self.serve(turn))
            if again:
                self.turns.add(turn, item, int(item))
        self.assertEqual(["1", "1", "1"], served)
        self.assertEqual(["2", "3"], [self.serve(turn) for _ in range(2)])

    def test_who_was_away_catches_nothing_up(self) -> None:
        a, b = Turn(0, "a"), Turn(0, "b")
        for n in range(100):
            self.turns.add(a, f"a{n}")
        for _ in range(50):
            self.serve(a)
        for n in range(4):
            self.turns.add(b, f"b{n}")
        owners = []
        for _ in range(8):
            item = self.turns.first()
            owners.append(item[0])
            self.turns.serve(a if item[0] == "a" else b, item, 10)
        self.assertEqual((4, 4), (owners.count("a"), owners.count("b")))

    def test_one_that_leaves(self) -> None:
        turn = Turn(0, "a")
        for item in ("1", "2"):
            self.turns.add(turn, item)
        self.turns.remove(turn, "1")
        self.assertEqual("2", self.turns.first())
        self.turns.remove(turn, "2")
        self.assertFalse(self.turns)

    def test_nothing_is_kept_of_jobs_that_are_gone(self) -> None:
        stays = Turn(0, "stays")
        self.turns.add(stays, "0")
        for n in range(1000):
            turn = Turn(0, n)
            self.turns.add(turn, "x")
            self.turns.serve(turn, "x", 10)
            self.turns.add(stays, "1")
            self.serve(stays, 10)
        self.assertLess(len(self.turns._levels[0].queues), 5)

    @given(
        st.dictionaries(
            st.integers(0, 9),
            st.tuples(st.integers(1, 6), st.integers(1, 100)),
            min_size=2,
            max_size=6,
        )
    )
    def test_equal_bytes_whatever_streams_and_pieces(
        self, jobs: dict[int, tuple[int, int]]
    ) -> None:
        """Each job has so many streams, which ask for pieces of a size of their own."""
        turns: Turns[tuple[int, int]] = Turns()
        for job, (streams, _size) in jobs.items():
            for stream in range(streams):
                turns.add(Turn(0, job), (job, stream))
        got: Counter[int] = Counter()
        for _ in range(3000):
            job, stream = item = turns.first()
            size = jobs[job][1]
            turns.serve(Turn(0, job), item, size)
            got[job] += size
            turns.add(Turn(0, job), (job, stream))
        largest = max(size for _streams, size in jobs.values())
        self.assertLessEqual(max(got.values()) - min(got[job] for job in jobs), 2 * largest)
