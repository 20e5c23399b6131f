"""What the archive finds, in which order, and that what SQL passes over is not missed."""

import fnmatch
import re
from typing import Any

from tests.dicom_files import make
from tests.store.test_archive import TreeCase
from txtransfers.errors import UnknownResource
from txtransfers.store.interfaces import Find, Order, SortKey
from txtransfers.wire.messages import Level


class FindingTests(TreeCase):
    def search(self, level: Level, case_sensitive: bool = False, **query: str) -> int:
        wanted = {name.replace("_", ","): value for name, value in query.items()}
        question = Find(level, wanted, case_sensitive)
        found = self.now(self.archive.find(question))
        self.assertEqual(len(found), self.now(self.archive.count(question)))
        return len(found)

    def test_search(self) -> None:
        self.assertEqual(self.search(Level.STUDY, PatientID="P1"), 2)
        self.assertEqual(self.search(Level.STUDY, **{"0010_0020": "P2"}), 1)
        self.assertEqual(self.search(Level.STUDY, **{"00100020": "P?"}), 3)
        self.assertEqual(self.search(Level.INSTANCE, PatientName="test*"), 4)
        self.assertEqual(self.search(Level.INSTANCE, True, PatientName="test*"), 0)
        self.assertEqual(self.search(Level.STUDY, AccessionNumber="A1\\B2"), 2)
        self.assertEqual(self.search(Level.STUDY, StudyDate="20260201-"), 1)
        self.assertEqual(self.search(Level.STUDY, StudyDate="20250101-20260201"), 2)
        self.assertEqual(self.search(Level.STUDY, StudyDescription="[H]*"), 0)
        self.assertEqual(self.search(Level.PATIENT, PatientID=""), 2)
        self.assertEqual(self.search(Level.STUDY, StudyDate="-20260101"), 2)
        self.assertEqual(self.search(Level.STUDY, StudyDate="20260301"), 1)
        self.assertEqual(self.search(Level.STUDY, StudyDate="20260301-20260301"), 1)
        self.assertEqual(self.search(Level.STUDY, **{"0008_0020": "20260302-"}), 0)
        self.assertEqual(self.search(Level.STUDY, PatientID="P"), 0)
        self.assertEqual(self.search(Level.STUDY, PatientID="*"), 3)
        self.assertEqual(self.search(Level.STUDY, PatientID="P1", AccessionNumber="A?"), 1)
        self.assertEqual(self.search(Level.STUDY, PatientID="P1", AccessionNumber="?"), 0)
        self.assertEqual(self.search(Level.SERIES, Modality="o*"), 4)
        self.assertEqual(self.search(Level.SERIES, True, Modality="o*"), 0)
        self.assertEqual(self.search(Level.STUDY, NoSuchTag="x"), 0)
        self.assertEqual(self.search(Level.STUDY, StudyDescription="Head.CT"), 0)
        self.assertEqual(self.search(Level.STUDY, StudyDescription="HEAD CT"), 1)
        for query in ({}, {"PatientID": "P*"}):
            paged = Find(Level.STUDY, query, since=1, limit=1)
            self.assertEqual(self.now(self.archive.find(paged)), (self.stored[3].study,))
            self.assertEqual(self.now(self.archive.count(paged)), 3)

    def find(self, level: Level, *order: Order, **more: Any) -> tuple[str, ...]:
        return self.now(self.archive.find(Find(level, order=order, **more)))  # type: ignore[no-any-return]

    def test_order(self) -> None:
        first, second, other = self.stored[0].study, self.stored[3].study, self.stored[4].study
        received = Order("", False, SortKey.RECEPTION)
        for order, expected in (
            ((), (first, second, other)),
            ((received,), (other, second, first)),
            ((Order("", True, SortKey.LAST_UPDATE), received), (other, second, first)),
            ((Order("StudyDate", False),), (second, other, first)),
            ((Order("0008,0020", True),), (first, other, second)),
            ((Order("PatientName", True),), (other, first, second)),
            ((Order("PatientName", False), Order("StudyDate", False)), (second, first, other)),
            ((Order("NoSuchTag', 1); --", True),), (first, second, other)),
            ((Order("Modality", False),), (other, second, first)),
        ):
            self.assertEqual(self.find(Level.STUDY, *order), expected, order)
            page = self.find(Level.STUDY, *order, query={"PatientID": "P*"}, since=1, limit=1)
            self.assertEqual(page, expected[1:2], order)

    def test_order_of_numbers(self) -> None:
        stored = self.add(*(make(number, series=9) for number in (10, 9, 2)))
        parent = (Level.SERIES, stored[0].series)
        for key, order in (
            (SortKey.TAG_AS_INT, (2, 1, 0)),
            (SortKey.TAG_AS_FLOAT, (2, 1, 0)),
            (SortKey.TAG, (0, 2, 1)),
        ):
            found = self.find(Level.INSTANCE, Order("InstanceNumber", True, key), parent=parent)
            self.assertEqual(found, tuple(stored[n].id for n in order), key)

    def test_below_a_parent(self) -> None:
        first = self.stored[0]
        patient = (Level.PATIENT, first.patient)
        self.assertEqual(
            self.find(Level.STUDY, parent=patient), (first.study, self.stored[3].study)
        )
        self.assertEqual(len(self.find(Level.INSTANCE, parent=patient)), 4)
        self.assertEqual(len(self.find(Level.SERIES, parent=(Level.STUDY, first.study))), 2)
        query = {"StudyDate": "20260301"}
        self.assertEqual(len(self.find(Level.INSTANCE, parent=patient, query=query)), 1)
        nobody = Find(Level.STUDY, parent=(Level.PATIENT, "nobody"))
        for ask in (self.archive.find, self.archive.count):
            self.failureResultOf(ask(nobody), UnknownResource)

    def test_modalities_of_a_study(self) -> None:
        self.add(make(1, series=7, Modality="MR"))
        self.assertEqual(self.search(Level.STUDY, ModalitiesInStudy="MR"), 1)
        self.assertEqual(self.search(Level.STUDY, ModalitiesInStudy="mr\\CT"), 1)
        self.assertEqual(self.search(Level.STUDY, ModalitiesInStudy="O*"), 3)
        self.assertEqual(self.search(Level.SERIES, ModalitiesInStudy="MR"), 3)
        self.assertEqual(self.search(Level.PATIENT, ModalitiesInStudy="MR"), 0)
        (study,) = self.now(self.archive.describe(Level.STUDY, [self.stored[0].study], True))
        self.assertEqual(study.modalities, "MR\\OT")

    def test_what_sql_passes_over_would_not_have_matched(self) -> None:
        names = ["Müller^Ann", "MULLER^ANN", "\u212aelvin", "Kelvin", "kelvin", "O'Brien", "100%_x"]
        names += [
            'Quote"d',
            "Stra\u00dfe",
            "Mc\\Back",
            "Y\u0131lmaz",
            "Me\u017f\u017fer",
            "ab*c",
            "",
        ]
        files = [
            make(
                n,
                study=50 + n,
                patient=f"Q{n}",
                PatientName=name,
                SpecificCharacterSet="ISO_IR 192",
            )
            for n, name in enumerate(names)
        ]
        self.add(*files)
        stored = {
            details.id: details.tags.get("PatientName", "")
            for details in self.now(self.archive.describe(Level.PATIENT, self.find(Level.PATIENT)))
        }
        for text in [
            "kelvin",
            "*elv*",
            "*k*",
            "Mü*",
            "MÜLLER*",
            "m?ller*",
            "*brien",
            "*%_*",
            'q*"d',
        ]:
            for wanted in (
                text,
                text.upper(),
                f"{text}\\nobody",
                "*yilmaz*",
                "messer",
                "*aße",
                "ab?c",
            ):
                for case_sensitive in (False, True):
                    flags = 0 if case_sensitive else re.IGNORECASE
                    choices = [fnmatch.translate(part) for part in wanted.split("\\")]
                    pattern = re.compile("|".join(choices), flags)
                    expected = {id_ for id_, name in stored.items() if pattern.match(name)}
                    query = {"PatientName": wanted}
                    found = self.find(Level.PATIENT, query=query, case_sensitive=case_sensitive)
                    self.assertEqual(set(found), expected, (wanted, case_sensitive))

    def test_described(self) -> None:
        first = self.stored[0]
        ids = [first.series, "nobody", self.stored[2].series]
        plain = self.now(self.archive.describe(Level.SERIES, ids))
        self.assertEqual([first.series, self.stored[2].series], [each.id for each in plain])
        self.assertEqual(plain[0], self.now(self.archive.details(Level.SERIES, first.series)))
        series = self.now(self.archive.describe(Level.SERIES, ids, True))[0]
        self.assertEqual(
            ("P1", "Head CT"),
            (series.inherited["PatientID"], series.inherited["StudyDescription"]),
        )
        self.assertEqual(2, series.statistics.instances)

    def test_pages_of_a_search_make_the_whole(self) -> None:
        query = {"PatientName": "*e*"}
        whole = self.now(self.archive.find(Find(Level.INSTANCE, query, False, 0, 0)))
        self.assertEqual(len(whole), 5)
        pages = [
            self.now(self.archive.find(Find(Level.INSTANCE, query, False, start, 2)))
            for start in (0, 2, 4, 6)
        ]
        self.assertEqual([len(page) for page in pages], [2, 2, 1, 0])
        self.assertEqual(tuple(id_ for page in pages for id_ in page), whole)

    def test_what_looks_like_a_range_of_dates_is_an_identifier(self) -> None:
        self.add(make(9, study=9, patient="20250101-20260101"))
        self.assertEqual(self.search(Level.PATIENT, PatientID="20250101-20260101"), 1)

    def test_a_pattern_that_could_be_costly(self) -> None:
        self.add(make(9, study=9, patient="a" * 60))
        self.assertEqual(self.search(Level.PATIENT, PatientID="*a" * 30 + "b"), 0)
