"""Jobs as they travel: histories, tries, figures, receipts."""

import json
import os
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from tests.dicom_files import make
from tests.web.harness import FakePeer, House
from tests.web.test_hostile import HostileCase, transfer
from txtransfers.errors import PeerUnreachable, StorageFull
from txtransfers.web.archive import describe_resource

DOWN = PeerUnreachable("the peer is down")


class JobsTests(HostileCase):
    def setUp(self) -> None:
        delays = {"Transfers": {"JobRetryDelays": [10, 60]}}
        self.house = House(delays, peers=[FakePeer("B")])

    def submit(self, route: str = "send", **more: Any) -> str:
        """Submit a job; gives its path."""
        answer = self.house.request("POST", f"/transfers/{route}", transfer(**more))
        self.assertEqual(200, answer.status, answer.body)
        return str(answer.json()["Path"])

    def job(self, path: str) -> Any:
        """A job, which is the same in the list of all."""
        told = self.house.request("GET", path).json()
        all_jobs = self.house.request("GET", "/jobs?expand").json()
        self.assertIn(told, all_jobs)
        return told

    def act(self, path: str, action: str) -> None:
        """Do something to a job."""
        answer = self.house.request("POST", f"{path}/{action}", b"")
        self.assertEqual((200, b"{}"), (answer.status, answer.body))

    def end(self, error: Exception | None = None) -> None:
        """Let the run that began last end."""
        ending: Deferred[None] = self.house.transfers[-1].ending
        if error is None:
            ending.callback(None)
        else:
            ending.errback(error)

    def test_history(self) -> None:
        path = self.submit()
        self.house.clock.advance(1.5)
        self.act(path, "cancel")
        self.assertEqual(
            [
                {"Time": "20261118T110640.000000", "Event": "Submitted"},
                {"Time": "20261118T110640.000000", "Event": "Running"},
                {"Time": "20261118T110641.500000", "Event": "Failure: This job was canceled"},
            ],
            self.job(path)["History"],
        )

    def test_tries(self) -> None:
        path = self.submit()
        self.assertNotIn("NextTryTime", self.job(path))
        self.end(DOWN)
        job = self.job(path)
        self.assertEqual(("Retry", "20261118T110650.000000"), (job["State"], job["NextTryTime"]))
        self.assertEqual((9, "the peer is down"), (job["ErrorCode"], job["ErrorDetails"]))
        self.assertNotIn("CompletionTime", job)
        self.house.clock.advance(10)
        job = self.job(path)
        self.assertEqual(("Running", 0), (job["State"], job["ErrorCode"]))
        self.assertNotIn("NextTryTime", job)
        self.end()
        self.assertEqual("Success", self.job(path)["State"])

    def test_actions_while_it_waits_for_another_try(self) -> None:
        for action, state in (("pause", "Paused"), ("cancel", "Failure")):
            path = self.submit()
            self.end(DOWN)
            for refused in ("resume", "resubmit"):
                answer = self.house.request("POST", f"{path}/{refused}", b"")
                self.assert_refused(answer, 400, 6, "Retry")
            self.act(path, action)
            job = self.job(path)
            self.assertEqual(state, job["State"])
            self.assertNotIn("NextTryTime", job)

    def test_figures(self) -> None:
        for route, sent, size in (
            ("send", "SentInstances", "UploadedSize"),
            ("pull", "ReceivedInstances", "DownloadedSize"),
        ):
            path = self.submit(route)
            content = self.job(path)["Content"]
            self.assertNotIn("Outcomes", content)
            self.assertEqual((1, "0"), (content[sent], content[size]))
            self.end()
            content = self.job(path)["Content"]
            self.assertEqual((1, "10"), (content[sent], content[size]))
            self.assertEqual({"Stored": 1}, content["Outcomes"])
            self.assertEqual(
                (0, "0", "0", "0", 0),
                tuple(
                    content[name]
                    for name in (
                        "SkippedInstances",
                        "SkippedSize",
                        "RepeatedSize",
                        "SavedByCompression",
                        "Retries",
                    )
                ),
            )

    def test_receipt(self) -> None:
        path = self.submit()
        self.assert_refused(self.house.request("GET", f"{path}/receipt"), 404, 17, "Running")
        self.end()
        answer = self.house.request("GET", f"{path}/receipt")
        self.assertEqual((200, "application/json"), (answer.status, answer.header("Content-Type")))
        receipt, job = answer.json(), self.job(path)
        self.assertEqual((path[-36:], "Success"), (receipt["Job"], receipt["State"]))
        self.assertEqual(("B", "http://b.test:8042/"), (receipt["Peer"], receipt["PeerURL"]))
        self.assertEqual(job["History"], receipt["History"])
        self.assertEqual(job["CompletionTime"], receipt["CompletionTime"])
        self.assertEqual(job["Content"]["Outcomes"], receipt["Outcomes"])
        self.assertEqual(
            [{"ID": "00000000", "Size": "10", "MD5": "", "Outcome": "Stored"}],
            receipt["Instances"],
        )
        head = self.house.request("HEAD", f"{path}/receipt")
        self.assertEqual((200, b""), (head.status, head.body))

    def test_receipts_of_failures(self) -> None:
        failed = self.submit()
        self.end(StorageFull("no room"))
        cancelled = self.submit()
        self.act(cancelled, "cancel")
        for path, details, code in ((failed, "no room", 19), (cancelled, "", 37)):
            receipt = self.house.request("GET", f"{path}/receipt").json()
            told = (receipt["State"], receipt["ErrorCode"], receipt["ErrorDetails"])
            self.assertEqual(("Failure", code, details), told)
            self.assertEqual(["NotTransferred"], [i["Outcome"] for i in receipt["Instances"]])

    def test_no_receipt(self) -> None:
        path = self.submit()
        self.end(DOWN)
        self.assert_refused(self.house.request("GET", f"{path}/receipt"), 404, 17, "Retry")
        self.act(path, "pause")
        self.assert_refused(self.house.request("GET", f"{path}/receipt"), 404, 17, "Paused")
        self.act(path, "cancel")
        self.assertEqual(200, self.house.request("GET", f"{path}/receipt").status)
        self.act(path, "resubmit")
        self.assert_refused(self.house.request("GET", f"{path}/receipt"), 404, 17, "Running")

    def test_delta_is_a_truth_value(self) -> None:
        for delta in (True, False):
            self.submit(Delta=delta)
            self.assertIs(delta, self.house.transfers[-1].request.delta)
            self.end()
        self.submit()
        self.assertIsNone(self.house.transfers[-1].request.delta)
        for delta in ("true", 1, None):
            for route in ("send", "pull"):
                body = transfer(Delta=delta)
                answer = self.house.request("POST", f"/transfers/{route}", body)
                self.assert_refused(answer, 400, 15, "Delta")

    def test_text_that_is_no_ascii(self) -> None:
        path = self.submit(SenderTransferID="caf\u00e9 \U0001f600")
        self.end()
        answer = self.house.request("GET", f"{path}/receipt")
        self.assertEqual("caf\u00e9 \U0001f600", json.loads(answer.body)["SenderTransferID"])

    def test_priority(self) -> None:
        path = self.submit(Priority=3)
        answer = self.house.request("PUT", f"{path}/priority", b"-7")
        self.assertEqual((200, b"{}"), (answer.status, answer.body))
        self.assertEqual(-7, self.job(path)["Priority"])
        self.assertEqual(-7, self.house.transfers[-1].memo.priority)
        too_high = str(2**31).encode()
        for body, code in ((b"x", 15), (b'"1"', 15), (b"1.5", 15), (b"", 15), (too_high, 3)):
            self.assert_refused(self.house.request("PUT", f"{path}/priority", body), 400, code)
        answer = self.house.request("PUT", f"{path}/priority", b" " * 101)
        self.assert_refused(answer, 413, 15)
        self.end()
        answer = self.house.request("PUT", f"{path}/priority", b"1")
        self.assert_refused(answer, 400, 6, "has ended")
        self.assert_refused(self.house.request("PUT", "/jobs/none/priority", b"1"), 404, 17)

    def test_throughput(self) -> None:
        path = self.submit()
        self.house.clock.pump([0.5] * 5)
        self.end()
        told = self.house.request("GET", f"{path}/throughput").json()
        self.assertEqual([1.0, 2.0, 2.5], told["Seconds"])
        self.assertEqual([0, 0, 10], told["Done"])
        self.assertEqual([0, 0, 0], told["Network"])
        answer = self.house.request("GET", "/jobs/none/throughput")
        self.assert_refused(answer, 404, 17)

    def test_description(self) -> None:
        self.assertNotIn("Description", self.job(self.submit())["Content"])
        for given, shown in (
            ("Doe^Jane, CT", "Doe^Jane, CT"),
            ("a\nb\0c", "a b c"),
            ("x" * 300, "x" * 200),
            ("<script>", "<script>"),
        ):
            for route in ("send", "pull"):
                path = self.submit(route, Description=given)
                self.assertEqual(shown, self.job(path)["Content"]["Description"])
        for empty in ("", " \n"):
            self.assertNotIn("Description", self.job(self.submit(Description=empty))["Content"])


