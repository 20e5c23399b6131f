"""One suite for every journal."""

import os
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from tests.jobs.test_model import REQUEST
from txtransfers.errors import StorageFailure
from txtransfers.jobs.journal import IJournal, MemoryJournal, SqliteJournal
from txtransfers.jobs.model import Direction, State, new_job, to_record
from txtransfers.threads import SynchronousThreads


class _Suite:
    journal: Any

    def now(self: Any, result: Any) -> Any:
        self.assertIsInstance(result, Deferred)
        return self.successResultOf(result)

    def test_interface(self: Any) -> None:
        verifyObject(IJournal, self.journal)
        self.assertEqual(self.now(self.journal.load()), ())

    def test_kept_in_order_of_submission(self: Any) -> None:
        jobs = [new_job(Direction.PULL, REQUEST, number, 5.0) for number in (3, 1, 2)]
        for job in jobs:
            self.now(self.journal.save(job))
        jobs[1].state = State.PAUSED
        self.now(self.journal.save(jobs[1]))
        loaded = self.now(self.journal.load())
        self.assertEqual([job.sequence for job in loaded], [1, 2, 3])
        self.assertEqual(to_record(loaded[0]), to_record(jobs[1]))

    def test_forget(self: Any) -> None:
        job = new_job(Direction.PULL, REQUEST, 1, 5.0)
        self.now(self.journal.save(job))
        self.now(self.journal.forget([job.id, "unknown"]))
        self.assertEqual(self.now(self.journal.load()), ())


class MemoryJournalTests(_Suite, SynchronousTestCase):
    def setUp(self) -> None:
        self.journal = MemoryJournal()


class SqliteJournalTests(_Suite, SynchronousTestCase):
    def setUp(self) -> None:
        self.path = os.path.abspath(self.mktemp())
        self.journal = SqliteJournal(self.path, SynchronousThreads())
        self.journal.start()
        self.addCleanup(self.journal.stop)

    def test_survives(self) -> None:
        job = new_job(Direction.PUSH, REQUEST, 1, 5.0)
        self.now(self.journal.save(job))
        again = SqliteJournal(self.path, SynchronousThreads())
        again.start()
        self.addCleanup(again.stop)
        (loaded,) = self.now(again.load())
        self.assertEqual(to_record(loaded), to_record(job))

    def test_no_database(self) -> None:
        with open(self.mktemp(), "wb") as file:
            file.write(b"no database at all" * 100)
        journal = SqliteJournal(file.name, SynchronousThreads())
        self.assertIn(file.name, str(self.assertRaises(StorageFailure, journal.start)))
