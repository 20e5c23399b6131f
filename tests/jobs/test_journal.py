"""One suite for every journal."""

import os
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from tests.jobs.test_model import REQUEST
from tests.slow_threads import SlowThreads
from txtransfers.errors import StorageFailure
from txtransfers.jobs.journal import IJournal, MemoryJournal, SqliteJournal
from txtransfers.jobs.model import Direction, Event, State, new_job, to_record
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

    def test_the_last_save_counts_and_keeps_the_job_as_it_was_then(self: Any) -> None:
        job = new_job(Direction.PUSH, REQUEST, 1, 5.0)
        saves = [self.journal.save(job)]
        job.happens(Event.START, 6.0)
        saves.append(self.journal.save(job))
        kept = to_record(job)
        job.happens(Event.PAUSE, 7.0)
        for save in saves:
            self.assertIsNone(self.now(save))
        (loaded,) = self.now(self.journal.load())
        self.assertEqual(to_record(loaded), kept)

    def test_what_is_loaded_is_a_copy(self: Any) -> None:
        job = new_job(Direction.PUSH, REQUEST, 1, 5.0)
        self.now(self.journal.save(job))
        self.now(self.journal.load())[0].happens(Event.START, 6.0)
        self.assertEqual(self.now(self.journal.load())[0].state, State.PENDING)

    def test_forget(self: Any) -> None:
        job = new_job(Direction.PULL, REQUEST, 1, 5.0)
        self.now(self.journal.save(job))
        self.now(self.journal.forget([job.id, "unknown"]))
        self.assertEqual(self.now(self.journal.load()), ())
        self.now(self.journal.forget([]))
        self.now(self.journal.save(job))
        self.assertEqual(len(self.now(self.journal.load())), 1)


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

    def test_saves_take_effect_in_order_whatever_the_threads_do(self) -> None:
        """One is under way at a time: the pool cannot turn them round."""
        threads = SlowThreads()
        journal = SqliteJournal(self.path, threads)
        journal.start()
        self.addCleanup(journal.stop)
        job = new_job(Direction.PUSH, REQUEST, 1, 5.0)
        threads.is_slow = True
        saves = []
        for event in (Event.START, Event.PAUSE, Event.CANCEL):
            job.happens(event, 6.0)
            saves.append(journal.save(job))
        forgetting = journal.forget([job.id])
        for save in saves:
            self.assertEqual(len(threads.waiting), 1)
            self.assertNoResult(save)
            threads.waiting.pop()()
            self.successResultOf(save)
        (loaded,) = self.now(self.journal.load())
        self.assertEqual(loaded.state, State.FAILURE)
        threads.go_on()
        self.successResultOf(forgetting)
        self.assertEqual(self.now(self.journal.load()), ())

    def test_a_save_that_fails_says_so_and_does_not_block_the_next(self) -> None:
        job = new_job(Direction.PUSH, REQUEST, 1, 5.0)
        self.journal.stop()
        self.failureResultOf(self.journal.save(job), StorageFailure)
        self.journal.start()
        self.successResultOf(self.journal.save(job))

    def test_no_database(self) -> None:
        with open(self.mktemp(), "wb") as file:
            file.write(b"no database at all" * 100)
        journal = SqliteJournal(file.name, SynchronousThreads())
        self.assertIn(file.name, str(self.assertRaises(StorageFailure, journal.start)))
