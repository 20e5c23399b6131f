"""How much may still be written, with what was promised and a limit taken off."""

import os
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from txtransfers.errors import StorageFull
from txtransfers.store.space import FREE_RESERVE, Space


class SpaceTests(SynchronousTestCase):
    def make(self, disk: int, maximum: int = 0) -> Space:
        self.disk = disk
        self.stored = 0
        self.counted = 0
        space: Any = Space(os.getcwd(), maximum, self.count)
        space._on_disk = lambda: self.disk
        return space  # type: ignore[no-any-return]

    def count(self) -> int:
        self.counted += 1
        return self.stored

    def test_what_is_open_keeps_its_room(self) -> None:
        space = self.make(1000)
        space.promise("a", 700)
        self.assertEqual(space.free(), 300)
        self.disk -= 200
        space.wrote("a", 200)
        self.assertEqual(space.free(), 300)
        error = str(self.assertRaises(StorageFull, space.promise, "b", 301))
        self.assertIn("301", error)
        self.assertIn("300", error)
        space.promise("b", 300)

    def test_what_is_closed_keeps_what_it_has(self) -> None:
        space = self.make(1000)
        space.promise("a", 700)
        self.disk -= 200
        space.wrote("a", 200)
        space.closed("a")
        self.assertEqual(space.free(), 800)
        space.promise("b", 400)
        self.assertRaises(StorageFull, space.promise, "a", 700)
        space.gone("b")
        space.promise("a", 700)
        self.assertEqual(space.free(), 300)

    def test_a_limit_of_what_is_staged(self) -> None:
        space = self.make(10_000)
        self.stored = 5000
        space.limit(1000, 0)
        space.promise("a", 600)
        space.wrote("a", 100)
        space.take(200, "An upload")
        self.assertEqual(((1, 300, 500), 200), (space.staged(), space.free()))
        error = str(self.assertRaises(StorageFull, space.promise, "b", 201))
        for word in ("MaxStagingSize", "201", "200"):
            self.assertIn(word, error)
        space.give_back(200)
        space.gone("a")
        space.promise("b", 1000)
        self.assertEqual(0, space.free())

    def test_what_is_left_free(self) -> None:
        space = Space(os.getcwd(), 0, lambda: 0)
        usual = space.free()
        space.limit(0, FREE_RESERVE + 2**30)
        self.assertAlmostEqual(usual - 2**30, space.free(), delta=2**28)
        space.limit(0, 2**60)
        self.assertEqual(0, space.free())
        self.assertRaises(StorageFull, space.check_disk, 1)

    def test_a_limit(self) -> None:
        space = self.make(10_000, maximum=1000)
        self.stored = 300
        space.promise("a", 600)
        self.assertEqual(space.free(), 100)
        error = str(self.assertRaises(StorageFull, space.promise, "b", 101))
        self.assertIn("MaximumStorageSize", error)
        space.wrote("a", 600)
        self.assertEqual(space.free(), 100)
        self.stored += 600
        space.gone("a")
        space.changed()
        self.assertEqual(space.free(), 100)

    def test_what_was_staged_in_an_earlier_life_counts(self) -> None:
        space = self.make(10_000, maximum=1000)
        space.found("old", 250)
        self.assertEqual(space.free(), 750)
        space.promise("old", 900)
        self.assertEqual(space.free(), 100)

    def test_the_index_is_asked_only_after_a_change(self) -> None:
        space = self.make(10_000, maximum=1000)
        for _ in range(3):
            space.free()
        self.assertEqual(self.counted, 1)
        space.changed()
        space.free()
        self.assertEqual(self.counted, 2)
        space = self.make(10_000)
        space.free()
        self.assertEqual(self.counted, 0)

    def test_a_disk_that_others_fill(self) -> None:
        space = self.make(1000)
        space.promise("a", 700)
        self.disk = 100
        space.check_disk(100)
        self.assertIn("101", str(self.assertRaises(StorageFull, space.check_disk, 101)))
