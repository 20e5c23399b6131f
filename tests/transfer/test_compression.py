"""Which codec is chosen: where it pays, and none elsewhere."""

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from txtransfers.transfer.codings import BucketCodings, usable_cores
from txtransfers.transfer.compression import (
    GZIP,
    GZIP_STORED,
    MOVING,
    NONE,
    SPEEDS,
    ZSTD,
    CodecSpeeds,
    Encoded,
    LinkEstimate,
    Ratios,
    choose,
)
from txtransfers.transfer.link import Link
from txtransfers.wire.codec import OURS, Codec, Coding
from txtransfers.wire.messages import Compression

OURS_TAKEN = (NONE, *ZSTD)
STOCK = (NONE, GZIP)
NOBODY: frozenset[Codec] = frozenset()


class ChoiceTests(SynchronousTestCase):
    def test_by_the_link(self) -> None:
        for goodput, rtt, codings, cores, expected in (
            # Nothing is known, or only that it is near: as it is.
            (None, None, OURS_TAKEN, 2, NONE),
            (None, 0.0003, OURS_TAKEN, 2, NONE),
            (None, 0.0003, STOCK, 2, NONE),
            # Far: compress, and measure.
            (None, 0.08, OURS_TAKEN, 2, ZSTD[2]),
            (None, 0.08, STOCK, 2, GZIP),
            # What was measured counts more than how far it is.
            (1e9, 0.08, OURS_TAKEN, 2, NONE),
            (1e6, 0.0003, OURS_TAKEN, 2, ZSTD[2]),
            (1e6, 0.0003, STOCK, 2, GZIP),
            # The slower the link, the harder it tries; more cores, too.
            (40e6, 0.01, OURS_TAKEN, 1, ZSTD[1]),
            (40e6, 0.01, OURS_TAKEN, 4, ZSTD[2]),
            (110e6, 0.0003, OURS_TAKEN, 2, ZSTD[0]),
            (110e6, 0.0003, STOCK, 2, GZIP),
            (MOVING, 0.0003, OURS_TAKEN, 2, NONE),
            (MOVING, 0.0003, STOCK, 8, NONE),
            # Gzip is slower: it stops to pay on a slower link than zstd does.
            (150e6, 0.0003, STOCK, 1, NONE),
            (1e6, None, (GZIP_STORED, GZIP), 1, GZIP),
            (1e9, None, (GZIP_STORED, GZIP), 1, GZIP_STORED),
            (1e6, None, (NONE,), 8, NONE),
        ):
            link = LinkEstimate(goodput, rtt)
            chosen = choose(link, codings, CodecSpeeds(), Ratios(), cores)
            self.assertEqual(chosen, expected, (goodput, rtt, codings, cores))

    def test_what_does_not_shrink_is_not_compressed(self) -> None:
        ratios = Ratios()
        for link in (1e5, 1e6, 1e8):
            ratios.learn(Encoded(ZSTD[0], 1000, 999))
            chosen = choose(LinkEstimate(link), OURS_TAKEN, CodecSpeeds(), ratios, 4)
            self.assertEqual(chosen, NONE)

    def test_a_level_that_gains_nothing_is_left_again(self) -> None:
        ratios, link = Ratios(), LinkEstimate(1e6)
        for ratio in (2.8, 2.79, 2.77):
            chosen = choose(link, OURS_TAKEN, CodecSpeeds(), ratios, 2)
            ratios.learn(Encoded(chosen, 1000, round(1000 / ratio)))
        for coding in ZSTD:
            ratios.learn(Encoded(coding, 28000, 10000))
        self.assertEqual(choose(link, OURS_TAKEN, CodecSpeeds(), ratios, 2), ZSTD[0])

    def test_a_slow_processor(self) -> None:
        speeds = CodecSpeeds()
        for coding in ZSTD:
            for _ in range(100):
                speeds.learn(Encoded(coding, 2_000_000, 1_000_000, 1.0))
            self.assertLess(abs(speeds.of(coding) - 2e6), 1e4)
        link = LinkEstimate(20e6)
        self.assertEqual(choose(link, OURS_TAKEN, speeds, Ratios(), 2), NONE)

    def test_what_says_nothing_is_not_learned(self) -> None:
        speeds = CodecSpeeds()
        for encoded in (
            Encoded(ZSTD[0], 1000, 1000, 1e-9),
            Encoded(ZSTD[0], 1000, 500, 0.0),
            Encoded(ZSTD[0], 0, 0, 1.0),
            Encoded(NONE, 1000, 1000, 1.0),
        ):
            speeds.learn(encoded)
        self.assertEqual(speeds.of(ZSTD[0]), SPEEDS[ZSTD[0]])
        self.assertEqual(speeds.of(NONE), float("inf"))


class BucketCodingsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.link = LinkEstimate()

    def codings(self, wished: Compression = Compression.AUTO) -> BucketCodings:
        return BucketCodings(wished, lambda: self.link, CodecSpeeds(), 2)

    def test_what_was_wished_is_done_whatever_the_link(self) -> None:
        for wished, coding in ((Compression.NONE, NONE), (Compression.GZIP, GZIP)):
            for goodput in (1e3, 1e12):
                self.link = LinkEstimate(goodput)
                codings = self.codings(wished)
                self.assertEqual(codings.offered, NOBODY)
                self.assertIs(codings.open(), coding.codec)
                codings.opened(coding.codec, OURS)
                self.assertEqual(codings.next(), coding)

    def test_an_opening_leaves_the_choice_where_it_can(self) -> None:
        for link, base in (
            (LinkEstimate(), Codec.GZIP),
            (LinkEstimate(None, 0.0001), Codec.GZIP),
            (LinkEstimate(1e6), Codec.GZIP),
            (LinkEstimate(1e9), Codec.NONE),
        ):
            self.link = link
            self.assertIs(self.codings().open(), base)
            for before in (Codec.NONE, Codec.GZIP):
                self.assertIs(self.codings().open(before), before, "what has a key stays")

    def test_each_bucket_by_the_link_as_it_is_then(self) -> None:
        for base, taken, slow, fast in (
            (Codec.GZIP, NOBODY, GZIP, GZIP_STORED),
            (Codec.NONE, NOBODY, NONE, NONE),
            (Codec.GZIP, OURS, ZSTD[2], NONE),
            (Codec.NONE, OURS, ZSTD[2], NONE),
        ):
            codings = self.codings()
            codings.opened(base, taken)
            for goodput, expected in ((1e6, slow), (1e9, fast), (1e6, slow)):
                self.link = LinkEstimate(goodput)
                self.assertEqual(codings.next(), expected)

    def test_a_pull(self) -> None:
        codings = self.codings()
        self.link = LinkEstimate(1e6)
        for taken, expected in ((NOBODY, GZIP), (OURS, ZSTD[2])):
            codings.served(taken)
            self.assertEqual(codings.next(), expected)

    def test_content_that_did_not_shrink_is_tried_again(self) -> None:
        codings = self.codings()
        self.link = LinkEstimate(1e6)
        codings.opened(Codec.GZIP, OURS)
        codings.learn(Encoded(codings.next(), 1000, 1000, 0.1))
        chosen = [codings.next() for _ in range(40)]
        self.assertEqual(chosen.count(NONE), 38)

    def test_cores(self) -> None:
        self.assertGreaterEqual(usable_cores(), 1)


class LinkTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.link = Link(self.clock)

    def carry(self, size: int, seconds: float) -> None:
        with self.link.carrying() as carried:
            self.clock.advance(seconds)
            carried.append(size)

    def test_nothing_is_known_at_first(self) -> None:
        self.assertEqual(self.link.estimate(), LinkEstimate())

    def test_bytes_a_second_while_busy(self) -> None:
        self.carry(2**20, 0.1)
        self.assertIsNone(self.link.estimate().goodput, "too short")
        self.clock.advance(1000)
        self.carry(2**20, 0.1)
        self.assertAlmostEqual(self.link.estimate().goodput or 0, 2**21 / 0.2, 3)

    def test_two_at_once_and_one_that_fails(self) -> None:
        with self.link.carrying() as carried:
            self.clock.advance(0.1)
            self.carry(2**20, 0.1)
            with self.assertRaises(ValueError), self.link.carrying():
                raise ValueError
            carried.append(2**20)
        self.assertAlmostEqual(self.link.estimate().goodput or 0, 2**21 / 0.2, 3)

    def test_it_follows(self) -> None:
        self.carry(10_000_000, 1)
        self.carry(2_000_000, 1)
        self.assertAlmostEqual(self.link.estimate().goodput or 0, 6e6)

    def test_the_quickest_answer(self) -> None:
        for seconds in (0.5, 0.1, 0.3):
            self.link.answered(seconds)
        self.assertEqual(self.link.estimate().rtt, 0.05)


class NameTests(SynchronousTestCase):
    def test_a_coding_reads_well(self) -> None:
        self.assertEqual(str(Coding(Codec.ZSTD, 3)), "zstd 3")
