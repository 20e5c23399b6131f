"""The limit of open files is raised as far as it is needed, and may be."""

import resource

from twisted.trial.unittest import SynchronousTestCase

from txtransfers import open_files


class AllowTests(SynchronousTestCase):
    def allow(self, soft: int, hard: int, connections: int) -> tuple[str, int]:
        """What is said, and the limit that holds then."""
        limits = [soft, hard]
        self.patch(resource, "getrlimit", lambda _which: tuple(limits))

        def change(_which: int, new: tuple[int, int]) -> None:
            self.assertEqual(hard, new[1])
            limits[0] = new[0]

        self.patch(resource, "setrlimit", change)
        return open_files.allow(connections), limits[0]

    def test_it_is_enough(self) -> None:
        self.assertEqual(("", 65536), self.allow(65536, 65536, 2000))
        self.assertEqual(("", resource.RLIM_INFINITY), self.allow(-1, -1, 2000))

    def test_it_is_raised(self) -> None:
        self.assertEqual(("", 3024), self.allow(1024, 1_048_576, 2000))
        self.assertEqual(("", 3024), self.allow(1024, resource.RLIM_INFINITY, 2000))

    def test_it_is_not_enough(self) -> None:
        said, limit = self.allow(1024, 2048, 2000)
        self.assertEqual(2048, limit)
        for word in ("2048", "3024", "MaxConnections", "ulimit"):
            self.assertIn(word, said)
