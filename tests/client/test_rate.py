"""How fast, and how long still."""

from twisted.trial.unittest import SynchronousTestCase

from txtransfers.client import Rate


class RateTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.rate = Rate(window=10.0)

    def test_too_little_to_tell(self) -> None:
        self.assertIsNone(self.rate.per_second)
        self.rate.saw(0.0, 0)
        self.assertIsNone(self.rate.per_second)
        self.rate.saw(0.1, 1000)
        self.assertIsNone(self.rate.per_second)
        self.assertIsNone(self.rate.seconds_for(10))

    def test_even(self) -> None:
        for second in range(30):
            self.rate.saw(float(second), second * 100)
        self.assertEqual(100.0, self.rate.per_second)
        self.assertEqual(3.0, self.rate.seconds_for(300))
        self.assertEqual(0.0, self.rate.seconds_for(0))

    def test_what_was_long_ago_does_not_count(self) -> None:
        for second in range(20):
            self.rate.saw(float(second), second * 1000)
        for second in range(20, 31):
            self.rate.saw(float(second), 20_000 + (second - 20) * 10)
        self.assertEqual(10.0, self.rate.per_second)

    def test_a_standstill(self) -> None:
        for second in range(20):
            self.rate.saw(float(second), 500)
        self.assertEqual(0.0, self.rate.per_second)
        self.assertIsNone(self.rate.seconds_for(10))

    def test_a_start_from_the_beginning(self) -> None:
        self.rate.saw(0.0, 5000)
        self.rate.saw(1.0, 100)
        self.assertIsNone(self.rate.per_second)
        self.rate.saw(2.0, 300)
        self.assertEqual(200.0, self.rate.per_second)
