"""Instances in files of their own, or in one that they share."""

import io
import os

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from txtransfers.store.places import Place

DATA = bytes(range(200))


class PlaceTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = os.path.abspath(self.mktemp())

    def test_neighbours_are_left_alone(self) -> None:
        Place(self.path).write(0, bytes(300), is_new=True)
        place = Place(self.path, 50, is_shared=True)
        place.write(150, DATA[150:], is_new=False)
        place.write(0, DATA[:150], is_new=False)
        with open(self.path, "rb") as file:
            self.assertEqual(file.read(), bytes(50) + DATA + bytes(50))
        self.assertEqual(place.read(10, 20), DATA[10:30])

    def test_a_shared_file_that_is_gone_is_not_made_again(self) -> None:
        place = Place(self.path, 50, is_shared=True)
        self.assertRaises(FileNotFoundError, place.write, 0, DATA, False)
        self.assertRaises(FileNotFoundError, place.read, 0, 1)
        self.assertRaises(FileNotFoundError, place.open, 1)

    @given(st.lists(st.tuples(st.sampled_from(["read", "seek", "move"]), st.integers(0, 250))))
    def test_as_a_file_it_is_like_one_of_its_own(self, calls: list[tuple[str, int]]) -> None:
        with open(self.path, "wb") as file:
            file.write(b"before" + DATA + b"behind")
        own = io.BytesIO(DATA)
        with Place(self.path, len(b"before")).open(len(DATA)) as section:
            for what, number in calls:
                if what == "read":
                    self.assertEqual(section.read(number), own.read(number))
                else:
                    whence = io.SEEK_SET if what == "seek" else io.SEEK_CUR
                    self.assertEqual(section.seek(number, whence), own.seek(number, whence))
                self.assertEqual(section.tell(), own.tell())
            self.assertEqual(section.read(), own.read())
