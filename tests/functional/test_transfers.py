"""Two real daemons: studies move, in every mode, and are the same on both sides."""

import gzip
import io
import threading
import zipfile
from pathlib import Path
from typing import Any

from demo import dataset
from demo.daemon import free_ports
from tests.functional.live import LiveTestCase, ask, study_of
from tests.functional.wires import BlackHole, Recorder

KB = 1024


class TransferTests(LiveTestCase):
    def files(self, count: int = 6, kilobytes: int = 100) -> list[Path]:
        folder = self.folder / "ct"
        folder.mkdir()
        return dataset.ct_series(folder, count, kilobytes, 1)

    def both_ways(self, **both: Any) -> tuple[Any, Any, dict[str, Any], Any]:
        a, b = self.pair(**both)
        uploaded = self.upload(a, self.files())
        return a, b, uploaded, study_of(next(iter(uploaded.values())))

    def test_push_and_pull_in_every_compression(self) -> None:
        a, b, uploaded, study = self.both_ways(Transfers={"BucketSize": 150})
        for compression in ("none", "gzip"):
            for daemon, route, peer in ((a, "send", "B"), (b, "pull", "A")):
                job = self.transfer(daemon, route, study, peer, Compression=compression)
                self.assertEqual(job["Content"]["TotalInstances"], 6)
                self.assertEqual(job["Progress"], 100)
                self.assert_holds(b, uploaded)
                b.client.request("DELETE", f"/studies/{study[0]['ID']}")

    def test_pull_mode_send(self) -> None:
        a, b, uploaded, study = self.both_ways()
        wanted = {"Resources": study, "Compression": "gzip", "Peer": "B-pulls"}
        answer = a.client.post("/transfers/send", wanted)
        self.assertEqual(set(answer), {"Peer", "RemoteJob", "URL"})
        self.assertEqual(answer["URL"], f"{b.url}/jobs/{answer['RemoteJob']}")
        job = self.wait_for(b, answer["RemoteJob"])
        self.assertEqual(job["Type"], "PullTransfer")
        self.assertTrue(job["Content"]["Originator"])
        self.assert_holds(b, uploaded)

    def test_a_large_instance_is_split(self) -> None:
        a, b = self.pair(Transfers={"BucketSize": 1024})
        path = dataset.multiframe(self.folder / "large.dcm", 24, 1)
        uploaded = self.upload(a, [path])
        study = study_of(next(iter(uploaded.values())))
        job = self.transfer(a, "send", study)
        self.assertGreater(job["Content"]["Buckets"], 10)
        self.assert_holds(b, uploaded)

    def test_real_files_of_many_kinds(self) -> None:
        a, b = self.pair()
        uploaded = self.upload(a, dataset.shipped(40))
        patients = [{"Level": "Patient", "ID": p} for p in a.client.get("/patients")]
        self.transfer(b, "pull", patients, "A", Compression="gzip")
        self.assert_holds(b, uploaded)

    def test_resources_of_several_levels_count_once(self) -> None:
        a, b, uploaded, study = self.both_ways()
        one = next(iter(uploaded.values()))
        resources = [
            *study,
            *study,
            {"Level": "instance", "ID": one["ID"]},
            {"Level": "SERIES", "ID": one["ParentSeries"]},
            {"Level": "Patients", "ID": one["ParentPatient"]},
        ]
        job = self.transfer(a, "send", resources)
        self.assertEqual(job["Content"]["TotalInstances"], len(uploaded))
        self.assert_holds(b, uploaded)

    def test_the_transfer_id_is_in_every_request(self) -> None:
        recorder = Recorder()
        a, b = self.pair(recorder)
        uploaded = self.upload(a, self.files())
        study = study_of(next(iter(uploaded.values())))
        self.transfer(a, "send", study, SenderTransferID="my transfer #1")
        methods = [request.method for request in recorder.requests]
        self.assertEqual((methods[0], methods[-1]), ("POST", "POST"))
        self.assertIn("PUT", methods)
        for request in recorder.requests:
            self.assertEqual(request.headers["sender-transfer-id"], "my transfer #1")
            self.assertNotIn("expect", request.headers)
        self.assert_holds(b, uploaded)

    def test_connections_are_warm(self) -> None:
        recorder = Recorder()
        a, _b = self.pair(recorder, Transfers={"BucketSize": 100, "Threads": 2})
        uploaded = self.upload(a, self.files(12))
        self.transfer(a, "send", study_of(next(iter(uploaded.values()))))
        self.assertGreater(len(recorder.requests), 10)
        self.assertLessEqual(recorder.connections, 4)

    def test_peers_are_probed_each_by_itself(self) -> None:
        hole = BlackHole()
        self.addCleanup(hole.close)
        peers = {
            "dead": ["http://127.0.0.1:9/"],
            "silent": [f"http://127.0.0.1:{hole.port}/"],
        }
        a, b = self.pair(Transfers={"PeerConnectivityTimeout": 1})
        own = self.start(
            "C",
            free_ports(1)[0],
            OrthancPeers=peers | {"good": [a.url], "both": {"Url": b.url, "RemoteSelf": "C"}},
            Transfers={"PeerConnectivityTimeout": 1},
        )
        self.assertEqual(
            own.client.get("/transfers/peers"),
            {"both": "bidirectional", "dead": "disabled", "good": "installed"}
            | {"silent": "disabled"},
        )

    def test_several_transfers_at_once(self) -> None:
        a, b, uploaded, study = self.both_ways(ConcurrentJobs=4)
        jobs = [self.submit(a, "send", study, Priority=n) for n in range(4)]
        jobs_b = [self.submit(b, "pull", study, "A") for _ in range(3)]
        for daemon, ids in ((a, jobs), (b, jobs_b)):
            for job in ids:
                self.wait_for(daemon, job)
            self.assertEqual(sorted(ids), sorted(daemon.client.get("/jobs")))
        self.assert_holds(b, uploaded)


