"""The audit log: who moved what, whence, whither, when, with which result."""

import json
import os
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from tests.web.harness import FakePeer, House, make_dicom, md5
from tests.web.test_access import basic
from txtransfers.audit import AuditLog, check
from txtransfers.errors import ConfigurationError, PeerUnreachable
from txtransfers.threads import SynchronousThreads
from txtransfers.web.auditing import SERVED_S, event_of

SECRET = "hunter2"
FILE = make_dicom(1000, "1.2.3", patient="P1")
OTHER = make_dicom(1000, "1.2.4", patient="P1", study="1.9", series="1.9.1")


class AuditCase(SynchronousTestCase):
    def house(self, **keys: Any) -> House:
        folder = os.path.abspath(self.mktemp())
        os.makedirs(folder)
        self.path = Path(folder) / "audit.log"
        settings = {
            "Name": "Here",
            "AuditLog": str(self.path),
            "AuthenticationEnabled": True,
            "RegisteredUsers": {"alice": SECRET},
            **keys,
        }
        house = House(settings, folder, [FakePeer("B")])
        self.addCleanup(house.stop)
        return house

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Any:
        headers["Authorization"] = basic("alice", SECRET)
        if "transfer" in headers:
            headers["sender-transfer-id"] = headers.pop("transfer")
        return self.site.request(method, path, body, headers)

    def upload(self, data: bytes) -> str:
        return str(self.ask("POST", "/instances", data).json()["ID"])

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.path.read_text().splitlines()]

    def told(self, line: dict[str, Any], **expected: Any) -> None:
        """The line has these members."""
        self.assertEqual(expected, {name: line.get(name) for name in expected})

    def last(self) -> dict[str, Any]:
        return self.lines()[-1]


class RequestTests(AuditCase):
    def setUp(self) -> None:
        self.site = self.house()
        self.id_ = self.upload(FILE)

    def test_an_upload(self) -> None:
        line = self.last()
        self.assertRegex(line.pop("Time"), r"^2026-11-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")
        [study] = self.ask("GET", "/studies").json()
        self.assertEqual(
            {
                "Event": "Uploaded",
                "By": "alice@127.0.0.1",
                "From": "alice@127.0.0.1",
                "To": "Here",
                "Result": "Success",
                "Status": 200,
                "Instances": 1,
                "Studies": [study],
                "Size": len(FILE),
            },
            line,
        )

    def test_an_upload_that_fails(self) -> None:
        self.ask("POST", "/instances", b"no DICOM")
        line = self.last()
        self.assertEqual(
            ("Uploaded", "Failure", 400), (line["Event"], line["Result"], line["Status"])
        )
        self.assertTrue(line["Error"])

    def test_a_push(self) -> None:
        ids = "c" * 8 + "-dddddddd" * 4
        opening = {
            "Instances": [{"ID": ids, "Size": str(len(OTHER)), "MD5": md5(OTHER)}],
            "Buckets": [[{"ID": ids, "Offset": "0", "Size": str(len(OTHER))}]],
            "Compression": "none",
        }
        path = self.ask("POST", "/transfers/push", json.dumps(opening).encode()).json()["Path"]
        self.ask("POST", f"{path}/commit", b"", transfer="t1")
        failed = self.last()
        self.assertEqual(
            ("Received", "Failure", "t1"), tuple(failed[k] for k in ("Event", "Result", "Transfer"))
        )
        self.ask("PUT", f"{path}/0", OTHER)
        self.ask("POST", f"{path}/commit", b"", transfer="t1")
        line = self.last()
        self.assertEqual(
            ("Success", 1, len(OTHER)), (line["Result"], line["Instances"], line["Size"])
        )
        self.assertEqual(1, len(line["Studies"]))
        self.assertEqual(3, len(self.lines()))

    def test_a_push_that_is_deleted(self) -> None:
        opening = {"Instances": [], "Buckets": [], "Compression": "none"}
        path = self.ask("POST", "/transfers/push", json.dumps(opening).encode()).json()["Path"]
        self.ask("DELETE", path)
        self.assertEqual("Discarded", self.last()["Event"])

    def test_a_pull_from_here_is_one_line(self) -> None:
        other = self.upload(OTHER)
        before = len(self.lines())
        for ids in (self.id_, f"{self.id_}.{other}", "nobody"):
            self.ask("GET", f"/transfers/chunks/{ids}", transfer="t2")
        self.ask("GET", f"/transfers/chunks/{self.id_}", transfer="t3")
        self.assertEqual(before, len(self.lines()))
        self.site.clock.advance(SERVED_S)
        first, second = self.lines()[before:]
        self.told(first, Event="Served", Transfer="t2", Result="Failure")
        self.told(first, Requests=3, FailedRequests=1, Instances=2)
        self.assertEqual(2, len(first["Studies"]))
        self.assertEqual(
            ("t3", 1, len(FILE)), (second["Transfer"], second["Instances"], second["Size"])
        )
        self.assertEqual(("Here", "alice@127.0.0.1"), (second["From"], second["To"]))

    def test_what_is_under_way_at_the_stop(self) -> None:
        self.ask("GET", f"/transfers/chunks/{self.id_}")
        assert self.site.auditor is not None
        self.successResultOf(Deferred.fromCoroutine(self.site.auditor.settle()))
        self.assertEqual("Served", self.last()["Event"])

    def test_a_download_and_a_deletion(self) -> None:
        self.ask("GET", f"/instances/{self.id_}/file")
        line = self.last()
        self.assertEqual(("Downloaded", len(FILE)), (line["Event"], line["Size"]))
        self.ask("DELETE", f"/instances/{self.id_}")
        line = self.last()
        self.assertEqual(("Deleted", f"/instances/{self.id_}"), (line["Event"], line["Resource"]))

    def test_what_moves_nothing_is_not_noted(self) -> None:
        before = len(self.lines())
        for path in ("/system", "/studies", f"/instances/{self.id_}", "/jobs"):
            self.ask("GET", path)
        self.site.request("GET", f"/instances/{self.id_}/file")
        self.site.clock.advance(SERVED_S)
        self.assertEqual(before, len(self.lines()))

    def test_no_names_and_no_secrets(self) -> None:
        self.assertNotIn("P1", self.path.read_text())
        self.assertNotIn(SECRET, self.path.read_text())

    def test_names_where_they_are_wanted(self) -> None:
        self.site = self.house(AuditPatientNames=True)
        self.upload(FILE)
        [patient] = self.last()["Patients"]
        self.assertEqual("P1", patient["PatientID"])

    def test_which_requests_are_events(self) -> None:
        for method, path, event in (
            ("GET", "transfers/chunks/x", "Served"),
            ("GET", "instances/x/attachments/dicom/data", "Downloaded"),
            ("GET", "instances/x/attachments/dicom/md5", None),
            ("GET", "studies/x/archive", "Downloaded"),
            ("GET", "patients/x/media", "Downloaded"),
            ("POST", "modalities/x/store", "Sent"),
            ("POST", "peers/x/store", "Sent"),
            ("DELETE", "patients/x", "Deleted"),
            ("DELETE", "peers/x", None),
            ("PUT", "transfers/push/x/0", None),
        ):
            self.assertEqual(event, event_of(method, path.split("/")), path)


