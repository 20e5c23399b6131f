"""All or nothing, even when the process dies: killed at every step of a commit, then reopened."""

import hashlib
import io
import os
import signal
import zipfile
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from tests.dicom_files import make
from txtransfers.errors import StorageFailure, UnknownResource
from txtransfers.store import archive, embedded, index, staging
from txtransfers.store.archive import EmbeddedArchive
from txtransfers.store.embedded import EmbeddedStore
from txtransfers.store.interfaces import Piece
from txtransfers.threads import SynchronousThreads
from txtransfers.wire.messages import Level
from txtransfers.wire.plan import Instance

COUNT = 5


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


class CrashTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = os.path.abspath(self.mktemp())
        self.files = {
            f"{n:08x}-00000000-00000000-00000000-00000000": make(n, filler=3000)
            for n in range(COUNT)
        }

    def open(self) -> EmbeddedStore:
        store = EmbeddedStore(self.folder, SynchronousThreads())
        store.start()
        return store

    def in_a_child(self, arm: Callable[[], None], work: Callable[[EmbeddedStore], None]) -> bool:
        """Do ``work`` in another process that may die of ``arm``; tells whether it did."""
        child = os.fork()
        if child == 0:
            try:
                store = self.open()
                arm()
                work(store)
            finally:
                os._exit(0)
        _pid, status = os.waitpid(child, 0)
        return os.WIFSIGNALED(status)

    def transfer(self, store: EmbeddedStore) -> None:
        declared = [
            Instance(id_, len(data), hashlib.md5(data).hexdigest())
            for id_, data in self.files.items()
        ]
        incoming: Any = self.successResultOf(store.receive(declared))
        for id_, data in self.files.items():
            self.successResultOf(incoming.write([Piece(id_, 0, data[:1000])]))
            self.successResultOf(incoming.write([Piece(id_, 1000, data[1000:])]))
        self.successResultOf(incoming.commit())

    def on_disk(self) -> list[str]:
        return sorted(
            os.path.join(path, name)
            for path, _folders, names in os.walk(self.folder)
            for name in names
            if not name.startswith(embedded.INDEX_FILE)
        )

    def assert_holds(self, expected: int) -> None:
        """So many instances are shown, with the right bytes; no other file is on the disk."""
        store = self.open()
        try:
            ids = self.successResultOf(EmbeddedArchive(store).list_ids(Level.INSTANCE, 0, 0))
            self.assertEqual(len(ids), expected)
            found = store.database.read(lambda db: index.find_files(db, ids))
            self.assertEqual(self.on_disk(), sorted(store.path(p) for _i, p in found.values()))
            folders = {os.path.dirname(path) for _instance, path in found.values()}
            self.assertEqual(set(os.listdir(store.path(""))), folders)
            for instance, path in found.values():
                with open(store.path(path), "rb") as file:
                    self.assertEqual(hashlib.md5(file.read()).hexdigest(), instance.md5)
        finally:
            store.stop()

    def test_before_the_decision_nothing_is_there(self) -> None:
        for name, arm in (
            ("while receiving", after(staging.StagedFile, "write", 3)),
            ("before a sync", before(staging.StagedFile, "sync")),
            ("after some syncs", after(os, "fsync", 3)),
            ("before the folder's sync", before(EmbeddedStore, "sync_folder")),
            ("before the transaction", before(EmbeddedStore, "show")),
            ("in the transaction", after(index, "insert")),
            ("at the end of the transaction", after(index, "close_folder")),
        ):
            self.assertTrue(self.in_a_child(arm, self.transfer), name)
            self.assert_holds(0)

    def test_after_the_decision_all_is_there(self) -> None:
        arm = before(EmbeddedStore, "empty_garbage")
        self.assertTrue(self.in_a_child(arm, self.transfer))
        self.assert_holds(COUNT)

    def test_a_second_time_changes_nothing(self) -> None:
        self.assertFalse(self.in_a_child(lambda: None, self.transfer))
        for arm in (
            after(index, "insert"),
            after(index, "close_folder"),
            before(EmbeddedStore, "empty_garbage"),
            after(os, "unlink", 2),
            before(index, "forget_garbage"),
            after(index, "forget_garbage"),
        ):
            self.assertTrue(self.in_a_child(self.later(arm), self.transfer))
            self.assert_holds(COUNT)

    def later(self, arm: Callable[[], None]) -> Callable[[], None]:
        """Arm when the first byte comes: what is done at the start uses the same functions."""

        def arm_at_receive() -> None:
            real = EmbeddedStore.receive

            def receive(*args: Any) -> Any:
                arm()
                return real(*args)

            setattr(EmbeddedStore, "receive", receive)  # noqa: B010

        return arm_at_receive

    def test_a_discard_leaves_nothing_even_half_done(self) -> None:
        def discard(store: EmbeddedStore) -> None:
            (id_, data), *_rest = self.files.items()
            declared = [Instance(id_, len(data), hashlib.md5(data).hexdigest())]
            incoming: Any = self.successResultOf(store.receive(declared))
            self.successResultOf(incoming.write([Piece(id_, 0, data)]))
            self.successResultOf(incoming.discard())

        for arm in (
            before(EmbeddedStore, "remove_folder"),
            before(os, "rmdir"),
            before(index, "close_folder"),
            after(index, "close_folder"),
            after(index, "add_folder"),
            before(os, "mkdir"),
            after(os, "mkdir"),
        ):
            self.assertTrue(self.in_a_child(arm, discard))
            self.assert_holds(0)

    def test_a_replacement_is_old_or_new(self) -> None:
        self.assertFalse(self.in_a_child(lambda: None, self.transfer))
        self.files = {id_: make(n, filler=3000, PatientSex="O") for n, id_ in enumerate(self.files)}

        def replace(store: EmbeddedStore) -> None:
            store.overwrite_instances = True
            self.transfer(store)

        for arm, is_new in (
            (after(index, "insert"), False),
            (before(EmbeddedStore, "empty_garbage"), True),
        ):
            self.assertTrue(self.in_a_child(arm, replace))
            self.assert_holds(COUNT)
            shown = []
            for path in self.on_disk():
                with open(path, "rb") as file:
                    shown.append(file.read() in self.files.values())
            self.assertEqual(shown, [is_new] * COUNT)

    def test_a_deletion_is_whole(self) -> None:
        self.assertFalse(self.in_a_child(lambda: None, self.transfer))

        def delete(store: EmbeddedStore) -> None:
            whole = EmbeddedArchive(store)
            (patient,) = self.successResultOf(whole.list_ids(Level.PATIENT, 0, 0))
            self.successResultOf(whole.delete(Level.PATIENT, patient))

        self.assertTrue(self.in_a_child(after(archive, "delete"), delete))
        self.assert_holds(COUNT)
        self.assertTrue(self.in_a_child(after(os, "unlink", 2), delete))
        self.assert_holds(0)
        self.assertFalse(self.in_a_child(lambda: None, self.transfer))
        self.assert_holds(COUNT)
        self.assertTrue(self.in_a_child(before(index, "forget_garbage"), delete))
        self.assert_holds(0)
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
        store = self.open()
        self.addCleanup(store.stop)
        synced: list[str] = []
        real = os.fsync

        def fsync(descriptor: int) -> None:
            synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
            real(descriptor)

        shown: list[list[str]] = []
        real_show = store.show

        def show(*args: Any, **kwargs: Any) -> Any:
            shown.append(sorted(synced))
            return real_show(*args, **kwargs)

        self.patch(os, "fsync", fsync)
        store.show = show  # type: ignore[method-assign]
        self.transfer(store)
        files = self.on_disk()
        folder = os.path.dirname(files[0])
        self.assertEqual(shown, [sorted([*files, folder, os.path.dirname(folder)])])


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
