"""``/tools/find`` and ``/tools/count-resources``: what they take, and what they give."""

import json
import os
from typing import Any

from tests.dicom_files import make
from tests.web.harness import Answer, House
from tests.web.test_hostile import HostileCase


class FindTests(HostileCase):
    def setUp(self) -> None:
        self.house = House(folder=os.path.abspath(self.mktemp()))
        self.addCleanup(self.house.stop)
        self.stored = [
            self.house.request("POST", "/instances", data).json()
            for data in (
                make(1, AccessionNumber="A1"),
                make(2, series=2, Modality="CT"),
                make(1, study=2, patient="P2", PatientName="Other^One", StudyDate="20270101"),
            )
        ]

    def ask(self, route: str, **body: Any) -> Answer:
        value = {"Level": "Study", "Query": {}, **body}
        return self.house.request("POST", f"/tools/{route}", json.dumps(value).encode())

    def find(self, **body: Any) -> Any:
        answer = self.ask("find", **body)
        self.assertEqual(200, answer.status, answer.body)
        return answer.json()

    def test_identifiers_resources_and_pages(self) -> None:
        first, second = self.stored[0]["ParentStudy"], self.stored[2]["ParentStudy"]
        self.assertEqual([first, second], self.find())
        newest = [{"Type": "DicomTag", "Key": "StudyDate", "Direction": "DESC"}]
        self.assertEqual([second, first], self.find(OrderBy=newest))
        received = [{"Type": "Metadata", "Key": "ReceptionDate", "Direction": "DESC"}]
        self.assertEqual([first], self.find(OrderBy=received, Since=1, Limit=1))
        self.assertEqual(
            [self.house.request("GET", f"/studies/{first}").json()],
            self.find(Expand=True, Query={"PatientID": "P1"}),
        )

    def test_what_is_wanted_of_each(self) -> None:
        tags = [
            *("PatientName", "0008,0061", "NumberOfStudyRelatedSeries", "AccessionNumber"),
            *("NumberOfStudyRelatedInstances", "NoSuchTag"),
        ]
        found = self.find(
            Query={"PatientID": "P1"},
            RequestedTags=tags,
            ResponseContent=["MainDicomTags", "Statistics"],
        )
        (study,) = found
        self.assertEqual(
            {
                "PatientName": "Test^Patient",
                "ModalitiesInStudy": "CT\\OT",
                "NumberOfStudyRelatedSeries": "2",
                "NumberOfStudyRelatedInstances": "2",
                "AccessionNumber": "A1",
                "NoSuchTag": "",
            },
            study["RequestedTags"],
        )
        self.assertEqual(2, study["Statistics"]["CountInstances"])
        self.assertEqual("P1", study["PatientMainDicomTags"]["PatientID"])
        expected = {"ID", "Type", "MainDicomTags", "PatientMainDicomTags", "RequestedTags"}
        self.assertEqual(expected | {"Statistics"}, set(study))

    def test_counts_of_each_level(self) -> None:
        for level, tags in (
            ("Patient", {"Studies": "1", "Series": "2", "Instances": "2"}),
            ("Series", {"Instances": "1"}),
        ):
            wanted = [f"NumberOf{level}Related{name}" for name in tags]
            found = self.find(
                Level=level, Query={"PatientID": "P1"}, RequestedTags=wanted, Expand=True
            )
            self.assertEqual(list(tags.values()), list(found[0]["RequestedTags"].values()))
        ask = {"Level": "Instance", "Query": {"Modality": "CT"}, "ResponseContent": ["Parent"]}
        (instance,) = self.find(**ask, RequestedTags=["Modality"])
        self.assertEqual({"ID", "Type", "ParentSeries", "RequestedTags"}, set(instance))
        self.assertEqual({"Modality": "CT"}, instance["RequestedTags"])

    def test_below(self) -> None:
        study, patient = self.stored[0]["ParentStudy"], self.stored[0]["ParentPatient"]
        self.assertEqual(2, len(self.find(Level="Series", ParentStudy=study)))
        self.assertEqual(2, len(self.find(Level="Instance", ParentPatient=patient)))

    def test_how_many(self) -> None:
        for body, expected in (
            ({}, 2),
            ({"Query": {"PatientName": "*other*"}}, 1),
            ({"Level": "Instance", "Limit": 1}, 3),
            ({"Query": {"ModalitiesInStudy": "CT"}}, 1),
            ({"Query": {"PatientID": "nobody"}}, 0),
        ):
            answer = self.ask("count-resources", **body)
            self.assertEqual((200, {"Count": expected}), (answer.status, answer.json()), body)

    def test_what_is_refused(self) -> None:
        order = {"Type": "DicomTag", "Key": "StudyDate", "Direction": "DESC"}
        for body, status, code, told in (
            ({"Since": -1}, 400, 3, "negative"),
            ({"ResponseContent": ["Pixels"]}, 400, 3, "Pixels"),
            ({"OrderBy": [order | {"Direction": "UP"}]}, 400, 3, "UP"),
            ({"OrderBy": [order | {"Type": "Metadata"}]}, 400, 3, "ReceptionDate"),
            ({"OrderBy": [order] * 101}, 400, 3, "more than 100"),
            ({"Query": {f"T{n}": "x" for n in range(101)}}, 400, 3, "more than 100"),
            ({"ParentSeries": "x"}, 400, 3, "not above"),
            ({"ParentStudy": "x", "ParentPatient": "x"}, 400, 15, "one parent"),
            ({"ParentPatient": "nobody"}, 404, 17, "nobody"),
            ({"Level": "Planet"}, 400, 3, "Planet"),
            ({"Query": "x"}, 400, 15, "Query"),
        ):
            for route in ("find", "count-resources"):
                self.assert_refused(self.ask(route, **body), status, code, told)
        answer = self.house.request("POST", "/tools/find", b" " * (2**20 + 1))
        self.assert_refused(answer, 413, 15, "1048577")

    def test_a_query_that_is_no_sql(self) -> None:
        for text in (
            "'; DROP TABLE any_resource; --",
            "%",
            "_",
            '"',
            "*%*",
            "[",
            "a" * 50_000,
            "\0",
        ):
            self.assertEqual([], self.find(Query={"PatientName": text}))
            self.assertEqual([], self.find(Query={"ModalitiesInStudy": text}))
            self.assertEqual([], self.find(Query={text: "x"}))
            key = [{"Type": "DicomTag", "Key": text, "Direction": "ASC"}]
            self.assertEqual(2, len(self.find(OrderBy=key)))