class JobTests(AuditCase):
    def test_a_job(self) -> None:
        self.site = self.house(OrthancPeers={"B": ["https://b.test/"]}, AuditPatientNames=True)
        self.upload(FILE)
        [study] = self.ask("GET", "/studies").json()
        wanted = {
            "Resources": [{"Level": "Study", "ID": study}],
            "Compression": "none",
            "Peer": "B",
        }
        job = self.ask("POST", "/transfers/send", json.dumps(wanted).encode()).json()["ID"]
        self.site.transfers[-1].ending.callback(None)
        line = self.last()
        expected = {
            "Event": "Transfer",
            "Job": job,
            "Type": "PushTransfer",
            "By": "alice@127.0.0.1",
            "From": "Here",
            "To": "B",
            "Peer": "https://b.test/",
            "Result": "Success",
            "Resources": [{"Level": "Study", "ID": study}],
            "Instances": 1,
            "Size": 10,
            "Outcomes": {"Stored": 1},
        }
        self.assertEqual(expected, {name: line[name] for name in expected})
        self.assertEqual(["P1"], [patient["PatientID"] for patient in line["Patients"]])
        self.ask("POST", "/transfers/pull", json.dumps(wanted).encode())
        self.site.transfers[-1].ending.errback(PeerUnreachable("it is down"))
        line = self.last()
        self.assertEqual(("B", "Here"), (line["From"], line["To"]))
        self.assertEqual(("Failure", "it is down"), (line["Result"], line["Error"]))


class FileTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(os.path.abspath(self.mktemp()))
        self.folder.mkdir()
        self.path = self.folder / "audit.log"
        self.log = AuditLog(str(self.path), SynchronousThreads(), lambda: 1_795_000_000.5)

    def test_one_line_each_whatever_is_in_it(self) -> None:
        for text in ("a\nb", "\u2028", "Müller", '"}{"Event": "forged'):
            self.log.write("Test", {"Name": text})
        lines = self.path.read_bytes().split(b"\n")
        self.assertEqual(5, len(lines))
        self.assertEqual("Müller", json.loads(lines[2])["Name"])
        self.assertEqual("2026-11-18T11:06:40.500Z", json.loads(lines[0])["Time"])
        self.assertEqual(0o640, self.path.stat().st_mode & 0o777)

    def test_a_rotation_needs_no_signal(self) -> None:
        self.log.write("First", {})
        self.path.rename(self.folder / "audit.log.1")
        self.log.write("Second", {})
        self.assertIn("First", (self.folder / "audit.log.1").read_text())
        self.assertNotIn("First", self.path.read_text())

    def test_a_file_that_cannot_be_written_for_a_while(self) -> None:
        self.path.mkdir()
        self.log.write("First", {})
        self.path.rmdir()
        self.log.write("Second", {})
        self.assertEqual(
            ["First", "Second"],
            [json.loads(line)["Event"] for line in self.path.read_text().splitlines()],
        )
        self.successResultOf(Deferred.fromCoroutine(self.log.settle()))

    def test_none(self) -> None:
        log = AuditLog("", SynchronousThreads(), lambda: 0.0)
        log.write("Test", {})
        self.assertFalse(log.is_kept)

    def test_a_start_without_it(self) -> None:
        check("")
        check(str(self.path))
        error = self.assertRaises(ConfigurationError, check, str(self.folder / "no" / "a.log"))
        self.assertIn("AuditLog: ", str(error))
        self.assertIn("its folder must exist", str(error))
