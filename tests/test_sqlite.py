"""A SQLite file: versions, transactions, and a disk that is full."""

import os
import sqlite3
import threading
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from txtransfers.errors import StorageFailure, StorageFull
from txtransfers.sqlite import Database

MIGRATIONS = (
    "CREATE TABLE one(name TEXT PRIMARY KEY); CREATE TABLE other(name TEXT)",
    "ALTER TABLE one ADD COLUMN size INTEGER NOT NULL DEFAULT 7",
)


class DatabaseTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = os.path.abspath(self.mktemp())

    def open(self, *migrations: str) -> Database:
        database = Database(self.path, migrations or MIGRATIONS)
        database.open()
        self.addCleanup(database.close)
        return database

    def names(self, database: Database) -> list[str]:
        return database.read(
            lambda db: [name for (name,) in db.execute("SELECT name FROM one ORDER BY name")]
        )

    def insert(self, database: Database, *names: str) -> None:
        database.write(
            lambda db: db.executemany("INSERT INTO one(name) VALUES (?)", [(n,) for n in names])
        )

    def test_what_was_written_survives(self) -> None:
        database = self.open()
        self.insert(database, "a", "b")
        database.close()
        self.assertEqual(self.names(self.open()), ["a", "b"])

    def test_a_file_of_an_older_version_is_brought_up(self) -> None:
        old = self.open(MIGRATIONS[0])
        self.insert(old, "a")
        old.close()
        new = self.open()
        rows = new.read(lambda db: db.execute("SELECT name, size FROM one").fetchall())
        self.assertEqual(rows, [("a", 7)])
        new.close()
        self.assertEqual(self.names(self.open()), ["a"], "and each step is taken once")

    def test_a_file_of_a_newer_version_is_refused_and_left_alone(self) -> None:
        new = self.open()
        self.insert(new, "a")
        new.close()
        error = self.assertRaises(StorageFailure, self.open, MIGRATIONS[0])
        for word in (self.path, "version 2", "newer", "up to 1"):
            self.assertIn(word, str(error))
        self.assertEqual(self.names(self.open()), ["a"])

    def test_a_step_that_fails_leaves_the_version_before(self) -> None:
        old = self.open(MIGRATIONS[0])
        self.insert(old, "a")
        old.close()
        broken = "CREATE TABLE half(x); INSERT INTO nowhere VALUES (1)"
        self.assertRaises(StorageFailure, self.open, MIGRATIONS[0], broken)
        tables = self.open().read(
            lambda db: db.execute("SELECT count(*) FROM sqlite_master WHERE name='half'").fetchone()
        )
        self.assertEqual(tables, (0,))

    def test_what_cannot_be_opened_is_named(self) -> None:
        with open(self.path, "wb") as file:
            file.write(b"no database at all" * 100)
        self.assertIn(self.path, str(self.assertRaises(StorageFailure, self.open)))
        nowhere = os.path.join(self.path, "below", "index")
        self.assertIn(nowhere, str(self.assertRaises(StorageFailure, Database(nowhere, ()).open)))

    def test_an_exception_undoes_the_transaction(self) -> None:
        database = self.open()

        def write(db: sqlite3.Connection) -> None:
            db.execute("INSERT INTO one(name) VALUES ('a')")
            raise ValueError

        self.assertRaises(ValueError, database.write, write)
        self.assertEqual(self.names(database), [])
        self.insert(database, "b")
        self.assertEqual(self.names(database), ["b"])

    def test_a_statement_that_fails_undoes_the_transaction(self) -> None:
        database = self.open()
        self.assertRaises(sqlite3.IntegrityError, self.insert, database, "a", "a")

        def write(db: sqlite3.Connection) -> None:
            db.execute("INSERT INTO one(name) VALUES ('a')")
            db.execute("INSERT INTO nowhere VALUES (1)")

        error = self.assertRaises(StorageFailure, database.write, write)
        self.assertIn("nowhere", str(error))
        self.assertEqual(self.names(database), [])

    def test_a_full_disk_says_so_and_can_be_emptied(self) -> None:
        database = self.open()
        pages = database.read(lambda db: db.execute("PRAGMA page_count").fetchone()[0])
        database.write(lambda db: db.execute(f"PRAGMA max_page_count={pages}").fetchone())
        error = self.assertRaises(StorageFull, self.insert, database, "x" * 100_000)
        self.assertIn(self.path, str(error))
        self.assertEqual(self.names(database), [])
        database.write(lambda db: db.execute(f"PRAGMA max_page_count={pages * 1000}").fetchone())
        self.insert(database, "x" * 100_000)

    def test_a_read_sees_one_moment(self) -> None:
        database = self.open()

        def read(db: sqlite3.Connection) -> tuple[Any, Any]:
            before = db.execute("SELECT count(*) FROM one").fetchone()
            self.insert(database, "a")
            return before, db.execute("SELECT count(*) FROM one").fetchone()

        self.assertEqual(database.read(read), ((0,), (0,)))
        self.assertEqual(self.names(database), ["a"])

    def test_a_read_that_fails_is_no_obstacle(self) -> None:
        database = self.open()
        for _ in range(2):
            with self.assertRaises(sqlite3.OperationalError):
                database.read(lambda db: db.execute("SELECT * FROM nowhere"))
        self.assertEqual(self.names(database), [])

    def test_threads_write_one_at_a_time(self) -> None:
        database = self.open()
        self.insert(database, "0")
        errors: list[BaseException] = []

        def add(db: sqlite3.Connection) -> None:
            (count,) = db.execute("SELECT count(*) FROM one").fetchone()
            db.execute("INSERT INTO one(name) VALUES (?)", (str(count),))

        def work() -> None:
            try:
                for _ in range(20):
                    database.write(add)
                    self.names(database)
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(errors, [])
        self.assertEqual(len(self.names(database)), 61)

    def test_a_write_that_returned_is_on_disk(self) -> None:
        """Neither a crash of the daemon nor of the machine may take it back."""
        database = self.open()
        for pragma, value in (("synchronous", 2), ("journal_mode", "wal"), ("foreign_keys", 1)):
            found = database.read(lambda db, p=pragma: db.execute(f"PRAGMA {p}").fetchone()[0])  # type: ignore[misc]
            self.assertEqual(found, value, pragma)

    def test_closed(self) -> None:
        database = self.open()
        self.insert(database, "a")
        database.close()
        database.close()
        self.assertIn("closed", str(self.assertRaises(StorageFailure, self.insert, database, "b")))
        database.open()
        self.assertEqual(self.names(database), ["a"])
