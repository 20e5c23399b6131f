"""What people call studies and jobs, in an archive with the same names for several things."""

from typing import Any

from tests.client.memory import ClientCase
from tests.dicom_files import ROOT_UID, make
from txtransfers.client import Job, Level, Resource, find_job, find_studies
from txtransfers.errors import Ambiguous, UnknownJob, UnknownResource


class StudyTests(ClientCase):
    def setUp(self) -> None:
        super().setUp()
        self.first = self.store(make(1, study=1, AccessionNumber="A1", StudyDescription="Head"))
        self.second = self.store(make(2, study=2, AccessionNumber="A2"))
        self.other = self.store(make(3, study=3, series=3, patient="P2", AccessionNumber="A2"))

    def store(self, data: bytes) -> Any:
        return self.house.request("POST", "/instances", data).json()

    def found(self, name: str, take_all: bool = False) -> list[Resource]:
        return self.result(find_studies(self.client, name, take_all))

    def ambiguous(self, name: str) -> tuple[str, ...]:
        failed = self.begin(find_studies(self.client, name))
        error: Any = self.failureResultOf(failed, Ambiguous).value
        return tuple(error.candidates)

    def study(self, told: Any) -> Resource:
        return Resource(Level.STUDY, told["ParentStudy"])

    def test_every_way_to_name_a_study(self) -> None:
        study = self.study(self.first)
        for name in (study.id, f"{ROOT_UID}.1", "A1"):
            self.assertEqual([study], self.found(name), name)

    def test_a_patient_with_one_study(self) -> None:
        study = self.study(self.other)
        for name in ("P2", self.other["ParentPatient"]):
            self.assertEqual([study], self.found(name), name)

    def test_a_patient_with_several(self) -> None:
        for name in ("P1", self.first["ParentPatient"]):
            candidates = self.ambiguous(name)
            self.assertEqual(2, len(candidates))
            self.assertIn(self.first["ParentStudy"], "\n".join(candidates))
            self.assertIn("Head", "\n".join(candidates))
            self.assertIn("Test^Patient", candidates[0])
            both = [self.study(self.first), self.study(self.second)]
            self.assertCountEqual(both, self.found(name, take_all=True))

    def test_an_accession_number_of_two_patients(self) -> None:
        self.assertEqual(2, len(self.ambiguous("A2")))

    def test_a_patient_and_an_accession_number_of_the_same_name(self) -> None:
        self.store(make(4, study=4, patient="A1"))
        self.assertEqual(2, len(self.ambiguous("A1")))

    def test_series_and_instances_are_themselves(self) -> None:
        series = Resource(Level.SERIES, self.other["ParentSeries"])
        for name in (series.id, f"{ROOT_UID}.3.3"):
            self.assertEqual([series], self.found(name))
        instance = Resource(Level.INSTANCE, self.other["ID"])
        self.assertEqual([instance], self.found(instance.id))

    def test_nothing(self) -> None:
        nobody = "-".join(["00000000"] * 5)
        for name in ("A3", "A*", "P?", nobody, "", " ", "x" * 900, "\x1b[2J", "A1\\A2", "[", "ü"):
            said = self.failure(find_studies(self.client, name), UnknownResource)
            self.assertIn("txtransfers find", said)
            self.assertNotIn("\x1b", said)


def job(id_: str) -> Job:
    return Job(
        id_, "PushTransfer", "Running", "B", 0, None, 0, 0, None, 0, None, "", "", "", "", {}
    )


class JobTests(ClientCase):
    jobs = [job("abc1-2"), job("abd1-2"), job("abc1-2-3")]

    def test_the_beginning_is_enough(self) -> None:
        self.assertEqual("abd1-2", find_job(self.jobs, "abd").id)
        self.assertEqual("abd1-2", find_job(self.jobs, "ABD1").id)

    def test_a_whole_identifier_is_never_ambiguous(self) -> None:
        self.assertEqual("abc1-2", find_job(self.jobs, "abc1-2").id)

    def test_several(self) -> None:
        error = self.assertRaises(Ambiguous, find_job, self.jobs, "ab")
        self.assertEqual(3, len(error.candidates))
        self.assertIn("Running", error.candidates[0])

    def test_none(self) -> None:
        for name in ("x", "", "bc"):
            self.assertIn("knows 3", str(self.assertRaises(UnknownJob, find_job, self.jobs, name)))
