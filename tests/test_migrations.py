"""Databases of every version that there was become those of this one; whoever dies in between."""

import hashlib
import os
import shutil
import signal
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

from twisted.trial.unittest import SynchronousTestCase

from txtransfers import migrations
from txtransfers.errors import StorageFailure, StorageFull
from txtransfers.jobs import journal
from txtransfers.jobs.journal import Kind, SqliteJournal
from txtransfers.jobs.model import State
from txtransfers.orthanc import import_journal
from txtransfers.orthanc.import_journal import ImportJournal
from txtransfers.sqlite import Database
from txtransfers.store import index
from txtransfers.store.archive import EmbeddedArchive
from txtransfers.store.embedded import EmbeddedStore
from txtransfers.threads import SynchronousThreads
from txtransfers.wire.messages import Level, Resource

SCHEMAS = Path(__file__).parent / "data" / "schemas"
STEPS = {
    "index": index.MIGRATIONS,
    "jobs": journal._MIGRATIONS,
    "imports": import_journal._MIGRATIONS,
}
KNOWN_STEPS = {
    "index": ["e876b39f", "a7098d5c"],
    "jobs": ["c617547e", "285f64c4", "10eb17b4"],
    "imports": ["6c4030d7"],
}
"""The beginnings of the MD5s of steps that are on somebody's disk: they stay as they are."""

INSTANCES = 3


def dumps(name: str) -> list[str]:
    return sorted(path.stem for path in SCHEMAS.glob(f"{name}-*.sql"))


def restore(path: str, dump: str) -> int:
    """Make a database of a dump; gives its version."""
    db = sqlite3.connect(path)
    db.executescript((SCHEMAS / f"{dump}.sql").read_text(encoding="utf-8"))
    (version,) = db.execute("PRAGMA user_version").fetchone()
    db.close()
    return int(version)


def content(path: str) -> list[str]:
    db = sqlite3.connect(path)
    lines = [*db.iterdump(), str(db.execute("PRAGMA user_version").fetchone())]
    db.close()
    return lines


class VersionTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = os.path.abspath(self.mktemp())
        os.makedirs(self.folder)

    def path(self, name: str) -> str:
        return os.path.join(self.folder, f"{name}.sqlite")

    def test_steps_that_were_taken_stay_as_they_are(self) -> None:
        for name, steps in STEPS.items():
            sums = [hashlib.md5(step.encode()).hexdigest()[:8] for step in steps]
            self.assertEqual(KNOWN_STEPS[name], sums[: len(KNOWN_STEPS[name])], name)

    def test_every_version_has_its_dump(self) -> None:
        for name, steps in STEPS.items():
            found = {int(dump.split("-")[1]) for dump in dumps(name)}
            self.assertEqual(set(range(1, len(steps) + 1)), found, name)

    def test_every_index(self) -> None:
        for dump in dumps("index"):
            version = restore(self.path("index"), dump)
            store = EmbeddedStore(self.folder, SynchronousThreads())
            store.start()
            archive: Any = EmbeddedArchive(store)
            studies = self.successResultOf(archive.list_ids(Level.STUDY, 0, 10))
            self.assertEqual(2, len(studies), dump)
            wanted = [Resource(Level.STUDY, study) for study in studies]
            found = self.successResultOf(store.lookup(wanted))
            self.assertEqual(INSTANCES, len(found), dump)
            store.stop()
            self.assertEqual(
                version < len(index.MIGRATIONS),
                os.path.exists(f"{self.path('index')}.before-v{len(index.MIGRATIONS)}"),
                dump,
            )
            shutil.rmtree(self.folder)
            os.makedirs(self.folder)

    def test_every_journal_of_jobs(self) -> None:
        for dump in dumps("jobs"):
            version = restore(self.path(dump), dump)
            jobs = SqliteJournal(self.path(dump), SynchronousThreads())
            jobs.start()
            found = self.successResultOf(jobs.load())
            self.assertEqual({State.SUCCESS, State.FAILURE}, {job.state for job in found}, dump)
            receipts = [self.successResultOf(jobs.attached(job.id, Kind.RECEIPT)) for job in found]
            self.assertEqual(version > 1, all(receipts), dump)
            jobs.stop()

    def test_every_journal_of_imports(self) -> None:
        for dump in dumps("imports"):
            restore(self.path(dump), dump)
            imports = ImportJournal(self.path(dump))
            imports.open()
            self.assertEqual({"push-one", "pull-two"}, set(imports.names()))
            record = imports.find("push-one")
            assert record is not None
            self.assertEqual([False, True], [entry.is_foreign for entry in record.entries])
            imports.close()


