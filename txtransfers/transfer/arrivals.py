"""How many instances of a plan have arrived whole, where buckets arrive in any order. Pure."""

from collections import Counter
from collections.abc import Iterable

from ..wire.plan import Plan


class Arrivals:
    """Counts them, bucket by bucket."""

    def __init__(self, plan: Plan, done: Iterable[int] = ()) -> None:
        """:param done: the buckets that have arrived already."""
        self._plan = plan
        self._left = Counter(chunk.id for bucket in plan for chunk in bucket)
        self.instances = sum([self.bucket(number) for number in done])

    def bucket(self, number: int) -> int:
        """One more has arrived; tells how many instances that completes."""
        completed = 0
        for chunk in self._plan[number]:
            self._left[chunk.id] -= 1
            completed += self._left[chunk.id] == 0
        return completed
