"""One suite for every journal."""

import json
import os
import sqlite3
from copy import deepcopy
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from tests.jobs.test_model import OLD, REQUEST
from tests.slow_threads import SlowThreads
from txtransfers.errors import StorageFailure
from txtransfers.jobs.journal import IJournal, Kind, MemoryJournal, SqliteJournal
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
        kept = deepcopy(to_record(job))
        job.happens(Event.PAUSE, 7.0)
        for save in saves:
            self.assertIsNone(self.now(save))
        (loaded,) = self.now(self.journal.load())
        self.assertEqual(to_record(loaded), kept)

    def test_saves_that_are_not_durable(self: Any) -> None:
        """They take effect in the same order, and a later durable one may be the first."""
        job = new_job(Direction.PUSH, REQUEST, 1, 5.0)
        for event, durable in ((Event.START, False), (Event.PAUSE, True), (Event.RESUME, False)):
            job.happens(event, 6.0)
            self.assertIsNone(self.now(self.journal.save(job, durable=durable)))
            (loaded,) = self.now(self.journal.load())
            self.assertEqual(to_record(loaded), to_record(job))

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

    def test_what_is_kept_beside_a_job(self) -> None:
        self.assertIsNone(self.now(self.journal.attached("a", Kind.RECEIPT)))
        data = {
            ("a", Kind.INSTANCES): bytes(range(256)) * 1000,
            ("a", Kind.RECEIPT): b"",
            ("b", Kind.RECEIPT): b"receipt",
        }
        for (job, kind), value in data.items():
            self.assertIsNone(self.now(self.journal.attach(job, kind, value)))
        for (job, kind), value in data.items():
            self.assertEqual(self.now(self.journal.attached(job, kind)), value)
        self.assertIsNone(self.now(self.journal.attached("b", Kind.INSTANCES)))
        self.assertEqual(self.now(self.journal.load()), (), "these are no jobs")

    def test_the_last_of_a_kind_counts(self) -> None:
        self.now(self.journal.attach("a", Kind.INSTANCES, b"instances"))
        for data in (b"first", b"second"):
            self.now(self.journal.attach("a", Kind.RECEIPT, data))
        self.assertEqual(self.now(self.journal.attached("a", Kind.RECEIPT)), b"second")
        self.assertEqual(self.now(self.journal.attached("a", Kind.INSTANCES)), b"instances")

    def test_saving_a_job_leaves_what_is_beside_it(self) -> None:
        job = new_job(Direction.PULL, REQUEST, 1, 5.0)
        self.now(self.journal.attach(job.id, Kind.INSTANCES, b"instances"))
        self.now(self.journal.save(job))
        self.assertEqual(self.now(self.journal.attached(job.id, Kind.INSTANCES)), b"instances")

    def test_what_is_beside_a_job_is_forgotten_with_it(self) -> None:
        jobs = [new_job(Direction.PULL, REQUEST, n, 5.0) for n in range(2)]
        for job in jobs:
            self.now(self.journal.save(job))
            for kind in Kind:
                self.now(self.journal.attach(job.id, kind, b"data"))
        self.now(self.journal.forget([jobs[0].id]))
        for kind in Kind:
            self.assertIsNone(self.now(self.journal.attached(jobs[0].id, kind)))
            self.assertEqual(self.now(self.journal.attached(jobs[1].id, kind)), b"data")


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

    def test_who_is_cancelled_leaves_the_order_as_it_is(self) -> None:
        """A thread is at an older record: the newer one waits for it, or would be written over."""
        threads = SlowThreads()
        journal = SqliteJournal(os.path.abspath(self.mktemp()), threads)
        journal.start()
        self.addCleanup(journal.stop)
        job = new_job(Direction.PUSH, REQUEST, 1, 5.0)
        threads.is_slow = True
        older = journal.save(job)
        older.cancel()
        self.failureResultOf(older, CancelledError)
        job.happens(Event.PAUSE, 7.0)
        newer = journal.save(job)
        self.assertEqual(len(threads.waiting), 1)
        threads.go_on()
        self.now(newer)
        (loaded,) = self.now(journal.load())
        self.assertEqual(loaded.state, State.PAUSED)

    def test_what_is_kept_beside_a_job_survives(self) -> None:
        self.now(self.journal.attach("a", Kind.RECEIPT, b"receipt"))
        self.journal.stop()
        again = SqliteJournal(self.path, SynchronousThreads())
        again.start()
        self.addCleanup(again.stop)
        self.assertEqual(self.now(again.attached("a", Kind.RECEIPT)), b"receipt")

    def test_a_journal_of_an_older_release(self) -> None:
        """Its table of jobs, with one record, and no table of what is beside them."""
        path = os.path.abspath(self.mktemp())
        database = sqlite3.connect(path)
        database.execute(
            "CREATE TABLE job(id TEXT PRIMARY KEY, sequence INTEGER NOT NULL, record TEXT NOT NULL)"
        )
        database.execute("INSERT INTO job VALUES (?, ?, ?)", ("0f6b", 7, json.dumps(OLD)))
        database.execute("PRAGMA user_version = 1")
        database.commit()
        database.close()
        journal = SqliteJournal(path, SynchronousThreads())
        journal.start()
        self.addCleanup(journal.stop)
        (loaded,) = self.now(journal.load())
        self.assertEqual((loaded.id, loaded.state), ("0f6b", State.RUNNING))
        self.now(journal.attach("0f6b", Kind.RECEIPT, b"receipt"))
        self.assertEqual(self.now(journal.attached("0f6b", Kind.RECEIPT)), b"receipt")

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
