"""How a job's bytes have moved: every point, or every other one, but always the newest."""

from twisted.trial.unittest import SynchronousTestCase

from txtransfers.jobs.throughput import MOST_POINTS, Point, added, throughput_json


class ThroughputTests(SynchronousTestCase):
    def run_for(self, seconds: int) -> list[Point]:
        points: list[Point] = []
        for second in range(seconds):
            points = added(points, (float(second), second * 10, second * 5))
        return points

    def test_a_short_one_is_whole(self) -> None:
        points = self.run_for(MOST_POINTS)
        self.assertEqual([float(n) for n in range(MOST_POINTS)], [point[0] for point in points])

    def test_a_long_one_is_bounded_and_in_order(self) -> None:
        points = self.run_for(20_000)
        self.assertLessEqual(len(points), MOST_POINTS)
        self.assertGreater(len(points), MOST_POINTS // 3)
        self.assertEqual(sorted(points), points)
        self.assertEqual((0.0, 0, 0), points[0])
        self.assertEqual((19_999.0, 199_990, 99_995), points[-1])

    def test_time_does_not_go_back(self) -> None:
        points = added(added([], (1.0, 10, 10)), (1.0, 20, 20))
        self.assertEqual([(1.0, 20, 20)], points)

    def test_as_it_travels(self) -> None:
        self.assertEqual({"Seconds": [], "Done": [], "Network": []}, throughput_json([]))
        told = throughput_json([(1.0, 10, 5), (2.0, 20, 9)])
        self.assertEqual({"Seconds": [1.0, 2.0], "Done": [10, 20], "Network": [5, 9]}, told)