class UploadTests(LiveTestCase):
    def setUp(self) -> None:
        super().setUp()
        folder = self.folder / "ct"
        folder.mkdir()
        self.paths = dataset.ct_series(folder, 3, 60, 1)
        self.data = [path.read_bytes() for path in self.paths]
        self.daemon = self.start("A", free_ports(1)[0])

    def post(self, body: Any, **headers: str) -> Any:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return ask(self.daemon.port, "POST", "/instances", body, named)

    def assert_all(self, count: int = 3) -> None:
        self.assertEqual(len(self.daemon.client.get("/instances")), count)

    def test_chunked(self) -> None:
        pieces = (self.data[0][n : n + 5000] for n in range(0, len(self.data[0]), 5000))
        answer = self.post(pieces)
        self.assertEqual(answer.json["Status"], "Success")
        file = ask(self.daemon.port, "GET", f"{answer.json['Path']}/file")
        self.assertEqual(file.body, self.data[0])
        self.assertEqual(file.headers["content-type"], "application/dicom")

    def test_gzipped(self) -> None:
        answer = self.post(gzip.compress(self.data[0]), Content_Encoding="gzip")
        self.assertEqual(answer.status, 200)
        self.assertEqual(self.post(self.data[0]).json["Status"], "AlreadyStored")
        broken = self.post(gzip.compress(self.data[1])[:-9], Content_Encoding="gzip")
        self.assertEqual((broken.status, broken.json["OrthancStatus"]), (400, 15))
        self.assert_all(1)

    def test_zip(self) -> None:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("README.txt", "not DICOM")
            for number, data in enumerate(self.data):
                archive.writestr(f"../../deep/{number}.dcm", data)
        answer = self.post(out.getvalue())
        self.assertEqual([each["Status"] for each in answer.json], ["Success"] * 3)
        self.assert_all()

    def test_refusals(self) -> None:
        for body, words in ((b"", "empty"), (b"hello", "5 bytes"), (bytes(500), "500 bytes")):
            answer = self.post(body)
            self.assertEqual((answer.status, answer.json["OrthancStatus"]), (400, 15))
            self.assertIn(words, answer.json["Details"])
        self.assert_empty_but_for_uploads()

    def assert_empty_but_for_uploads(self) -> None:
        for name in self.staged("A"):
            self.assertEqual(list((self.store_of("A") / "instances" / name).iterdir()), [])

    def test_many_at_once(self) -> None:
        threads = [threading.Thread(target=self.post, args=(data,)) for data in self.data * 4]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assert_all()

    def test_slashes(self) -> None:
        self.post(self.data[0])
        for path in ("//instances", "/instances/", "///instances//", "/%69nstances"):
            self.assertEqual(ask(self.daemon.port, "GET", path).json, self.ids())

    def ids(self) -> Any:
        return self.daemon.client.get("/instances")

    def test_metrics_have_three_cells(self) -> None:
        text = self.daemon.client.request("GET", "/tools/metrics-prometheus").decode()
        for line in text.splitlines():
            name, value, when = line.split(" ")
            self.assertTrue(name.startswith("orthanc_"))
            float(value)
            self.assertGreater(int(when), 10**12)
        self.assertIn("orthanc_transfers_available_push_count 4 ", text)
