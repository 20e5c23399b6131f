"""All or nothing, even when the process dies: killed at every step of a commit, then reopened."""

import hashlib
import io
import os
import shutil
import signal
import zipfile
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from tests.dicom_files import make
from txtransfers.errors import StorageFailure, UnknownResource
from txtransfers.store import files, index, showing
from txtransfers.store.archive import EmbeddedArchive
from txtransfers.store.embedded import EmbeddedStore
from txtransfers.store.interfaces import Piece
from txtransfers.store.steps import Step, ignore
from txtransfers.threads import SynchronousThreads
from txtransfers.wire.messages import Level
from txtransfers.wire.plan import Chunk, Instance

COUNT = 5
NAME = "transfer"


def die(*_args: Any, **_kwargs: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before(owner: Any, name: str) -> Callable[[], None]:
    """Die at the call of ``owner.name``."""
    return lambda: setattr(owner, name, die)


def after(owner: Any, name: str, calls: int = 1) -> Callable[[], None]:
    """Die when ``owner.name`` has been called so many times."""

    def arm() -> None:
        real, seen = getattr(owner, name), []

        def function(*args: Any, **kwargs: Any) -> Any:
            result = real(*args, **kwargs)
            seen.append(None)
            if len(seen) == calls:
                die()
            return result

        setattr(owner, name, function)

    return arm


class CrashCase(SynchronousTestCase):
    """Work that is done in a child process, which may die in the middle of it."""

    overwrite = False

    def setUp(self) -> None:
        self.folder = os.path.abspath(self.mktemp())
        self.files = {
            f"{n:08x}-00000000-00000000-00000000-00000000": make(n, filler=3000)
            for n in range(COUNT)
        }

    def open(self, step: Callable[[Step], None] = ignore) -> EmbeddedStore:
        store = EmbeddedStore(self.folder, SynchronousThreads(), self.overwrite, step=step)
        store.start()
        return store

    def in_a_child(
        self,
        arm: Callable[[], None],
        work: Callable[[EmbeddedStore], None],
        step: Callable[[Step], None] = ignore,
    ) -> bool:
        """Do ``work`` in another process that may die of ``arm``; tells whether it did."""
        child = os.fork()
        if child == 0:
            try:
                store = self.open(step)
                arm()
                work(store)
            finally:
                os._exit(0)
        _pid, status = os.waitpid(child, 0)
        return os.WIFSIGNALED(status)

    def dies_at(self, step: Step, work: Callable[[EmbeddedStore], None], times: int = 1) -> bool:
        """Do ``work`` in another process that dies at a step; tells whether it came there."""
        seen: list[Step] = []

        def at(passed: Step) -> None:
            seen.append(passed)
            if seen.count(step) == times:
                die()

        return self.in_a_child(lambda: None, work, at)

    def declared(self) -> list[Instance]:
        return [
            Instance(id_, len(data), hashlib.md5(data).hexdigest())
            for id_, data in self.files.items()
        ]

    def transfer(self, store: EmbeddedStore) -> None:
        """Receive all, from wherever an earlier life has come to, and commit."""
        incoming: Any = self.successResultOf(store.reopen(NAME))
        if incoming is None:
            incoming = self.successResultOf(store.receive(self.declared(), NAME))
        self.written = 0
        for id_, data in self.files.items():
            half = len(data) // 2
            plan = [(Chunk(id_, 0, half),), (Chunk(id_, half, len(data) - half),)]
            for number in self.successResultOf(incoming.missing(plan)):
                start = plan[number][0].offset
                part = data[start : start + plan[number][0].size]
                self.successResultOf(incoming.write([Piece(id_, start, part)]))
                self.written += len(part)
        self.successResultOf(incoming.commit())

    def forget(self) -> None:
        """Forget that there were commits: their names can be used again."""
        store = self.open()
        self.successResultOf(store.forget_reports(-1.0))
        store.stop()

    def on_disk(self) -> list[str]:
        return sorted(
            os.path.join(path, name)
            for path, _folders, names in os.walk(self.folder)
            for name in names
            if not name.startswith(files.INDEX_FILE)
        )

    def discard_staged(self, store: EmbeddedStore) -> None:
        for staged in self.successResultOf(store.staged()):
            incoming: Any = self.successResultOf(store.reopen(staged.name))
            self.successResultOf(incoming.discard())

    def assert_holds(self, expected: int) -> None:
        """So many instances are shown, with the right bytes; once what is staged is discarded, no
        other file is on the disk."""
        store = self.open()
        try:
            ids = self.successResultOf(EmbeddedArchive(store).list_ids(Level.INSTANCE, 0, 0))
            self.assertEqual(len(ids), expected)
            self.discard_staged(store)
            found = store.database.read(lambda db: index.find_files(db, ids))
            self.assertEqual(self.on_disk(), sorted(store.path(p) for _i, p in found.values()))
            folders = {os.path.dirname(path) for _instance, path in found.values()}
            self.assertEqual(set(os.listdir(store.path(""))), folders)
            for instance, path in found.values():
                with open(store.path(path), "rb") as file:
                    self.assertEqual(hashlib.md5(file.read()).hexdigest(), instance.md5)
            changes, _done, _last = self.successResultOf(EmbeddedArchive(store).changes(0, 1000))
            new = [change.id for change in changes if change.type == "NewInstance"]
            gone = [change.id for change in changes if change.type == "Deleted"]
            self.assertEqual(len(new) - len([id_ for id_ in gone if id_ in new]), expected)
        finally:
            store.stop()


BEFORE = (
    (Step.FOLDER_MADE, 1),
    (Step.LOG_MADE, 1),
    (Step.BYTES_WRITTEN, 1),
    (Step.BYTES_WRITTEN, COUNT),
    (Step.BYTES_LOGGED, 2 * COUNT),
    (Step.ALL_VERIFIED, 1),
    (Step.ALL_SYNCED, 1),
    (Step.DECIDING, 1),
)
BATCHED = ((Step.BATCH_BEGUN, 1), (Step.BATCH_ADDED, 1), (Step.BATCH_ADDED, 2))
AFTER = (Step.SHOWN, Step.LOG_DROPPED, Step.SWEPT)
DISCARDING = (Step.DISCARD_BEGUN, Step.DISCARD_UNLINKED)
STARTING = (Step.START_PURGED, Step.START_LOGS_READ, Step.START_ORPHAN_REMOVED)
REOPENING = (Step.REOPENED, Step.RECOVERED)


class StepTests(CrashCase):
    """Killed at every named step: then all or nothing is there, and it can be gone on with."""

    def test_every_step_is_tested(self) -> None:
        tested = {step for step, _times in (*BEFORE, *BATCHED)}
        tested |= {*AFTER, *DISCARDING, *STARTING, *REOPENING, Step.GARBAGE_UNLINKED}
        self.assertEqual(tested, set(Step))

    def fresh(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def sizes(self, step: Step) -> tuple[int, ...]:
        """The sizes of a step of a batch: in one transaction, and in several."""
        return (2,) if step in dict(BATCHED) else (500, 2)

    def test_before_the_decision_nothing_is_there(self) -> None:
        for step, times in (*BEFORE, *BATCHED):
            for size in self.sizes(step):
                self.patch(showing, "BATCH_STEP", size)
                self.fresh()
                self.assertTrue(self.dies_at(step, self.transfer, times), step)
                self.assert_holds(0)

    def test_what_was_staged_is_gone_on_with(self) -> None:
        total = sum(len(data) for data in self.files.values())
        for step, times in (*BEFORE, *BATCHED):
            for size in self.sizes(step):
                self.patch(showing, "BATCH_STEP", size)
                self.fresh()
                self.assertTrue(self.dies_at(step, self.transfer, times), step)
                store = self.open()
                self.transfer(store)
                store.stop()
                self.assert_holds(COUNT)
                if step in (Step.BYTES_LOGGED, Step.ALL_SYNCED, Step.DECIDING):
                    self.assertEqual(self.written, 0)
                self.assertLessEqual(self.written, total)

    def test_after_the_decision_all_is_there(self) -> None:
        for step in AFTER:
            for size in (500, 2):
                self.patch(showing, "BATCH_STEP", size)
                self.fresh()
                self.assertTrue(self.dies_at(step, self.transfer), step)
                self.assert_holds(COUNT)
                store = self.open()
                self.transfer(store)  # who asks again is told that it is done
                store.stop()
                self.assertEqual(self.written, 0)
                self.assert_holds(COUNT)

    def test_a_discard_leaves_nothing_even_half_done(self) -> None:
        def discard(store: EmbeddedStore) -> None:
            incoming: Any = self.successResultOf(store.receive(self.declared(), NAME))
            (id_, data), *_rest = self.files.items()
            self.successResultOf(incoming.write([Piece(id_, 0, data)]))
            self.successResultOf(incoming.discard())

        for step in DISCARDING:
            self.assertTrue(self.dies_at(step, discard), step)
            self.assert_holds(0)

    def test_killed_while_starting(self) -> None:
        for step in STARTING:
            for crash, count in ((Step.BATCH_ADDED, 0), (Step.DISCARD_BEGUN, 0), (Step.SHOWN, 5)):
                self.patch(showing, "BATCH_STEP", 2)
                self.fresh()

                def work(store: EmbeddedStore, crash: Step = crash) -> None:
                    if crash is not Step.DISCARD_BEGUN:
                        self.transfer(store)
                    incoming: Any = self.successResultOf(store.receive(self.declared(), "other"))
                    (id_, data), *_rest = self.files.items()
                    self.successResultOf(incoming.write([Piece(id_, 0, data)]))
                    self.successResultOf(incoming.discard())

                self.assertTrue(self.dies_at(crash, work), crash)
                died = self.dies_at(step, lambda _store: None)
                if step is not Step.START_ORPHAN_REMOVED or crash is Step.DISCARD_BEGUN:
                    self.assertTrue(died, (step, crash))
                self.assert_holds(count)

    def test_killed_while_reopening(self) -> None:
        for step in REOPENING:
            self.fresh()
            self.assertTrue(self.dies_at(Step.ALL_VERIFIED, self.transfer))
            self.assertTrue(self.dies_at(step, self.transfer), step)
            store = self.open()
            self.transfer(store)
            store.stop()
            self.assertEqual(self.written, 0)
            self.assert_holds(COUNT)

    def test_a_second_time_changes_nothing(self) -> None:
        self.assertFalse(self.in_a_child(lambda: None, self.transfer))

        def again(store: EmbeddedStore) -> None:
            incoming: Any = self.successResultOf(store.receive(self.declared(), "again"))
            for id_, data in self.files.items():
                self.successResultOf(incoming.write([Piece(id_, 0, data)]))
            self.successResultOf(incoming.commit())

        for size, steps in (
            (500, (Step.DECIDING, *AFTER, Step.GARBAGE_UNLINKED)),
            (2, (*dict(BATCHED), Step.DECIDING, *AFTER, Step.START_ORPHAN_REMOVED)),
        ):
            self.patch(showing, "BATCH_STEP", size)
            for step in steps:
                self.forget()
                self.assertTrue(self.dies_at(step, again), step)
                self.assert_holds(COUNT)

    def test_a_replacement_is_old_or_new(self) -> None:
        self.assertFalse(self.in_a_child(lambda: None, self.transfer))
        first = dict(self.files)
        self.overwrite = True
        for size, step, is_new in (
            (500, Step.DECIDING, False),
            (2, Step.DECIDING, False),
            (2, Step.BATCH_ADDED, False),
            (500, Step.SHOWN, True),
            (2, Step.SHOWN, True),
            (2, Step.GARBAGE_UNLINKED, True),
        ):
            self.patch(showing, "BATCH_STEP", size)
            self.files = {id_: make(n, filler=3000) for n, id_ in enumerate(first)}
            self.forget()
            self.in_a_child(lambda: None, self.transfer)
            self.forget()
            self.files = {id_: make(n, filler=3000, PatientSex="O") for n, id_ in enumerate(first)}
            self.assertTrue(self.dies_at(step, self.transfer), step)
            self.assert_holds(COUNT)
            shown = []
            for path in self.on_disk():
                with open(path, "rb") as file:
                    shown.append(file.read() in self.files.values())
            self.assertEqual(shown, [is_new] * COUNT, step)


class StagingTests(CrashCase):
    """What is found again counts only if it is right."""

    def staged_files(self) -> list[str]:
        return [path for path in self.on_disk() if path.endswith(".dcm")]

    def go_on(self) -> int:
        """Go on in a new life; tells how many bytes were written once more."""
        store = self.open()
        self.transfer(store)
        store.stop()
        self.assert_holds(COUNT)
        return self.written

    def damage(self, path: str, offset: int) -> None:
        with open(path, "r+b") as file:
            file.seek(offset)
            byte = file.read(1)
            file.seek(offset)
            file.write(bytes([byte[0] ^ 1]))

    def test_one_byte_that_changed_costs_its_part_only(self) -> None:
        self.assertTrue(self.dies_at(Step.ALL_VERIFIED, self.transfer))
        path = self.staged_files()[2]
        size = os.path.getsize(path)
        self.damage(path, size - 10)
        self.assertEqual(self.go_on(), size - size // 2)

    def test_a_file_that_was_cut(self) -> None:
        self.assertTrue(self.dies_at(Step.ALL_VERIFIED, self.transfer))
        path = self.staged_files()[1]
        size = os.path.getsize(path)
        os.truncate(path, size // 2 + 1)
        self.assertEqual(self.go_on(), size - size // 2)

    def test_a_file_that_is_gone(self) -> None:
        self.assertTrue(self.dies_at(Step.ALL_VERIFIED, self.transfer))
        path = self.staged_files()[0]
        size = os.path.getsize(path)
        os.unlink(path)
        self.assertEqual(self.go_on(), size)

    def test_a_log_that_is_torn_at_any_place(self) -> None:
        self.assertTrue(self.dies_at(Step.BYTES_LOGGED, self.transfer, 2 * COUNT))
        whole = shutil.copytree(self.folder, self.folder + ".kept")
        (name,) = os.listdir(os.path.join(whole, files.STAGING))
        size = os.path.getsize(os.path.join(whole, files.STAGING, name))
        for cut in range(0, size, 97):
            shutil.rmtree(self.folder)
            shutil.copytree(whole, self.folder)
            os.truncate(os.path.join(self.folder, files.STAGING, name), cut)
            self.go_on()

    def test_a_log_that_is_damaged_at_any_place(self) -> None:
        self.assertTrue(self.dies_at(Step.BYTES_LOGGED, self.transfer, 2 * COUNT))
        whole = shutil.copytree(self.folder, self.folder + ".kept")
        (name,) = os.listdir(os.path.join(whole, files.STAGING))
        size = os.path.getsize(os.path.join(whole, files.STAGING, name))
        for place in range(0, size, 97):
            shutil.rmtree(self.folder)
            shutil.copytree(whole, self.folder)
            self.damage(os.path.join(self.folder, files.STAGING, name), place)
            self.go_on()


class CrashTests(CrashCase):
    """Killed at what has no step of its own: uploads, deletions."""

    def test_a_deletion_is_whole(self) -> None:
        self.assertFalse(self.in_a_child(lambda: None, self.transfer))

        def delete(store: EmbeddedStore) -> None:
            whole = EmbeddedArchive(store)
            (patient,) = self.successResultOf(whole.list_ids(Level.PATIENT, 0, 0))
            self.successResultOf(whole.delete(Level.PATIENT, patient))

        self.assertTrue(self.in_a_child(after(index, "delete"), delete))
        self.assert_holds(COUNT)
        self.assertTrue(self.in_a_child(after(os, "unlink", 2), delete))
        self.assert_holds(0)
        self.forget()
        self.assertFalse(self.in_a_child(lambda: None, self.transfer))
        self.assert_holds(COUNT)
        self.assertTrue(self.in_a_child(before(index, "forget_garbage"), delete))
        self.assert_holds(0)
        self.forget()
        self.assertFalse(self.in_a_child(lambda: None, self.transfer))
        self.assertTrue(self.in_a_child(before(EmbeddedStore, "empty_garbage"), delete))
        self.assert_holds(0)

    def upload(self, store: EmbeddedStore) -> None:
        upload: Any = EmbeddedArchive(store).upload()
        for data in self.files.values():
            self.successResultOf(upload.write(data))
            self.successResultOf(upload.finish())
            upload = EmbeddedArchive(store).upload()

    def test_an_upload_is_there_or_not(self) -> None:
        for arm in (before(os, "fsync"), before(EmbeddedStore, "show"), after(index, "insert")):
            self.assertTrue(self.in_a_child(arm, self.upload))
            self.assert_holds(0)
        self.assertTrue(self.in_a_child(before(EmbeddedStore, "empty_garbage"), self.upload))
        self.assert_holds(1)
        self.assertFalse(self.in_a_child(lambda: None, self.upload))
        self.assert_holds(COUNT)
        self.assertTrue(self.in_a_child(before(EmbeddedStore, "empty_garbage"), self.upload))
        self.assert_holds(COUNT)

    def test_an_archive_of_files_is_there_or_not(self) -> None:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as zipped:
            for name, data in self.files.items():
                zipped.writestr(name, data)

        def upload(store: EmbeddedStore) -> None:
            one: Any = EmbeddedArchive(store).upload()
            self.successResultOf(one.write(out.getvalue()))
            self.successResultOf(one.finish())

        for arm in (after(os, "fsync", 3), before(EmbeddedStore, "show"), after(index, "insert")):
            self.assertTrue(self.in_a_child(arm, upload))
            self.assert_holds(0)
        self.assertTrue(self.in_a_child(before(EmbeddedStore, "empty_garbage"), upload))
        self.assert_holds(COUNT)

    def test_everything_is_synced_before_it_is_shown(self) -> None:
        synced: list[str] = []
        real = os.fsync

        def fsync(descriptor: int) -> None:
            synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
            real(descriptor)

        shown: list[set[str]] = []

        def step(passed: Step) -> None:
            if passed is Step.DECIDING:
                shown.append(set(synced))

        store = self.open(step)
        self.addCleanup(store.stop)
        self.patch(os, "fsync", fsync)
        self.transfer(store)
        files = self.on_disk()
        folder = os.path.dirname(files[0])
        (before,) = shown
        self.assertLessEqual({*files, folder, os.path.dirname(folder)}, before)


class RestartTests(SynchronousTestCase):
    def test_a_store_of_a_newer_release_is_refused(self) -> None:
        folder = os.path.abspath(self.mktemp())
        store = EmbeddedStore(folder, SynchronousThreads())
        store.start()
        store.database.write(lambda db: db.execute("PRAGMA user_version=99"))
        store.stop()
        error = self.assertRaises(StorageFailure, store.start)
        self.assertIn("newer release", str(error))

    def test_everything_is_there_again(self) -> None:
        folder = os.path.abspath(self.mktemp())
        seen = []
        for life in range(3):
            store = EmbeddedStore(folder, SynchronousThreads())
            store.start()
            whole = EmbeddedArchive(store)
            if life == 0:
                for number in range(4):
                    upload: Any = whole.upload()
                    self.successResultOf(upload.write(make(number, study=number % 2)))
                    self.successResultOf(upload.finish())
            ids = self.successResultOf(whole.list_ids(Level.INSTANCE, 0, 0))
            seen.append(
                (
                    whole.identifier,
                    self.successResultOf(whole.statistics(None, "")),
                    self.successResultOf(whole.changes(0, 100)),
                    [self.successResultOf(whole.details(Level.INSTANCE, id_)) for id_ in ids],
                    self.successResultOf(store.find(ids)),
                )
            )
            store.stop()
        self.assertEqual(seen[1:], seen[:-1])

    def test_files_of_a_folder_that_was_open_and_that_no_row_names(self) -> None:
        store = EmbeddedStore(os.path.abspath(self.mktemp()), SynchronousThreads())
        store.start()
        self.addCleanup(store.stop)
        upload: Any = EmbeddedArchive(store).upload()
        self.successResultOf(upload.write(make()))
        self.successResultOf(upload.finish())
        (folder,) = os.listdir(store.path(""))
        for name in ("2.dcm", "core"):
            with open(os.path.join(store.path(folder), name), "wb") as file:
                file.write(make(2))
        store.stop()
        store.start()
        self.assertEqual(os.listdir(store.path(folder)), ["1.dcm"])

    def test_files_without_an_index_are_not_touched(self) -> None:
        folder = os.path.abspath(self.mktemp())
        store = EmbeddedStore(folder, SynchronousThreads())
        store.start()
        upload: Any = EmbeddedArchive(store).upload()
        self.successResultOf(upload.write(make()))
        self.successResultOf(upload.finish())
        store.stop()
        for name in os.listdir(folder):
            if name.startswith("index.sqlite"):
                os.unlink(os.path.join(folder, name))
        error = self.assertRaises(StorageFailure, store.start)
        self.assertIn("backup", str(error))
        (kept,) = os.listdir(os.path.join(folder, "instances"))
        self.assertEqual(os.listdir(os.path.join(folder, "instances", kept)), ["1.dcm"])

    def test_folders_that_an_old_index_does_not_know_are_put_aside(self) -> None:
        folder = os.path.abspath(self.mktemp())
        store = EmbeddedStore(folder, SynchronousThreads())
        store.start()
        store.stop()
        os.makedirs(os.path.join(folder, "instances", "later"))
        with open(os.path.join(folder, "instances", "later", "1.dcm"), "wb") as file:
            file.write(make())
        os.makedirs(os.path.join(folder, "instances", "empty"))
        store.start()
        self.addCleanup(store.stop)
        self.assertEqual(os.listdir(os.path.join(folder, "instances")), [])
        self.assertEqual(os.listdir(os.path.join(folder, "unknown", "later")), ["1.dcm"])

    def test_unknown(self) -> None:
        store = EmbeddedStore(os.path.abspath(self.mktemp()), SynchronousThreads())
        store.start()
        self.addCleanup(store.stop)
        result: Deferred[Any] = EmbeddedArchive(store).details(Level.STUDY, "x")
        self.failureResultOf(result, UnknownResource)
