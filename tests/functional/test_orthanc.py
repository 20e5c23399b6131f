"""Debian's real Orthanc as oracle, and as a peer that has no accelerator."""

import json
import os
from typing import Any

from demo import dataset
from demo.daemon import free_ports
from tests.dicom_files import make
from tests.functional.commands import CommandCase
from tests.functional.gateways import GatewayTestCase
from tests.functional.live import ask, peer_url, study_of

TYPES = {
    "/system": {"Name", "Version", "HttpPort", "PluginsEnabled", "ApiVersion"},
    "/statistics": {"CountInstances", "TotalDiskSize", "TotalDiskSizeMB"},
}


class OrthancTests(CommandCase, GatewayTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.oracle = self.orthanc("Oracle").port
        peers = {"orthanc": [peer_url(self.oracle)]}
        self.ours = self.start("A", free_ports(1)[0], OrthancPeers=peers)

    def ask_oracle(self, method: str, path: str, body: Any = None) -> Any:
        return ask(self.oracle, method, path, body)

    def ask_ours(self, method: str, path: str, body: Any = None) -> Any:
        return ask(self.ours.port, method, path, body)

    def both(self, method: str, path: str, body: Any = None) -> tuple[Any, Any]:
        return self.ask_ours(method, path, body), self.ask_oracle(method, path, body)

    def test_the_same_identifiers_and_sums(self) -> None:
        files = [path.read_bytes() for path in dataset.shipped()]
        files += [
            make(91, patient="Müller", SpecificCharacterSet="ISO_IR 100"),
            make(92, study=2, patient="Ŝtefan", SpecificCharacterSet="ISO_IR 192"),
            make(93, study=3, patient="  padded "),
            make(94, study=4, patient=""),
        ]
        compared = 0
        for data in files:
            ours, theirs = self.both("POST", "/instances", data)
            if theirs.status != 200:
                self.assertEqual((400, 15), (theirs.status, theirs.json["OrthancStatus"]))
                continue
            self.assertEqual(ours.status, 200, ours.body)
            compared += 1
            for name in ("ID", "ParentPatient", "ParentStudy", "ParentSeries", "Path"):
                self.assertEqual(ours.json[name], theirs.json[name])
            for aspect in ("size", "md5"):
                path = f"{theirs.json['Path']}/attachments/dicom/{aspect}"
                ours_is, theirs_is = self.both("GET", path)
                self.assertEqual(ours_is.body, theirs_is.body, path)
            for route in ("file", "attachments/dicom/data"):
                path = f"{theirs.json['Path']}/{route}"
                ours_file, theirs_file = self.both("GET", path)
                self.assertEqual(ours_file.body, theirs_file.body)
                content_type = theirs_file.headers["content-type"]
                self.assertEqual(ours_file.headers["content-type"], content_type)
        self.assertGreater(compared, 110)
        for level in ("patients", "studies", "series", "instances"):
            ours_ids, theirs_ids = self.both("GET", f"/{level}")
            self.assertEqual(set(), set(theirs_ids.json) - set(ours_ids.json))
            self.same_tags(level, theirs_ids.json)
        self.assertNotIn("went away", self.ours.log_tail(10_000))

    def same_tags(self, level: str, ids: list[str]) -> None:
        """Where both have a text for a main tag, it is the same."""
        compared = 0
        for id_ in ids:
            ours, theirs = self.both("GET", f"/{level}/{id_}")
            for name, text in theirs.json["MainDicomTags"].items():
                # Orthanc reads the backslash of numbers by the Japanese character set.
                if name in ours.json["MainDicomTags"] and "\N{YEN SIGN}" not in text:
                    compared += 1
                    self.assertEqual(ours.json["MainDicomTags"][name], text, f"{level} {id_}")
        self.assertGreater(compared, len(ids))

    def test_the_same_members(self) -> None:
        data = make(1, AccessionNumber="ACC1", StudyDescription="Head")
        stored = self.both("POST", "/instances", data)[1].json
        study, patient = stored["ParentStudy"], stored["ParentPatient"]
        find = json.dumps({"Level": "Study", "Query": {"AccessionNumber": "ACC*"}}).encode()
        for method, path, body in (
            ("GET", f"/patients/{patient}", None),
            ("GET", f"/studies/{study}", None),
            ("GET", f"/series/{stored['ParentSeries']}", None),
            ("GET", stored["Path"], None),
            ("GET", f"/studies/{study}/statistics", None),
            ("GET", f"/patients/{patient}/instances", None),
            ("GET", "/changes?limit=3", None),
            ("POST", "/tools/find", find),
            ("POST", "/tools/lookup", b"ACC1"),
            ("POST", "/tools/lookup", b"P1"),
            ("GET", "/system", None),
            ("GET", "/statistics", None),
        ):
            ours, theirs = self.both(method, path, body)
            self.assertEqual((ours.status, theirs.status), (200, 200), path)
            self.same_shape(path, ours.json, theirs.json)

    def same_shape(self, path: str, ours: Any, theirs: Any) -> None:
        """What both have is of the same type; what clients rely on, both have."""
        self.assertIs(type(ours), type(theirs), path)
        if isinstance(theirs, dict):
            for name in TYPES.get(path, set(theirs) - {"ModifiedFrom", "AnonymizedFrom"}):
                if path.startswith("/system") or name in ours:
                    self.same_shape(f"{path}.{name}", ours[name], theirs[name])
        elif isinstance(theirs, list) and theirs:
            self.assertTrue(ours, path)
            self.same_shape(f"{path}[]", ours[0], theirs[0])

    def test_the_same_refusals(self) -> None:
        nobody = "-".join(["00000000"] * 5)
        for method, path, body in (
            ("GET", f"/patients/{nobody}", None),
            ("GET", f"/instances/{nobody}/file", None),
            ("DELETE", f"/studies/{nobody}", None),
            ("POST", "/instances", b"hello"),
            ("GET", "/jobs/nothing", None),
        ):
            ours, theirs = self.both(method, path, body)
            self.assertEqual(ours.status, theirs.status, path)

    def test_the_command_at_an_orthanc(self) -> None:
        """What needs no accelerator works, and the doctor says what lacks."""
        url = ("--url", peer_url(self.oracle))
        (self.folder / "files").mkdir()
        (self.folder / "files" / "1").write_bytes(make(1, AccessionNumber="ACC1"))
        (self.folder / "files" / "readme").write_bytes(b"hello" * 100)
        (self.folder / "files" / "broken").write_bytes(make(2)[:200])
        text = self.succeeds("import", self.folder / "files", *url)
        self.assertIn("1 instances stored, 2 files skipped", text)
        self.assertIn("1 were there before", self.succeeds("import", self.folder / "files", *url))
        self.assertIn("Test^Patient", self.succeeds("find", "P1", *url))
        self.assertEqual(0, self.status("jobs", *url))
        done = self.run_command("doctor", *url)
        self.assertEqual(1, done.status)
        self.assertIn("FAILED  Transfers accelerator there", done.out)
        said = self.fails(4, "send", "ACC1", "--to", "X", *url)
        self.assertIn("and a transfers accelerator", said)

    def test_as_a_peer_without_the_accelerator(self) -> None:
        uploaded = self.upload(self.ours, dataset.shipped(1))
        study = study_of(next(iter(uploaded.values())))
        for route in ("send", "pull"):
            details = self.failure(self.ours, route, study, "orthanc")
            self.assert_says(details, '"orthanc"', str(self.oracle), "accelerator")
        self.assertEqual(self.ours.client.get("/transfers/peers"), {"orthanc": "disabled"})
        self.assertEqual(self.ask_oracle("GET", "/instances").json, [])
        self.assertTrue(os.path.exists(self.store_of("A")))

    def test_tried_and_searched_as_a_peer(self) -> None:
        told = self.ours.client.post("/transfers/peers/orthanc/test", {})
        failed = [step for step in told["Steps"] if step["Result"] == "Failed"]
        self.assertEqual(["Transfers accelerator there"], [step["Step"] for step in failed])
        self.assert_says(failed[0]["Advice"], "OrthancTransfers")
        self.both("POST", "/instances", make(1, AccessionNumber="ACC1"))
        find = {
            "Level": "Study",
            "Query": {"AccessionNumber": "acc*"},
            "Expand": True,
            "Limit": 10,
            "RequestedTags": ["PatientName"],
            "OrderBy": [{"Type": "DicomTag", "Key": "StudyDate", "Direction": "DESC"}],
        }
        (found,) = self.ours.client.post("/transfers/peers/orthanc/find", find)
        self.assertEqual("ACC1", found["MainDicomTags"]["AccessionNumber"])
