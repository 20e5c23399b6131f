"""Instances are counted once, when their last chunk is there."""

from twisted.trial.unittest import SynchronousTestCase

from txtransfers.transfer.arrivals import Arrivals
from txtransfers.wire.plan import Chunk

PLAN = (
    (Chunk("a", 0, 5), Chunk("b", 0, 5)),
    (Chunk("large", 0, 10),),
    (Chunk("large", 10, 10),),
    (),
    (Chunk("large", 20, 3), Chunk("c", 0, 1)),
)


class ArrivalsTests(SynchronousTestCase):
    def test_in_any_order(self) -> None:
        arrivals = Arrivals(PLAN)
        self.assertEqual(0, arrivals.instances)
        self.assertEqual([1, 0, 0, 2, 1], [arrivals.bucket(number) for number in (4, 1, 3, 0, 2)])

    def test_from_where_it_was(self) -> None:
        arrivals = Arrivals(PLAN, [0, 2, 4])
        self.assertEqual(3, arrivals.instances)
        self.assertEqual(1, arrivals.bucket(1))
