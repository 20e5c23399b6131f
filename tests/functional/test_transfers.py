"""Two real daemons: studies move, in every mode, and are the same on both sides."""

import gzip
import io
import threading
import time
import zipfile
from pathlib import Path
from typing import Any

from demo import dataset
from demo.daemon import free_ports
from tests.functional.live import LiveTestCase, ask, md5, study_of, wait_until
from tests.functional.wires import BlackHole, Recorder, Wire

KB = 1024
MB = 1024 * KB


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
        for compression in ("none", "gzip", "auto"):
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

    def test_auto_chooses_zstd_on_a_slow_line(self) -> None:
        """It learns what the line is like by the first buckets, and from then on it pays."""
        # Each way of each connection has its rate: few connections make a slow line.
        wire = Wire(rate=MB)
        a, b = self.pair(between=wire, Transfers={"BucketSize": 256, "Threads": 2})
        uploaded = self.upload(a, self.files(12, 512))
        study = study_of(next(iter(uploaded.values())))
        for _ in range(2):
            job = self.transfer(a, "send", study, Compression="auto")
            self.assert_holds(b, uploaded)
            b.client.request("DELETE", f"/studies/{study[0]['ID']}")
        content = job["Content"]
        self.assertEqual(("auto", "zstd"), (content["Compression"], content["Codec"]))
        self.assertIn(content["CodecLevel"], (1, 3, 7))
        self.assertLess(int(content["NetworkSize"]), int(content["UploadedSize"]) / 2)
        receipt = a.client.get(f"/jobs/{job['ID']}/receipt")
        self.assertEqual("zstd", receipt["Codec"])

    def test_auto_by_a_pull_on_a_slow_line(self) -> None:
        wire = Wire(rate=MB)
        a, b = self.pair(between=wire, Transfers={"BucketSize": 256, "Threads": 2})
        uploaded = self.upload(b, self.files(12, 512))
        study = study_of(next(iter(uploaded.values())))
        for _ in range(2):
            job = self.transfer(a, "pull", study, Compression="auto")
            self.assert_holds(a, uploaded)
            a.client.request("DELETE", f"/studies/{study[0]['ID']}")
        self.assertEqual("zstd", job["Content"]["Codec"])

    def test_auto_in_a_send_by_pull(self) -> None:
        a, b, uploaded, study = self.both_ways()
        wanted = {"Resources": study, "Compression": "auto", "Peer": "B-pulls"}
        job = self.wait_for(b, a.client.post("/transfers/send", wanted)["RemoteJob"])
        self.assertEqual(job["Content"]["Compression"], "auto")
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
        self.assertEqual((methods[0], methods.count("POST")), ("POST", 2), "opening and commit")
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
        self.assertLessEqual(recorder.connections, 5, "one of them is the visit at the start")

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
        started = time.monotonic()
        self.assertEqual(
            ask(own.port, "GET", "/transfers/peers").json,
            {"both": "bidirectional", "dead": "disabled", "good": "installed"}
            | {"silent": "disabled"},
        )
        self.assertLess(time.monotonic() - started, 10)

    def test_several_transfers_at_once(self) -> None:
        a, b, uploaded, study = self.both_ways(ConcurrentJobs=4)
        jobs = [self.submit(a, "send", study, Priority=n) for n in range(4)]
        jobs_b = [self.submit(b, "pull", study, "A") for _ in range(3)]
        for daemon, ids in ((a, jobs), (b, jobs_b)):
            for job in ids:
                self.wait_for(daemon, job)
            self.assertEqual(sorted(ids), sorted(daemon.client.get("/jobs")))
        self.assert_holds(b, uploaded)

    def test_priorities(self) -> None:
        wire = Wire(hold_after=500 * KB)
        a, _b = self.pair(wire, ConcurrentJobs=1)
        uploaded = self.upload(a, self.files(8))
        study = study_of(next(iter(uploaded.values())))
        first = self.submit(a, "send", study)
        wait_until(wire.holding.is_set, "the first job is under way")
        low, high = (self.submit(a, "send", study, Priority=n) for n in (-1, 5))
        listed = a.client.get("/jobs?expand")
        self.assertEqual(sorted((first, low, high)), sorted(job["ID"] for job in listed))
        priorities = {job["ID"]: (job["Priority"], job["State"]) for job in listed}
        self.assertEqual((0, "Running"), priorities[first])
        self.assertEqual(((-1, "Pending"), (5, "Running")), (priorities[low], priorities[high]))
        wire.release()
        ended = [self.wait_for(a, job)["CompletionTime"] for job in (first, high, low)]
        self.assertEqual(max(ended), ended[-1])

    def test_ended_jobs_are_kept_as_many_as_configured(self) -> None:
        a, _b, _uploaded, study = self.both_ways(JobsHistorySize=2)
        jobs = [self.transfer(a, "send", study)["ID"] for _ in range(4)]
        # A job is forgotten a moment after a later one is seen to have ended.
        wait_until(lambda: sorted(jobs[2:]) == sorted(a.client.get("/jobs")), "two are left")
        self.assertEqual(404, ask(a.port, "GET", f"/jobs/{jobs[0]}").status)

    def test_an_instance_that_comes_again(self) -> None:
        a, b = self.pair()
        (path,) = self.files(1)
        (told,) = self.upload(a, [path]).values()
        study = study_of(told)
        self.transfer(a, "send", study)
        changed = self.folder / "changed.dcm"
        changed.write_bytes(path.read_bytes()[:-2] + b"\1\2")
        again = b.client.upload(changed)
        self.assertEqual((told["ID"], "AlreadyStored"), (again["ID"], again["Status"]))
        content = self.transfer(b, "pull", study, "A", Delta=False)["Content"]
        self.assertEqual({"AlreadyStored": 1}, content["Outcomes"])
        self.assertGreater(int(content["NetworkSize"]), 0)
        content = self.transfer(b, "pull", study, "A")["Content"]
        self.assertEqual({"AlreadyStored": 1}, content["Outcomes"])
        self.assertEqual("0", content["NetworkSize"])
        self.assert_holds(b, {told["ID"]: told})
        a.stop()
        self._ended.append(a)
        self._settings["A"]["OverwriteInstances"] = True
        a = self.again(a)
        again = a.client.upload(changed)
        self.assertEqual((told["ID"], "Success"), (again["ID"], again["Status"]))
        self.assert_holds(a, {told["ID"]: told | {"File": changed}})
        self.transfer(a, "pull", study)
        self.assert_holds(a, {told["ID"]: told})
        self.assertEqual(1, a.client.get("/statistics")["CountInstances"])
        wait_until(lambda: len(list(self.store_of("A").rglob("*.dcm"))) == 1, "one file is left")

    def test_a_push_by_hand_with_odd_slashes_in_chunks(self) -> None:
        b = self.start("B", free_ports(1)[0])
        (path,) = self.files(1)
        data = path.read_bytes()
        (told,) = self.upload(self.start("A", free_ports(1)[0]), [path]).values()
        id_ = told["ID"]
        half = len(data) // 2
        opening = {
            "Instances": [{"ID": id_, "MD5": md5(data), "Size": str(len(data))}],
            "Buckets": [
                [{"ID": id_, "Offset": "0", "Size": str(half)}],
                [{"ID": id_, "Offset": str(half), "Size": str(len(data) - half)}],
            ],
            "Compression": "gzip",
            "Unknown": 1,
        }
        pushed = b.client.post("//transfers//push/", opening)["Path"]
        for number, part in (("00", data[:half]), ("%31", data[half:])):
            body = gzip.compress(part)
            pieces = (body[n : n + 7001] for n in range(0, len(body), 7001))
            headers = {"Content-Encoding": "gzip", "Content-Type": "application/octet-stream"}
            answer = ask(b.port, "PUT", f"/{pushed}/{number}/", pieces, headers)
            self.assertEqual((200, b"{}"), (answer.status, answer.body.strip()), answer.body)
        self.assertEqual([], b.client.get("/instances"))
        answer = ask(b.port, "POST", f"/{pushed}//commit", b"whatever")
        self.assertEqual((200, b"{}"), (answer.status, answer.body.strip()), answer.body)
        self.assert_holds(b, {id_: told})
        answer = ask(b.port, "POST", f"{pushed}/commit", b"")
        self.assertEqual((200, b"{}"), (answer.status, answer.body.strip()), "it is done already")
        for method, route in (("PUT", f"{pushed}/0"), ("DELETE", pushed)):
            answer = ask(b.port, method, route, b"")
            self.assertEqual((404, 17), (answer.status, answer.json["OrthancStatus"]))


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