class CopyTests(SynchronousTestCase):
    """What stands beside a file that was brought up."""

    def setUp(self) -> None:
        self.folder = os.path.abspath(self.mktemp())
        os.makedirs(self.folder)
        self.path = os.path.join(self.folder, "index.sqlite")
        self.copy = f"{self.path}.before-v2"

    def open(self, steps: Sequence[str] = index.MIGRATIONS) -> None:
        database = Database(self.path, steps)
        try:
            database.open()
        finally:
            database.close()

    def beside(self) -> set[str]:
        return {name for name in os.listdir(self.folder) if "before" in name}

    def test_a_copy_is_the_file_as_it_was(self) -> None:
        restore(self.path, "index-1")
        before = content(self.path)
        self.open()
        self.assertEqual(before, content(self.copy))
        self.assertNotEqual(before, content(self.path))
        os.replace(self.copy, self.path)
        self.open()
        self.assertEqual({"index.sqlite.before-v2"}, self.beside())

    def test_it_has_what_was_in_the_log_alone(self) -> None:
        """Of a daemon that was killed, the newest is in the write-ahead log."""
        restore(self.path, "index-1")
        db = sqlite3.connect(self.path)
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("INSERT INTO property VALUES ('late', 'x')")
        db.commit()
        for name in ("", "-wal"):
            shutil.copy(self.path + name, f"{self.folder}/dead{name}")
        db.close()
        self.path = f"{self.folder}/dead"
        self.open()
        self.assertTrue(any("'late'" in line for line in content(f"{self.path}.before-v2")))

    def test_a_new_file_and_one_of_this_version_have_none(self) -> None:
        self.open()
        self.open()
        self.assertEqual(set(), self.beside())

    def test_the_last_two_are_kept(self) -> None:
        steps = [f"CREATE TABLE t{number}(x)" for number in range(12)]
        for count in range(1, 13):
            self.open(steps[:count])
        (Path(self.folder) / "index.sqlite.before-vacation").write_text("ours to keep")
        Path(f"{self.path}.before-v9.partial").touch()
        self.open([*steps, "CREATE TABLE last(x)"])
        self.assertEqual(
            {
                "index.sqlite.before-v12",
                "index.sqlite.before-v13",
                "index.sqlite.before-vacation",
            },
            self.beside(),
        )

    def test_without_room_nothing_is_changed(self) -> None:
        restore(self.path, "index-1")
        before = content(self.path)
        usage = shutil.disk_usage(self.folder)
        with patch.object(migrations.shutil, "disk_usage", lambda _path: usage._replace(free=1000)):
            error = self.assertRaises(StorageFull, self.open)
        for word in (self.path, "1000 are free", "Make room", "nothing was changed"):
            self.assertIn(word, str(error))
        self.assertEqual((before, set()), (content(self.path), self.beside()))

    def test_a_copy_that_cannot_be_made(self) -> None:
        restore(self.path, "index-1")
        before = content(self.path)
        os.makedirs(f"{self.copy}.partial/full")
        error = self.assertRaises(StorageFailure, self.open)
        self.assertIn("Nothing was changed", str(error))
        self.assertEqual(before, content(self.path))

    def test_a_newer_one_is_refused_with_what_to_do(self) -> None:
        restore(self.path, "index-2")
        error = self.assertRaises(StorageFailure, self.open, index.MIGRATIONS[:1])
        for word in (self.path, "version 2", "up to 1", f"{self.path}.before-v2", "backup"):
            self.assertIn(word, str(error))


class KilledTests(SynchronousTestCase):
    """A process that is killed before the Nth thing that it does."""

    def setUp(self) -> None:
        self.folder = os.path.abspath(self.mktemp())
        os.makedirs(self.folder)
        self.path = os.path.join(self.folder, "index.sqlite")

    def die_before(self, number: int) -> bool:
        """Whether it got as far as that, in another process."""
        child = os.fork()
        if child == 0:  # pragma: no cover
            try:
                _open_and_die(self.path, number)
            finally:
                os._exit(0)
        _pid, status = os.waitpid(child, 0)
        return os.WIFSIGNALED(status)

    def test_at_each_instant(self) -> None:
        template = os.path.join(self.folder, "template")
        restore(template, "index-1")
        before, number = content(template), 0
        died = True
        while died:
            number += 1
            shutil.copy(template, self.path)
            died = self.die_before(number)
            if content(self.path)[-1] == "(2,)":
                self.assertEqual(before, content(f"{self.path}.before-v2"), number)
            else:
                self.assertEqual(before, content(self.path), number)
            database = Database(self.path, index.MIGRATIONS)
            database.open()
            files = database.read(lambda db: db.execute("SELECT count(*) FROM file").fetchone())
            database.close()
            self.assertEqual((INSTANCES,), files, number)
            left = sorted(name for name in os.listdir(self.folder) if "before" in name)
            self.assertEqual(["index.sqlite.before-v2"], left, number)
            for name in left:
                os.unlink(os.path.join(self.folder, name))
            self.assertEqual({"template", "index.sqlite"}, set(os.listdir(self.folder)), number)
        self.assertGreater(number, 20)


def _open_and_die(path: str, number: int) -> None:  # pragma: no cover
    """Count statements and what is done to files, and be killed before one of them."""
    done = 0

    def count(*_what: Any) -> None:
        nonlocal done
        done += 1
        if done == number:
            os.kill(os.getpid(), signal.SIGKILL)

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            count()
            return function(*args)

        return call

    class Counted(Database):
        def _connect(self) -> sqlite3.Connection:
            connection = super()._connect()
            connection.set_trace_callback(count)
            return connection

    for name in ("fsync", "replace"):
        setattr(os, name, counted(getattr(os, name)))
    Counted(path, index.MIGRATIONS).open()