class DescriptionTests(SynchronousTestCase):
    def test_the_archive_describes_what_is_sent(self) -> None:
        house = House(folder=os.path.abspath(self.mktemp()), peers=[FakePeer("B")])
        self.addCleanup(house.stop)
        data = make(1, StudyDescription="CT Abdomen", PatientName="Doe^Jane^M=X")
        study = house.request("POST", "/instances", data).json()["ParentStudy"]
        resource = {"Level": "Study", "ID": study}
        for resources, expected in (
            ([resource], "Doe, Jane (P1): CT Abdomen, 2026-01-01"),
            ([resource] * 3, "Doe, Jane (P1): CT Abdomen, 2026-01-01 and 2 more"),
            ([resource | {"ID": "nobody"}], None),
            ([], None),
        ):
            body = transfer(Resources=resources)
            path = house.request("POST", "/transfers/send", body).json()["Path"]
            content = house.request("GET", path).json()["Content"]
            self.assertEqual(expected, content.get("Description"))

    def test_what_there_is_to_say(self) -> None:
        for tags, expected in (
            ({}, ""),
            ({"PatientID": "1"}, "(1)"),
            ({"PatientName": "Doe"}, "Doe"),
            ({"PatientName": "^Jane", "PatientID": "1"}, "Jane (1)"),
            ({"StudyDate": "20260301"}, "2026-03-01"),
            ({"StudyDate": "odd", "SeriesDescription": "axial"}, "axial, odd"),
        ):
            self.assertEqual(expected, describe_resource(tags))


