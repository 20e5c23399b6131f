"""The log of a staging area: written, read again, torn, and on a disk that refuses."""

import errno
import os

import attrs
from twisted.trial.unittest import SynchronousTestCase

from txtransfers.errors import StorageFailure, StorageFull
from txtransfers.store import staging_log
from txtransfers.store.index import Parents, Row
from txtransfers.store.staging_log import Claim, Head, create_log, open_log, read_head
from txtransfers.wire.identifiers import DicomIdentifiers, hash_identifiers
from txtransfers.wire.plan import Instance

INSTANCES = (Instance("a", 10, "0" * 32), Instance("b", 20, "1" * 32))
HEAD = Head(7, "folder", 30, (1,))
PARENTS = Parents((("p", "P", "{}"), ("s", "1.2", "{}"), ("e", "1.2.3", "{}")))


def row(position: int) -> Row:
    instance = INSTANCES[position]
    name = f"{position}.dcm"
    uid = f"1.2.9.{position}"
    id_ = hash_identifiers(DicomIdentifiers("P", "1.2", "1.2.3", uid)).instance
    return Row(7, name, instance.size, instance.md5, id_, uid, "{}", "1", "2", PARENTS)


class LogTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = self.mktemp()
        self.log = create_log(self.path, HEAD, INSTANCES, b"note")
        self.addCleanup(self.close)

    def close(self) -> None:
        self.log.close()

    def reopen(self) -> staging_log.Contents:
        self.log.close()
        opened = open_log(self.path)
        assert opened is not None
        self.log, contents = opened
        return contents

    def test_what_it_begins_with(self) -> None:
        self.assertEqual(read_head(self.path), HEAD)
        contents = self.reopen()
        self.assertEqual(
            (contents.head, contents.instances, contents.note), (HEAD, INSTANCES, b"note")
        )
        self.assertEqual((contents.claims, contents.rows), ([], set()))

    def test_claims_and_rows_come_back_in_every_life(self) -> None:
        claims = [Claim(0, 0, 5, 123), Claim(1, 5, 15, 2**32 - 1), Claim(1, 2**40, 2**41, 0)]
        self.log.append(claims[:1], [(0, row(0))])
        self.reopen()
        self.log.append(claims[1:], [(1, row(1)), (0, row(0))])
        contents = self.reopen()
        self.assertEqual((contents.claims, contents.rows), (claims, {0, 1}))
        rows = list(self.log.rows(HEAD, INSTANCES))
        self.assertEqual(rows, [row(0), row(1)], "each once")

    def test_a_torn_tail_is_cut_off_and_written_over(self) -> None:
        self.log.append([Claim(0, 0, 5, 1)], [])
        self.log.append([Claim(0, 5, 5, 2)], [])
        self.log.close()
        os.truncate(self.path, os.path.getsize(self.path) - 3)
        self.assertEqual(self.reopen().claims, [Claim(0, 0, 5, 1)])
        self.log.append([Claim(1, 0, 9, 3)], [])
        self.assertEqual(self.reopen().claims, [Claim(0, 0, 5, 1), Claim(1, 0, 9, 3)])

    def test_one_that_is_not_whole_at_its_beginning(self) -> None:
        self.log.close()
        size = os.path.getsize(self.path)
        for cut in range(size):
            os.truncate(self.path, size - cut)
            if cut:
                self.assertIsNone(open_log(self.path))

    def test_of_another_release(self) -> None:
        self.patch(staging_log, "_SEPARATE", 99)
        self.assertIsNone(read_head(self.path))
        self.assertIsNone(open_log(self.path))

    def test_a_disk_that_is_full_in_the_middle_of_a_frame(self) -> None:
        real = os.pwrite

        def pwrite(descriptor: int, data: bytes, offset: int) -> int:
            if len(data) > 8:
                return real(descriptor, data[:8], offset)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        self.patch(os, "pwrite", pwrite)
        self.assertRaises(StorageFull, self.log.append, [Claim(0, 0, 5, 1)], [])
        self.patch(os, "pwrite", real)
        self.log.append([Claim(1, 0, 9, 3)], [])
        self.assertEqual(self.reopen().claims, [Claim(1, 0, 9, 3)])

    def test_whole_frames_of_a_write_that_failed_do_not_come_back(self) -> None:
        """Behind a shorter write they would be read, and mean other parents."""
        real, calls = os.pwrite, []

        def pwrite(descriptor: int, data: bytes, offset: int) -> int:
            if calls:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            calls.append(None)
            return real(descriptor, data[:-1], offset)

        frames = [Claim(0, n, 1, n) for n in range(5)]
        self.patch(os, "pwrite", pwrite)
        self.assertRaises(StorageFailure, self.log.append, frames, [])
        self.patch(os, "pwrite", real)
        self.log.append(frames[4:], [])
        self.assertEqual(self.reopen().claims, frames[4:])

    def test_a_row_below_the_parents_of_another_is_left_out(self) -> None:
        strange = attrs.evolve(
            row(0), parents=Parents((("p", "Q", "{}"), ("s", "1.2", "{}"), ("e", "1.2.3", "{}")))
        )
        self.log.append([], [(0, strange), (1, row(1))])
        self.assertEqual(list(self.log.rows(HEAD, INSTANCES)), [row(1)])

    def test_closed_it_takes_no_more(self) -> None:
        self.log.close()
        self.log.close()
        self.assertRaises(StorageFailure, self.log.append, [Claim(0, 0, 5, 1)], [])
