"""What is read from Orthanc: how often it is asked, what is kept, and what is caught."""

import os
from collections.abc import Callable, Sequence

from twisted.internet import error as net
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.web._newclient import ParseError, ResponseNeverReceived

from tests.dicom_files import make
from tests.orthanc.fake_orthanc import Stored, md5
from tests.orthanc.harness import StoreTestCase
from txtransfers import errors
from txtransfers.orthanc import catalogue, reader
from txtransfers.wire.messages import Level, Resource
from txtransfers.wire.plan import Chunk, Instance


class CatalogueTests(StoreTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.files = {self.orthanc.put(data): data for data in (make(n) for n in range(7))}
        header = next(iter(self.orthanc.stored.values())).header
        self.study = [Resource(Level.STUDY, header.ids.study)]

    def lookup(self) -> Sequence[Instance]:
        found: Sequence[Instance] = self.now(self.store.lookup(self.study))
        return found

    def test_no_file_is_read(self) -> None:
        found = self.lookup()
        expected = [Instance(id_, len(d), md5(d)) for id_, d in sorted(self.files.items())]
        self.assertEqual(list(found), expected)
        self.assertEqual(self.orthanc.count("GET", "/file"), 0)
        self.assertEqual(self.orthanc.count("POST", "/tools/bulk-content"), 1)

    def test_an_md5_is_asked_once(self) -> None:
        self.lookup()
        self.lookup()
        self.assertEqual(self.orthanc.count("GET", "/md5"), len(self.files))

    def test_a_replaced_instance_has_another_md5(self) -> None:
        self.lookup()
        self.orthanc.put(make(3, PatientSex="M"))
        self.assertIn(md5(make(3, PatientSex="M")), [one.md5 for one in self.lookup()])
        self.assertEqual(self.orthanc.count("GET", "/md5"), len(self.files) + 1)

    def test_what_is_remembered_is_bounded(self) -> None:
        self.patch(catalogue, "_MOST_REMEMBERED", 2)
        self.lookup()
        self.assertEqual(len(self.store._catalogue._told), 2)

    def test_many_are_asked_for_in_slices(self) -> None:
        self.patch(catalogue, "_SLICE", 3)
        self.assertEqual(len(self.lookup()), 7)
        self.assertEqual(self.orthanc.count("POST", "/tools/bulk-content"), 3)

    def test_without_md5s_each_is_read_once_and_the_log_says_so(self) -> None:
        self.orthanc.has_md5s = False
        for _ in range(2):
            self.assertEqual({one.md5 for one in self.lookup()}, set(map(md5, self.files.values())))
        self.assertEqual(self.orthanc.count("GET", "/file"), len(self.files))

    def test_of_another_size_nobody_asks_the_md5(self) -> None:
        id_, data = next(iter(self.files.items()))
        held = self.now(
            self.store.receive([Instance(id_, len(data) + 1, "0" * 32)], "one", b"", True)
        ).held
        self.assertEqual(held, frozenset())
        self.assertEqual(self.orthanc.count("GET", "/md5"), 0)

    def test_one_that_vanishes_meanwhile_is_left_out(self) -> None:
        gone = next(iter(self.files))

        def trouble(method: str, path: str) -> None:
            if path.endswith(f"{gone}/attachments/dicom/md5"):
                self.orthanc.stored.pop(gone, None)

        self.orthanc.trouble = trouble  # type: ignore[assignment]
        self.assertEqual(len(self.lookup()), 6)

    def test_identifiers_do_not_become_paths(self) -> None:
        for bad in ("../system", "x?y", "", "a" * 10_000):
            self.fails(self.store.lookup([Resource(Level.STUDY, bad)]), errors.UnknownResource)
        self.assertEqual(self.orthanc.asked, [])
        self.assertEqual(self.now(self.store.find(["../system"])), {})

    def test_nonsense_is_refused(self) -> None:
        for body in (b"[", b"{}", b"[1]", b'[{"ID": "x", "FileSize": 1}]', b'"x"', b'"\x80"',
            *(b'[{"ID": "%s", "FileSize": %s}]' % (next(iter(self.files)).encode(), size)
              for size in (b"-1", b"true", b"1e3", b"9223372036854775807")),
        ):  # fmt: skip
            self.orthanc.trouble = lambda _method, path, body=body: (
                (200, body) if "bulk" in path else None
            )
            error = self.fails(self.store.lookup(self.study), errors.StorageFailure)
            self.assertIn("is Store.Url that of an Orthanc?", str(error))


class SmallTests(StoreTestCase):
    """Instances that are read whole, without a copy."""

    def setUp(self) -> None:
        super().setUp()
        self.ids = [self.orthanc.put(make(n)) for n in range(9)]
        self.size = len(make(1))

    def test_the_next_ones_come_meanwhile(self) -> None:
        opened = self.store.open([Chunk(id_, 0, self.size) for id_ in self.ids])
        self.now(opened.read(10))
        self.assertEqual(self.orthanc.count("GET", "/data"), 9)
        opened.close()
        self.assertEqual(os.listdir(os.path.join(self.folder, "spool")), [])

    def test_not_more_than_memory_allows(self) -> None:
        self.patch(reader, "_TOGETHER", 2 * self.size)
        opened = self.store.open([Chunk(id_, 0, self.size) for id_ in self.ids])
        self.now(opened.read(10))
        self.assertEqual(self.orthanc.count("GET", "/data"), 2)
        for expected in (2, 4, 4, 6):
            self.now(opened.read(self.size))
            self.assertEqual(self.orthanc.count("GET", "/data"), expected)
        opened.close()

    def test_none_is_cut_where_it_fits(self) -> None:
        opened = self.store.open([Chunk(id_, 0, self.size) for id_ in self.ids])
        read = [self.now(opened.read(2 * self.size + 10)) for _ in range(5)]
        opened.close()
        self.assertEqual([len(data) for data in read], [2 * self.size] * 4 + [self.size])

    def test_it_is_not_asked_again_what_it_has(self) -> None:
        self.now(self.store.find(self.ids))
        for _ in range(2):
            self.read_all()
            self.assertEqual(self.orthanc.count("POST", "/tools/bulk-content"), 1)
        self.clock.advance(20)
        self.read_all()
        self.assertEqual(self.orthanc.count("POST", "/tools/bulk-content"), 2)

    def test_one_that_was_replaced_since(self) -> None:
        """Its content is compared: what was told before counts no more."""
        self.now(self.store.find(self.ids))
        stored = self.orthanc.stored[self.ids[3]]
        data = stored.data[:-1] + b"!"
        self.orthanc.stored[self.ids[3]] = Stored(data, stored.header, "another")
        self.assertTrue(data in self.read_all())
        self.assertEqual(self.orthanc.count("POST", "/tools/bulk-content"), 2)

    def test_what_is_wrong_with_one_of_several_is_said_of_it(self) -> None:
        self.now(self.store.find(self.ids))
        del self.orthanc.stored[self.ids[2]]
        opened = self.store.open([Chunk(id_, 0, self.size) for id_ in self.ids])
        error = self.fails(opened.read(2**20), errors.UnknownResource)
        self.assertIn(self.ids[2], str(error))
        opened.close()

    def read_all(self) -> bytes:
        reader = self.store.open([Chunk(id_, 0, self.size) for id_ in self.ids])
        parts = []
        while data := self.now(reader.read(2**20)):
            parts.append(data)
        reader.close()
        return b"".join(parts)

    def test_one_that_changes_while_it_comes(self) -> None:
        self.now(self.store.find(self.ids))
        stored = self.orthanc.stored[self.ids[0]]
        for data in (b"x" * self.size, b"x" * (self.size + 1), b"x"):
            changed = Stored(data, stored.header, stored.uuid)
            self.orthanc.trouble = self.replacing(self.ids[0], changed)
            opened = self.store.open([Chunk(self.ids[0], 0, self.size)])
            self.fails(opened.read(2**20), errors.SourceChanged)
            opened.close()
            self.orthanc.stored[self.ids[0]] = stored

    def replacing(self, id_: str, changed: Stored) -> Callable[[str, str], None]:
        """It is replaced when its bytes are asked for."""

        def trouble(_method: str, path: str) -> None:
            if path.endswith("/data"):
                self.orthanc.stored[id_] = changed

        return trouble


class CopyTests(StoreTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.patch(reader, "SMALL", 0)
        self.data = make(1, filler=50_000)
        self.id = self.orthanc.put(self.data)

    def spooled(self) -> list[str]:
        return os.listdir(os.path.join(self.folder, "spool"))

    def test_one_request_for_all_buckets(self) -> None:
        size = len(self.data)
        readers = [
            self.store.open([Chunk(self.id, start, min(9000, size - start))])
            for start in range(0, size, 9000)
        ]
        parts = [self.now(opened.read(2**20)) for opened in readers]
        self.assertEqual(b"".join(parts), self.data)
        self.assertEqual(self.orthanc.count("GET", "/file"), 1)

    def test_the_next_instances_come_meanwhile(self) -> None:
        ids = [self.orthanc.put(make(n)) for n in range(9)]
        opened = self.store.open([Chunk(id_, 0, 100) for id_ in ids])
        self.now(opened.read(10))
        self.assertEqual(self.orthanc.count("GET", "/file"), 4)
        opened.close()

    def test_the_oldest_copies_go_first_never_those_in_use(self) -> None:
        ids = [self.orthanc.put(make(n, filler=1000)) for n in range(2, 6)]
        size = len(make(2, filler=1000))
        self.store._spool._budget = 2 * size + 100
        held = self.store.open([Chunk(ids[0], 0, size)])
        self.now(held.read(10))
        for id_ in ids[1:]:
            self.read(id_, size)
        self.assertEqual(len(self.spooled()), 2)
        self.assertEqual(len(self.now(held.read(size))), size - 10)
        held.close()
        before = self.orthanc.count("GET", "/file")
        self.read(ids[0], size)
        self.read(ids[3], size)
        self.assertEqual(self.orthanc.count("GET", "/file"), before)
        self.read(ids[1], size)
        self.assertEqual(self.orthanc.count("GET", "/file"), before + 1)

    def test_one_that_is_larger_than_the_budget(self) -> None:
        self.store._spool._budget = 10
        self.assertEqual(self.read(self.id, len(self.data)), self.data)
        self.assertEqual(self.spooled(), [])

    def test_a_replaced_instance_is_not_given_from_its_copy(self) -> None:
        self.read(self.id, len(self.data))
        changed = make(1, filler=50_000, PatientSex="M")
        self.orthanc.put(changed)
        self.assertEqual(self.read(self.id, len(changed)), changed)

    def test_one_that_changes_while_it_comes(self) -> None:
        """The MD5 shows it, though the size is the same."""
        self.now(self.store.find([self.id]))
        stored = self.orthanc.stored[self.id]
        self.orthanc.stored[self.id] = Stored(self.data[:-1] + b"x", stored.header, stored.uuid)
        opened = self.store.open([Chunk(self.id, 0, len(self.data))])
        error = self.fails(opened.read(2**20), errors.SourceChanged)
        self.assertIn(self.id, str(error))
        opened.close()
        self.assertEqual(self.spooled(), [])

    def test_one_that_is_cut_short_is_fetched_again(self) -> None:
        cuts = [2]

        def trouble(_method: str, path: str) -> Exception | None:
            if path.endswith("/file") and cuts[0]:
                cuts[0] -= 1
                return net.ConnectionLost()
            return None

        self.orthanc.trouble = trouble
        self.assertEqual(self.read(self.id, len(self.data)), self.data)

    def test_copies_of_an_earlier_life_are_removed(self) -> None:
        self.read(self.id, len(self.data))
        self.assertEqual(len(self.spooled()), 1)
        self.restart()
        self.assertEqual(self.spooled(), [])


class RangeTests(StoreTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.patch(reader, "SMALL", 0)
        self.data = make(1, filler=5000)
        self.id = self.orthanc.put(self.data)
        self.orthanc.version = "1.12.6"
        self.orthanc.has_ranges = True
        self.store.begin()

    def test_parts_are_asked_for(self) -> None:
        self.assertEqual(self.read(self.id, len(self.data), 1000), self.data)
        self.assertEqual(self.orthanc.count("GET", "/file"), 0)
        self.assertEqual(self.orthanc.count("GET", "/data"), -(-len(self.data) // 1000))

    def test_one_that_gives_none_after_all(self) -> None:
        self.orthanc.has_ranges = False
        self.assertEqual(self.read(self.id, len(self.data), 1000), self.data)
        self.assertEqual(self.orthanc.count("GET", "/data"), 1)
        self.assertEqual(self.orthanc.count("GET", "/file"), 1)

    def test_one_that_is_replaced_between_two_parts(self) -> None:
        self.now(self.store.find([self.id]))
        opened = self.store.open([Chunk(self.id, 0, len(self.data))])
        self.now(opened.read(1000))
        self.orthanc.put(make(1, filler=5000, PatientSex="M"))
        self.fails(opened.read(1000), errors.SourceChanged)
        opened.close()

    def test_where_it_stores_compressed_copies_are_made(self) -> None:
        self.orthanc.is_compressed = True
        self.restart()
        self.read(self.id, len(self.data))
        self.assertEqual(self.orthanc.count("GET", "/file"), 1)

    def test_versions(self) -> None:
        for version, has_ranges in (
            ("1.12.4", False),
            ("1.12.5", True),
            ("1.13.0", True),
            ("2.0.0", True),
            ("mainline", True),
            ("mainline-abcdef", True),
            ("1.10.1", False),
            ("", False),
            ("1.12.5.6", False),
        ):
            self.orthanc.version = version
            self.now(Deferred.fromCoroutine(self.store.dialect.ask()))
            self.assertEqual(self.store.dialect.has_ranges, has_ranges, version)


class RefusalTests(StoreTestCase):
    def says(self, trouble: tuple[int, bytes] | Exception, type_: type[Exception]) -> str:
        self.orthanc.trouble = lambda _method, _path: trouble
        error = self.fails(self.store.find([self.stand_in(1)]), type_)
        self.assertIs(type(error), type_)
        self.assertIn("Orthanc (http://orthanc.test:8042/)", str(error))
        return str(error)

    def test_no_answer(self) -> None:
        for trouble, words in (
            (net.ConnectionRefusedError(), "connection refused; is it running"),
            (net.DNSLookupError(), "check Url under Store"),
            (net.TimeoutError(), "does a firewall drop it"),
            (ResponseNeverReceived([Failure(net.ConnectionLost())]), "the connection broke"),
        ):
            self.assertIn(words, self.says(trouble, errors.StoreUnavailable))

    def test_an_answer_that_is_none(self) -> None:
        trouble = ResponseNeverReceived([Failure(ParseError("bad", b"\x15\x03\x01"))])
        self.assertIn("is it https", self.says(trouble, errors.StorageFailure))

    def test_busy(self) -> None:
        for status in (429, 502, 503, 504):
            self.assertIn("try again later", self.says((status, b""), errors.StoreUnavailable))

    def test_a_password_is_missing(self) -> None:
        for status in (401, 403):
            self.assertIn(
                "check Username and Password", self.says((status, b""), errors.StorageFailure)
            )

    def test_our_own_errors_are_not_retried_where_nothing_can_change(self) -> None:
        self.says((401, b""), errors.StorageFailure)
        self.assertEqual(len(self.orthanc.asked), 1)