class WillingPeer(FakePeer):
    """A peer that pulls when it is asked to."""

    async def request_pull(self, *args: Any) -> tuple[str, str]:
        return "remote", "/jobs/remote"


class RemotePullTests(HostileCase):
    THEIRS = {"Peer": "P", "RemoteJob": "remote", "URL": "http://p.test:8042//jobs/remote"}

    def setUp(self) -> None:
        self.house = House(peers=[WillingPeer("P", remote_self="me"), FakePeer("B")])

    def send(self, **more: Any) -> Any:
        return self.house.request("POST", "/transfers/send", transfer(**more)).json()

    def test_the_keys_of_the_protocol(self) -> None:
        self.assertEqual(self.THEIRS, self.send(Peer="P"))
        self.assertEqual([], self.house.request("GET", "/jobs").json())

    def test_who_asks_for_a_job_gets_one(self) -> None:
        for number, more in enumerate(({"Synchronous": False}, {"Asynchronous": True})):
            told = self.send(Peer="P", **more)
            job = self.house.request("GET", told["Path"]).json()
            self.assertEqual(self.THEIRS | {"ID": job["ID"], "Path": f"/jobs/{job['ID']}"}, told)
            self.assertEqual(("RemotePullTransfer", "P"), (job["Type"], job["Content"]["Peer"]))
            memo = self.house.transfers[number].memo
            self.assertEqual({"job": "remote", "path": "/jobs/remote"}, memo.state)

    def test_a_push_has_its_own_job(self) -> None:
        self.assertEqual({"ID", "Path"}, set(self.send(Peer="B", Synchronous=False)))

    def test_to_watch_one_takes_no_room(self) -> None:
        for _ in range(3):
            self.send(Peer="P", Synchronous=False)
            self.send(Peer="B")
        states = [job.state.value for job in self.house.jobs.jobs()]
        self.assertEqual(["Running"] * 5 + ["Pending"], states)
