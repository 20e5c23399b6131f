"""All of a transfer gets into Orthanc, or what was added is taken back, whatever happens."""

import os
from collections.abc import Callable

from twisted.internet import error as net

from tests.dicom_files import make
from tests.orthanc.fake_orthanc import md5, refusal
from tests.orthanc.harness import StoreTestCase
from txtransfers import errors
from txtransfers.orthanc.store import OrthancStore
from txtransfers.store.dicom import Header
from txtransfers.store.interfaces import Outcome, Piece
from txtransfers.wire.plan import Chunk, Instance


class _Killed(BaseException):
    """The process ends here."""


class ImportTests(StoreTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.files = [make(n) for n in range(5)]
        self.other = make(9, study=7)
        self.orthanc.put(self.other)

    def test_what_became_of_each(self) -> None:
        self.orthanc.put(self.files[0])
        changed = make(1, PatientSex="M")
        self.orthanc.put(changed)
        outcomes = self.commit(*self.files)
        self.assertEqual(
            outcomes, (Outcome.ALREADY_STORED, Outcome.DIFFERENT, *[Outcome.STORED] * 3)
        )
        self.assertEqual(
            self.orthanc.files(), {self.other, self.files[0], changed, *self.files[2:]}
        )
        self.assertEqual(self.orthanc.count("POST", "/instances"), 3, "the others are not sent")
        self.assertEqual(self.left(), [])

    def test_overwriting(self) -> None:
        """Whether Orthanc itself overwrites or not."""
        for overwrites in (False, True):
            self.orthanc.overwrites = overwrites
            self.orthanc.put(self.files[0])
            self.orthanc.put(make(1, PatientSex="M"))
            self.store.overwrite_instances = True
            outcomes = self.commit(*self.files[:3], name=f"one{overwrites}")
            self.assertEqual(outcomes[:2], (Outcome.ALREADY_STORED, Outcome.REPLACED))
            self.assertEqual(self.orthanc.files(), {self.other, *self.files[:3]})
            self.assertEqual(self.left(), [])

    def test_of_two_files_of_an_instance_the_first_counts(self) -> None:
        twin = make(1, PatientSex="M")
        outcomes = self.commit(self.files[1], twin, self.files[1])
        self.assertEqual(outcomes, (Outcome.STORED, Outcome.DIFFERENT, Outcome.ALREADY_STORED))
        self.assertEqual(self.orthanc.files(), {self.other, self.files[1]})

    def test_one_that_is_refused_takes_all_back(self) -> None:
        changed = make(0, PatientSex="M")
        self.orthanc.put(changed)
        for overwrite in (False, True):
            for refuse, type_, words in (
                (self.filter_last, errors.StorageFailure, "filter of Orthanc"),
                (self.answer_last(refusal(500, 19, "Full storage")), errors.StorageFull, "disk"),
                (self.answer_last((507, b"")), errors.StorageFull, "disk"),
                (
                    self.answer_last(refusal(500, 14, "Cannot write to file")),
                    errors.StorageFull,
                    "disk",
                ),
                (self.answer_last(refusal(500, 10, "Oops")), errors.StorageFailure, "Oops"),
                (self.answer_last(refusal(400, 15, "Bad")), errors.BadDicom, "Bad"),
                (self.answer_last((503, b"")), errors.StoreUnavailable, "try again later"),
                (self.answer_last((401, b"")), errors.StorageFailure, "Username and Password"),
            ):
                self.store.overwrite_instances = overwrite
                refuse()
                incoming = self.receive(*self.files)
                error = self.fails(incoming.commit(), type_)
                self.assertIs(type(error), type_)
                for word in (words, "was taken back", "http://orthanc.test:8042"):
                    self.assertIn(word, str(error))
                self.assertEqual(self.orthanc.files(), {self.other, changed})
                self.orthanc.trouble = lambda _method, _path: None
                self.orthanc.filters = lambda _header: True
                report = self.now(incoming.commit())
                self.assertEqual(report.outcomes[1:], (Outcome.STORED,) * 4)
                self.orthanc.stored.clear()
                self.orthanc.put(changed)
                self.orthanc.put(self.other)
                self.now(self.store.forget_reports(-1.0))

    def filter_last(self) -> None:
        self.orthanc.filters = lambda header: not header.dicom.instance.endswith(".4")

    def answer_last(self, answer: tuple[int, bytes]) -> Callable[[], None]:
        """Once three more are in, no further one is taken."""

        def begin() -> None:
            before = self.orthanc.count("POST", "/instances")

            def trouble(method: str, path: str) -> tuple[int, bytes] | None:
                is_late = self.orthanc.count("POST", "/instances") > before + 3
                return answer if (method, path) == ("POST", "/instances") and is_late else None

            self.orthanc.trouble = trouble

        return begin

    def test_what_somebody_else_adds_meanwhile_is_not_ours(self) -> None:
        def step(what: str) -> None:
            if what == "noted":
                self.orthanc.put(self.files[1])
                self.orthanc.put(make(2, PatientSex="M"))

        self.on_step = step
        self.filter_last()
        incoming = self.receive(*self.files)
        self.fails(incoming.commit(), errors.StorageFailure)
        theirs = {self.other, self.files[1], make(2, PatientSex="M")}
        self.assertEqual(self.orthanc.files(), theirs)
        self.orthanc.filters = lambda _header: True
        self.on_step = lambda _what: None
        self.assertEqual(
            self.now(incoming.commit()).outcomes,
            (
                *(Outcome.STORED, Outcome.ALREADY_STORED, Outcome.DIFFERENT),
                *(Outcome.STORED, Outcome.STORED),
            ),
        )

    def test_one_that_changes_what_it_receives(self) -> None:
        """What it made of it is taken back, too."""
        self.orthanc.changes = lambda data: data.replace(b"P1", b"P7")
        self.filter_last()
        incoming = self.receive(*self.files)
        self.fails(incoming.commit(), errors.StorageFailure)
        self.assertEqual(self.orthanc.files(), {self.other})

    def test_an_answer_that_is_lost(self) -> None:
        lost = []

        def silence(method: str, path: str) -> Exception | None:
            if (method, path) == ("POST", "/instances") and len(lost) < 2:
                lost.append(path)
                return net.ConnectionRefusedError()
            return None

        self.orthanc.silence = silence
        self.assertEqual(self.commit(*self.files), (Outcome.STORED,) * 5)
        self.assertEqual(self.orthanc.files(), {self.other, *self.files})

    def test_an_orthanc_that_is_restarted_meanwhile(self) -> None:
        down = [3]

        def trouble(_method: str, path: str) -> Exception | None:
            if path == "/instances" and len(self.orthanc.files()) == 3 and down[0]:
                down[0] -= 1
                return net.ConnectionRefusedError()
            return None

        self.orthanc.trouble = trouble
        self.assertEqual(self.commit(*self.files), (Outcome.STORED,) * 5)
        self.assertEqual(down, [0])

    def go_away_in_the_middle(self) -> None:
        gone = [False]

        def trouble(_method: str, _path: str) -> Exception | None:
            gone[0] = gone[0] or len(self.orthanc.files()) == 4
            return net.ConnectionRefusedError() if gone[0] else None

        self.orthanc.trouble = trouble

    def test_an_orthanc_that_goes_away_is_cleaned_when_it_is_back(self) -> None:
        incoming = self.receive(*self.files)
        self.go_away_in_the_middle()
        error = self.fails(incoming.commit(), errors.StoreUnavailable)
        self.assertIn("connection refused", str(error))
        self.assertIn("cannot be taken back now", str(error))
        self.assertEqual(len(self.orthanc.files()), 4)
        self.orthanc.trouble = lambda _method, _path: None
        self.wait()
        self.assertEqual(self.orthanc.files(), {self.other})
        self.assertEqual(self.now(incoming.commit()).outcomes, (Outcome.STORED,) * 5)

    def test_discarded_it_is_taken_back_when_orthanc_is_back(self) -> None:
        incoming = self.receive(*self.files)
        self.go_away_in_the_middle()
        self.fails(incoming.commit(), errors.StoreUnavailable)
        self.assertFalse(self.now(incoming.discard()))
        self.assertIsNone(self.now(self.store.reopen("one")))
        self.assertIsNone(self.now(self.store.drop("one")))
        self.orthanc.trouble = lambda _method, _path: None
        self.wait()
        self.assertEqual(self.orthanc.files(), {self.other})
        self.assertEqual(self.left(), [])

    def test_two_transfers_of_the_same_at_once(self) -> None:
        first, second = self.receive(*self.files), self.receive(*self.files, name="two")
        reports = [self.now(incoming.commit()) for incoming in (first, second)]
        self.assertEqual(reports[0].outcomes, (Outcome.STORED,) * 5)
        self.assertEqual(reports[1].outcomes, (Outcome.ALREADY_STORED,) * 5)


class CrashTests(StoreTestCase):
    """The daemon is killed at each instant of an import; another one starts in its place."""

    def setUp(self) -> None:
        super().setUp()
        self.files = [make(n) for n in range(4)]
        self.old = make(0, PatientSex="M")
        self.other = make(9, study=7)

    def kill_at(self, number: int, overwrite: bool) -> bool:
        """Kill it at an instant; tells whether there was one of that number."""
        self.orthanc.stored.clear()
        for data in (self.old, self.other):
            self.orthanc.put(data)
        self.steps.clear()
        self.store.overwrite_instances = overwrite
        incoming = self.receive(*self.files, name=f"n{number}{overwrite}")
        killed = []

        def step(_what: str) -> None:
            if killed or len(self.steps) == number:
                killed.append(True)
                raise _Killed

        self.on_step = step
        committing = incoming.commit()
        committing.addErrback(lambda _failure: None)
        return bool(killed)

    def test_it_is_completed(self) -> None:
        for overwrite in (False, True):
            number = 1
            while self.kill_at(number, overwrite):
                self.restart(overwrite_instances=overwrite)
                first = self.files[0] if overwrite else self.old
                name = f"n{number}{overwrite}"
                again = self.now(self.store.reopen(name))
                self.assertIsNotNone(again.report, number)
                self.assertEqual(self.orthanc.files(), {first, self.other, *self.files[1:]}, number)
                self.assertEqual(self.left(), [])
                number += 1
            self.assertGreater(number, 5)

    def test_it_is_taken_back_where_it_cannot_be_completed(self) -> None:
        for overwrite in (False, True):
            number = 1
            while self.kill_at(number, overwrite):
                if len(self.orthanc.files() & set(self.files)) < 4 - (not overwrite):
                    # It takes back what it had, and nothing new.
                    self.orthanc.filters = self.is_old
                    self.restart(overwrite_instances=overwrite)
                    self.orthanc.filters = lambda _header: True
                    self.assertEqual(
                        self.orthanc.files(), {self.old, self.other}, (number, overwrite)
                    )
                else:
                    self.restart(overwrite_instances=overwrite)
                number += 1
            self.assertGreater(number, 5)

    def test_it_is_taken_back_where_a_staged_file_was_damaged(self) -> None:
        self.assertTrue(self.kill_at(2, overwrite=False))
        in_it = self.orthanc.files() & set(self.files)
        self.assertTrue(0 < len(in_it) < 3, len(in_it))
        folder = os.path.join(self.folder, "gateway", "instances")
        for number in (2, 3):
            (area,) = os.listdir(folder)
            with open(os.path.join(folder, area, "all.dcm"), "r+b") as file:
                file.seek(sum(map(len, self.files[:number])))
                file.write(b"other bytes")
        self.restart()
        self.assertEqual(self.orthanc.files(), {self.old, self.other})
        self.assertEqual(self.store._journal.names(), ())

    def test_what_an_older_release_has_staged(self) -> None:
        """There each instance was in a file of its own."""
        older = self.patch(OrthancStore, "keeps_files", True)
        self.assertTrue(self.kill_at(2, overwrite=False))
        older.restore()
        (area,) = os.listdir(os.path.join(self.folder, "gateway", "instances"))
        files = os.listdir(os.path.join(self.folder, "gateway", "instances", area))
        self.assertIn("3.dcm", files)
        self.assertNotIn("all.dcm", files)
        self.restart()
        self.assertEqual(self.orthanc.files(), {self.old, self.other, *self.files[1:]})
        self.assertEqual(self.left(), [])

    def test_what_was_damaged_comes_again(self) -> None:
        incoming = self.receive(*self.files)
        declared = incoming.instances
        self.now(incoming.close())
        (area,) = os.listdir(os.path.join(self.folder, "gateway", "instances"))
        path = os.path.join(self.folder, "gateway", "instances", area, "all.dcm")
        with open(path, "r+b") as file:
            file.seek(len(self.files[0]) + 200)
            file.write(b"other bytes")
        incoming = self.now(self.store.reopen("one"))
        plan = tuple((Chunk(one.id, 0, one.size),) for one in declared)
        self.assertEqual(self.now(incoming.missing(plan)), (1,))
        self.now(incoming.write([Piece(declared[1].id, 0, self.files[1])]))
        self.now(incoming.commit())
        self.assertEqual(self.orthanc.files(), set(self.files))

    def test_a_staged_file_that_somebody_removes(self) -> None:
        incoming = self.receive(*self.files[:3], ids=tuple(map(self.stand_in, range(4))))
        (area,) = os.listdir(os.path.join(self.folder, "gateway", "instances"))
        os.unlink(os.path.join(self.folder, "gateway", "instances", area, "all.dcm"))
        error = self.fails(incoming.commit(), errors.StorageFailure)
        self.assertIn("all.dcm", str(error))
        self.assertEqual(self.orthanc.files(), set())

    def test_it_is_taken_back_where_what_was_held_is_gone(self) -> None:
        held = self.orthanc.put(self.files[3])
        declared = [
            *(Instance(self.stand_in(n), len(d), md5(d)) for n, d in enumerate(self.files[:3])),
            Instance(held, len(self.files[3]), md5(self.files[3])),
        ]
        incoming = self.now(self.store.receive(declared, "one", b"", True))
        self.assertEqual(incoming.held, {held})
        for one, data in zip(declared[:3], self.files, strict=False):
            self.now(incoming.write([Piece(one.id, 0, data)]))

        def step(what: str) -> None:
            if what == "imported":
                raise _Killed

        self.on_step = step
        incoming.commit().addErrback(lambda _failure: None)
        self.assertGreater(len(self.orthanc.files()), 1)
        del self.orthanc.stored[held]
        self.restart()
        self.assertEqual(self.orthanc.files(), set())

    def is_old(self, header: Header) -> bool:
        return any("M" in level.values() for level in header.tags.values())

    def test_what_is_being_taken_back_is_taken_back(self) -> None:
        for overwrite in (False, True):
            self.orthanc.filters = lambda header: not header.dicom.instance.endswith(".3")
            number = 1
            while self.kill_at(number, overwrite):
                self.restart(overwrite_instances=overwrite)
                self.assertEqual(self.orthanc.files(), {self.old, self.other}, (number, overwrite))
                number += 1
            self.assertGreater(number, 4)
