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
    Measures,
    Ratios,
    choose,
)
from txtransfers.transfer.experience import FRESH_S, Experience
from txtransfers.wire.codec import OURS, Codec, Coding
from txtransfers.wire.messages import Compression

OURS_TAKEN = (NONE, *ZSTD)
STOCK = (NONE, GZIP)
NOBODY: frozenset[Codec] = frozenset()


def tried() -> Ratios:
    """Content as was expected."""
    ratios = Ratios()
    ratios.learn(Encoded(ZSTD[0], 2300, 1000))
    return ratios


class ChoiceTests(SynchronousTestCase):
    def test_by_the_link(self) -> None:
        for goodput, rtt, codings, cores, expected in (
            # Nothing is known, or only that it is near: as it is.
            (None, None, OURS_TAKEN, 2, NONE),
            (None, 0.0003, OURS_TAKEN, 2, NONE),
            (None, 0.0003, STOCK, 2, NONE),
            # Far: compress, and measure.
            (None, 0.08, OURS_TAKEN, 2, ZSTD[0]),
            (None, 0.08, STOCK, 2, GZIP),
            # What was measured counts more than how far it is.
            (1e9, 0.08, OURS_TAKEN, 2, NONE),
            (1e6, 0.0003, OURS_TAKEN, 2, ZSTD[2]),
            (1e6, 0.0003, STOCK, 2, GZIP),
            # The slower the link, the harder it tries; more cores, too.
            (35e6, 0.01, OURS_TAKEN, 1, ZSTD[1]),
            (35e6, 0.01, OURS_TAKEN, 4, ZSTD[2]),
            (110e6, 0.01, OURS_TAKEN, 2, ZSTD[0]),
            (80e6, 0.01, STOCK, 2, GZIP),
            # Near, the processors may have been the reason: plain is tried first.
            (110e6, 0.0003, OURS_TAKEN, 2, NONE),
            (80e6, None, STOCK, 2, NONE),
            (MOVING, 0.0003, OURS_TAKEN, 2, NONE),
            (MOVING, 0.0003, STOCK, 8, NONE),
            # Gzip is slower: it stops to pay on a slower link than zstd does.
            (110e6, 0.01, STOCK, 1, NONE),
            (1e6, None, (GZIP_STORED, GZIP), 1, GZIP),
            (1e9, None, (GZIP_STORED, GZIP), 1, GZIP_STORED),
            (1e6, None, (NONE,), 8, NONE),
        ):
            link = LinkEstimate(goodput, rtt)
            chosen = choose(codings, Measures(link, CodecSpeeds(), tried(), cores))
            self.assertEqual(chosen, expected, (goodput, rtt, codings, cores))

    def test_what_does_not_shrink_is_not_compressed(self) -> None:
        ratios = Ratios()
        for link in (1e5, 1e6, 1e8):
            ratios.learn(Encoded(ZSTD[0], 1000, 999))
            measures = Measures(LinkEstimate(link), CodecSpeeds(), ratios, 4)
            chosen = choose(OURS_TAKEN, measures)
            self.assertEqual(chosen, NONE)

    def test_a_level_that_gains_nothing_is_left_again(self) -> None:
        ratios = Ratios()
        measures = Measures(LinkEstimate(1e6), CodecSpeeds(), ratios, 2)
        chosen = []
        for _ in range(8):
            chosen.append(choose(OURS_TAKEN, measures))
            ratios.learn(Encoded(chosen[-1], 278_000, 100_000))
        self.assertEqual(chosen[:2], [ZSTD[0], ZSTD[2]])
        self.assertEqual(set(chosen[-4:]), {ZSTD[0]})

    def test_one_that_gains_is_kept(self) -> None:
        ratios = Ratios()
        measures = Measures(LinkEstimate(1e6), CodecSpeeds(), ratios, 2)
        for ratio in (2.0, 2.2, 2.2):
            chosen = choose(OURS_TAKEN, measures)
            ratios.learn(Encoded(chosen, 100_000, round(100_000 / ratio)))
        self.assertEqual(chosen, ZSTD[2])

    def test_a_slow_processor(self) -> None:
        speeds = CodecSpeeds()
        for coding in ZSTD:
            for _ in range(100):
                speeds.learn(Encoded(coding, 2_000_000, 1_000_000, 1.0))
            self.assertLess(abs(speeds.of(coding) - 2e6), 1e4)
        measures = Measures(LinkEstimate(20e6, 0.01), speeds, Ratios(), 2)
        self.assertEqual(choose(OURS_TAKEN, measures), NONE)

    def test_what_was_achieved_counts_more_than_what_was_expected(self) -> None:
        """A processor that is busy looks like a slow link."""
        for achieved, expected in (
            ({}, NONE),
            ({NONE: 45e6}, ZSTD[2]),
            ({NONE: 45e6, ZSTD[2]: 40e6}, ZSTD[1]),
            ({NONE: 45e6, ZSTD[2]: 40e6, ZSTD[1]: 44e6}, ZSTD[0]),
            ({NONE: 45e6, ZSTD[2]: 40e6, ZSTD[1]: 44e6, ZSTD[0]: 49e6}, NONE),
            ({NONE: 45e6, ZSTD[2]: 90e6}, ZSTD[2]),
            ({NONE: 200e6, ZSTD[2]: 90e6}, NONE),
            ({ZSTD[2]: 90e6}, NONE),
        ):
            link = LinkEstimate(35e6, 0.0003)
            measures = Measures(link, CodecSpeeds(), tried(), 4, achieved.get)
            self.assertEqual(choose(OURS_TAKEN, measures), expected, achieved)

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
        return BucketCodings(wished, lambda: self.link, CodecSpeeds(), 2, Clock())

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
            (Codec.GZIP, OURS, ZSTD[0], NONE),
            (Codec.NONE, OURS, ZSTD[0], NONE),
        ):
            codings = self.codings()
            codings.opened(base, taken)
            for goodput, expected in ((1e6, slow), (1e9, fast), (1e6, slow)):
                self.link = LinkEstimate(goodput)
                self.assertEqual(codings.next(), expected)

    def test_a_pull(self) -> None:
        codings = self.codings()
        self.link = LinkEstimate(1e6)
        for taken, expected in ((NOBODY, GZIP), (OURS, ZSTD[0])):
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


class ExperienceTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.experience = Experience(self.clock)

    def move(self, coding: Coding, count: int, seconds: float = 0.1, size: int = 1000) -> None:
        for _ in range(count):
            with self.experience.trying(coding, size):
                self.clock.advance(seconds)

    def test_from_the_end_of_one_to_the_end_of_another(self) -> None:
        self.move(GZIP, 4)
        self.assertIsNone(self.experience.of(GZIP), "three since the first ended")
        self.move(GZIP, 1)
        self.assertAlmostEqual(self.experience.of(GZIP) or 0, 10_000)
        self.assertIsNone(self.experience.of(NONE))

    def test_too_short(self) -> None:
        self.move(GZIP, 20, 0.005)
        self.assertIsNone(self.experience.of(GZIP))
        self.move(GZIP, 40, 0.005)
        self.assertAlmostEqual(self.experience.of(GZIP) or 0, 200_000, 0)

    def test_it_follows_and_forgets(self) -> None:
        self.move(GZIP, 5)
        self.move(GZIP, 4, size=2000)
        self.assertAlmostEqual(self.experience.of(GZIP) or 0, 15_000)
        self.clock.advance(FRESH_S)
        self.assertIsNone(self.experience.of(GZIP))
        self.move(GZIP, 8, size=3000)
        self.assertIsNotNone(self.experience.of(GZIP))

    def test_what_is_mixed_says_nothing(self) -> None:
        with self.experience.trying(NONE, 1000):
            self.move(GZIP, 20)
        self.assertIsNone(self.experience.of(GZIP))
        self.move(GZIP, 4)
        self.move(NONE, 4)
        self.move(GZIP, 4)
        self.assertIsNone(self.experience.of(GZIP))
        self.assertIsNone(self.experience.of(NONE))

    def test_what_fails_says_nothing(self) -> None:
        self.move(GZIP, 4)
        with self.assertRaises(ValueError), self.experience.trying(GZIP, 1000):
            raise ValueError
        self.move(GZIP, 4)
        self.assertIsNone(self.experience.of(GZIP))
        self.move(GZIP, 1)
        self.assertIsNotNone(self.experience.of(GZIP))


class NameTests(SynchronousTestCase):
    def test_a_coding_reads_well(self) -> None:
        self.assertEqual(str(Coding(Codec.ZSTD, 3)), "zstd 3")
