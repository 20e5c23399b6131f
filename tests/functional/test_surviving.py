"""Transfers that survive: killed, paused, damaged, behind a proxy that gives up; from outside."""

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

from demo import dataset
from demo.daemon import free_ports
from tests.functional.live import LiveTestCase, ask, md5, peer_url, study_of, wait_until
from tests.functional.test_proxies import NGINX_HEAD, ProxyCase
from tests.functional.wires import Wire
from tests.real_parts import need

MB = 2**20
SIZE_MB = 32
QUICK = {"BucketSize": 64, "Threads": 2}
"""Small buckets: what is under way when a daemon is killed is a small part of the whole."""


class Case(LiveTestCase):
    def study(self, daemon: Any, megabytes: int = SIZE_MB) -> tuple[dict[str, Any], Any]:
        """A large instance, and some small ones."""
        folder = self.folder / f"ct-{daemon.name}"
        small = dataset.ct_series(folder, 6, 40, 1)
        patient = "P"
        large = dataset.multiframe(self.folder / "large.dcm", megabytes, 1, patient_id=patient)
        uploaded = self.upload(daemon, [large, *small])
        studies = {told["ParentStudy"] for told in uploaded.values()}
        return uploaded, [{"Level": "Study", "ID": id_} for id_ in sorted(studies)]

    def job(self, daemon: Any, job: str) -> Any:
        return daemon.client.get(f"/jobs/{job}")

    def act(self, daemon: Any, job: str, action: str) -> None:
        answer = ask(daemon.port, "POST", f"/jobs/{job}/{action}", b"")
        self.assertEqual(200, answer.status, answer.body)

    def receipt(self, daemon: Any, job: str) -> Any:
        return daemon.client.get(f"/jobs/{job}/receipt")

    def wait_for_progress(self, daemon: Any, job: str, percent: int) -> None:
        def progress() -> bool:
            found = self.job(daemon, job)
            self.assertNotEqual("Failure", found["State"], found)
            return bool(found["Progress"] >= percent)

        wait_until(progress, f"{percent} % of job {job}")

    def assert_moved_once(self, receipt: Any) -> None:
        total = int(receipt["TotalSize"])
        self.assertLess(int(receipt["RepeatedSize"]), total * 0.02, receipt)
        self.assertLess(int(receipt["NetworkSize"]), total * 1.03)

    def assert_receipt(self, receipt: Any, uploaded: dict[str, Any], outcome: str) -> None:
        self.assertEqual(
            {
                id_: (md5(told["File"].read_bytes()), str(told["File"].stat().st_size), outcome)
                for id_, told in uploaded.items()
            },
            {i["ID"]: (i["MD5"], i["Size"], i["Outcome"]) for i in receipt["Instances"]},
        )
        self.assertEqual({outcome: len(uploaded)}, receipt["Outcomes"])
        for key in ("Peer", "PeerURL", "Daemon", "CreationTime", "CompletionTime", "Type"):
            self.assertTrue(receipt[key], key)


class KilledTests(Case):
    """What was moved before is not moved again."""

    def moved_on(self, route: str, *killed: str) -> None:
        """A transfer between A and B; at 30 % the named daemons are killed, and started again."""
        wire = Wire(rate=16 * MB)
        retries = QUICK | {"JobRetryDelays": [0.2] * 50}
        daemons = dict(zip("AB", self.pair(wire, Transfers=retries), strict=True))
        source, target = ("A", "B") if route == "send" else ("B", "A")
        uploaded, study = self.study(daemons[source])
        job = self.submit(daemons["A"], route, study)
        self.wait_for_progress(daemons["A"], job, 30)
        for name in killed:
            self.end(daemons[name], signal.SIGKILL)
        wire.rate = None
        for name in killed:
            daemons[name] = self.again(daemons[name])
        self.wait_for(daemons["A"], job)
        self.assert_holds(daemons[target], uploaded)
        receipt = self.receipt(daemons["A"], job)
        self.assert_moved_once(receipt)
        self.assert_receipt(receipt, uploaded, "Stored")
        self.assertEqual(1, len(self.staged(target)))

    def test_the_sender(self) -> None:
        self.moved_on("send", "A")

    def test_the_receiver_of_a_push(self) -> None:
        self.moved_on("send", "B")

    def test_both(self) -> None:
        self.moved_on("send", "A", "B")

    def test_the_puller(self) -> None:
        self.moved_on("pull", "A")

    def test_both_while_pulling(self) -> None:
        self.moved_on("pull", "B", "A")

    def test_pull_mode_send(self) -> None:
        """A asks B to pull from A; B goes on by itself, whoever was killed."""
        wire = Wire(rate=16 * MB)
        port_a, port_b = free_ports(2)
        wire.target = port_a
        self.addCleanup(wire.close)
        transfers = QUICK | {"JobRetryDelays": [0.2] * 50}
        peers = {"B": {"Url": peer_url(port_b), "RemoteSelf": "A"}}
        a = self.start("A", port_a, OrthancPeers=peers, Transfers=transfers)
        b = self.start("B", port_b, OrthancPeers={"A": [peer_url(wire.port)]}, Transfers=transfers)
        uploaded, study = self.study(a)
        wanted = {"Resources": study, "Compression": "none", "Peer": "B"}
        job = a.client.post("/transfers/send", wanted)["RemoteJob"]
        self.wait_for_progress(b, job, 30)
        for daemon in (a, b):
            self.end(daemon, signal.SIGKILL)
        wire.rate = None
        a, b = self.again(a), self.again(b)
        self.wait_for(b, job)
        self.assert_holds(b, uploaded)
        self.assert_moved_once(self.receipt(b, job))


class PausedTests(Case):
    def test_paused_over_a_restart(self) -> None:
        wire = Wire(rate=16 * MB)
        a, b = self.pair(wire, Transfers=QUICK)
        uploaded, study = self.study(a)
        job = self.submit(a, "send", study)
        self.wait_for_progress(a, job, 30)
        self.act(a, job, "pause")
        self.end(a, signal.SIGTERM)
        self.end(b, signal.SIGTERM)
        wire.rate = None
        a, b = self.again(a), self.again(b)
        self.assertEqual("Paused", self.job(a, job)["State"])
        self.assertEqual([], b.client.get("/instances"))
        self.act(a, job, "resume")
        self.wait_for(a, job)
        self.assert_holds(b, uploaded)
        self.assert_moved_once(self.receipt(a, job))

    def damaged(self, route: str, *, restart: bool) -> None:
        """One byte of a staged file changes while the job is paused: its bucket travels again."""
        wire = Wire(rate=16 * MB)
        a, b = self.pair(wire, Transfers=QUICK)
        source, target = (a, b) if route == "send" else (b, a)
        uploaded, study = self.study(source)
        job = self.submit(a, route, study)
        self.wait_for_progress(a, job, 50)
        self.act(a, job, "pause")
        if restart:
            self.end(target, signal.SIGKILL)
        (folder,) = self.staged(target.name)
        largest = max(
            (self.store_of(target.name) / "instances" / folder).iterdir(),
            key=lambda path: path.stat().st_size,
        )
        with largest.open("r+b") as file:
            file.seek(3 * MB + 5)
            byte = file.read(1)
            file.seek(3 * MB + 5)
            file.write(bytes([byte[0] ^ 1]))
        if restart:
            restarted = self.again(target)
            a, b = (a, restarted) if target is b else (restarted, b)
        before = int(self.job(a, job)["Content"]["NetworkSize"])
        arrived = int(self.job(a, job)["Content"][_size_of(route)])
        wire.rate = None
        self.act(a, job, "resume")
        self.wait_for(a, job)
        self.assert_holds(b if route == "send" else a, uploaded)
        receipt = self.receipt(a, job)
        travelled = int(receipt["NetworkSize"]) - before
        again = travelled - (int(receipt["TotalSize"]) - arrived)
        # What was under way when it was paused may have arrived, or may not.
        self.assertLessEqual(again, 3 * 2 * QUICK["BucketSize"] * 1024, "its bucket and no more")

    def test_damaged_at_the_receiver_of_a_push(self) -> None:
        self.damaged("send", restart=False)

    def test_damaged_while_the_receiver_is_off(self) -> None:
        self.damaged("send", restart=True)

    def test_damaged_at_the_puller(self) -> None:
        self.damaged("pull", restart=False)

    def test_damaged_while_the_puller_is_off(self) -> None:
        self.damaged("pull", restart=True)

    def test_the_source_is_deleted_meanwhile(self) -> None:
        wire = Wire(rate=16 * MB)
        a, b = self.pair(wire, Transfers=QUICK)
        uploaded, study = self.study(a, 12)
        job = self.submit(a, "send", study)
        self.wait_for_progress(a, job, 30)
        self.act(a, job, "pause")
        gone = max(uploaded, key=lambda id_: uploaded[id_]["File"].stat().st_size)
        a.client.request("DELETE", f"/instances/{gone}")
        wire.rate = None
        self.act(a, job, "resume")
        details = self.wait_for(a, job, "Failure")["ErrorDetails"]
        self.assert_says(details, gone, "deleted", "resubmit")
        self.assert_empty(b)
        self.assertEqual("Failure", self.receipt(a, job)["State"])


def _size_of(route: str) -> str:
    return "UploadedSize" if route == "send" else "DownloadedSize"


class DeltaTests(Case):
    def test_the_second_time_nothing_is_sent(self) -> None:
        a, b = self.pair()
        uploaded, study = self.study(a, 8)
        for route, peer, daemon in (("send", "B", a), ("pull", "A", b)):
            if route == "send":
                self.assert_receipt(
                    self.receipt(daemon, self.transfer(daemon, route, study, peer)["ID"]),
                    uploaded,
                    "Stored",
                )
            job = self.transfer(daemon, route, study, peer)
            content = job["Content"]
            self.assertEqual({"AlreadyStored": len(uploaded)}, content["Outcomes"])
            self.assertEqual("0", content["NetworkSize"])
            self.assertEqual(len(uploaded), content["SkippedInstances"])
            self.assertEqual(
                0, content["SentInstances" if route == "send" else "ReceivedInstances"]
            )
            self.assert_receipt(self.receipt(daemon, job["ID"]), uploaded, "AlreadyStored")
        self.assert_holds(b, uploaded)

    def test_a_study_with_three_new_instances(self) -> None:
        a, b = self.pair()
        paths = dataset.ct_series(self.folder / "ct", 20, 60, 1)
        uploaded = self.upload(a, paths[:17])
        study = study_of(next(iter(uploaded.values())))
        self.transfer(a, "send", study)
        uploaded |= self.upload(a, paths[17:])
        content = self.transfer(a, "send", study)["Content"]
        self.assertEqual({"AlreadyStored": 17, "Stored": 3}, content["Outcomes"])
        self.assertEqual(3, content["SentInstances"])
        new = sum(path.stat().st_size for path in paths[17:])
        self.assertEqual(str(new), content["NetworkSize"])
        self.assert_holds(b, uploaded)

    def test_other_content_is_listed(self) -> None:
        a, b = self.pair()
        (path,) = dataset.ct_series(self.folder / "ct", 1, 60, 1)
        (told,) = self.upload(a, [path]).values()
        changed = self.folder / "changed.dcm"
        changed.write_bytes(path.read_bytes()[:-2] + b"\1\2")
        self.upload(b, [changed])
        job = self.transfer(a, "send", study_of(told))
        self.assertEqual({"Different": 1}, job["Content"]["Outcomes"])
        (listed,) = self.receipt(a, job["ID"])["Instances"]
        self.assertEqual("Different", listed["Outcome"])


class SlowCommitTests(ProxyCase):
    """nginx gives up on an answer long before a commit on a slow disk has ended."""

    def test_the_sender_finds_out(self) -> None:
        port, target = free_ports(2)
        slow = self.folder / "slow"
        slow.mkdir()
        (slow / "sitecustomize.py").write_text(SLOW_DISK)
        self.patch(os, "environ", os.environ | {"PYTHONPATH": str(slow)})
        b = self.start("B", target)
        self.patch(os, "environ", {k: v for k, v in os.environ.items() if k != "PYTHONPATH"})
        self.run_nginx(NGINX_HEAD + PATIENT_FOR_SECONDS, port, port=port, target=target)
        a = self.start("A", free_ports(1)[0], OrthancPeers={"B": [peer_url(port)]})
        uploaded = self.upload(a, dataset.ct_series(self.folder / "ct", 5, 60, 1))
        study = study_of(next(iter(uploaded.values())))
        job = self.transfer(a, "send", study)
        self.assertIn("504", json.dumps(job["History"]))
        self.assertEqual({"Stored": 5}, job["Content"]["Outcomes"])
        self.assert_holds(b, uploaded)


PATIENT_FOR_SECONDS = """
    server {{
        listen {host}:{port};
        location / {{
            proxy_pass http://{host}:{target}; proxy_http_version 1.1;
            client_max_body_size 0; proxy_request_buffering off; proxy_read_timeout 3s;
        }}
    }}
}}
"""

SLOW_DISK = """
import os, time
real = os.fsync
def fsync(descriptor):
    if os.path.isdir(f"/proc/self/fd/{descriptor}"):
        time.sleep(4)
    real(descriptor)
os.fsync = fsync
"""


class FullDiskTests(Case):
    """A disk that is full refuses the transfer, or ends it, and no other."""

    def mount(self, megabytes: int) -> Path:
        need(self, "mount")
        folder = self.store_of("B")
        folder.mkdir()
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", folder], check=True
        )
        self.addCleanup(subprocess.run, ["umount", "-l", folder], check=True)
        return folder

    def test_too_large_from_the_beginning(self) -> None:
        self.mount(100)
        a, b = self.pair()
        uploaded, study = self.study(a, 60)
        details = self.failure(a, "send", study)
        total = sum(told["File"].stat().st_size for told in uploaded.values())
        self.assert_says(details, "507", "room for", str(total))
        self.assert_empty(b)

    def test_full_in_the_middle(self) -> None:
        folder = self.mount(180)
        wire = Wire(rate=10 * MB)
        a, b = self.pair(wire, Transfers=QUICK)
        uploaded, study = self.study(a, 60)
        small = self.upload(a, dataset.shipped(1))
        job = self.submit(a, "send", study)
        self.wait_for_progress(a, job, 20)
        ballast = folder / "ballast"
        with ballast.open("wb") as file:
            while os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize > 70 * MB:
                file.write(bytes(MB))
                file.flush()
        details = self.wait_for(a, job, "Failure")["ErrorDetails"]
        self.assert_says(details, "507", "No room left")
        self.assert_empty(b)
        self.transfer(a, "send", study_of(next(iter(small.values()))))
        self.assert_holds(b, small)
        ballast.unlink()
        wire.rate = None
        self.act(a, job, "resubmit")
        self.wait_for(a, job)
        self.assert_holds(b, uploaded | small)

    def test_a_limit_of_the_storage(self) -> None:
        a, b = self.pair(b={"MaximumStorageSize": 10})
        uploaded, study = self.study(a, 8)
        self.transfer(a, "send", study)
        more = self.upload(a, [dataset.multiframe(self.folder / "more.dcm", 4, 9)])
        other = study_of(next(iter(more.values())))
        self.assert_says(self.failure(a, "send", other), "507", "MaximumStorageSize", "room for")
        self.assert_holds(b, uploaded)


class ForgottenTests(Case):
    def test_without_jobs(self) -> None:
        """--no-jobs, and SaveJobs false: nothing of earlier lives goes on, nothing is left."""
        wire = Wire(rate=4 * MB)
        a, b = self.pair(wire, a={"SaveJobs": False}, Transfers=QUICK)
        _uploaded, study = self.study(b, 12)
        job = self.submit(a, "pull", study)
        self.wait_for_progress(a, job, 20)
        self.end(a, signal.SIGKILL)
        wire.rate = None
        a = self.again(a)
        self.assertEqual([], a.client.get("/jobs"))
        self.assert_empty(a)

    def test_abandoned_pushes_expire(self) -> None:
        b = self.start("B", free_ports(1)[0], Transfers={"PushTransactionTimeout": 1})
        opening = {"Instances": [], "Buckets": [], "Compression": "none"}
        path = b.client.post("/transfers/push", opening)["Path"]
        self.assertEqual(1, len(self.staged("B")))
        wait_until(lambda: not self.staged("B"), "the transaction has expired", 90)
        self.assertEqual(404, ask(b.port, "POST", f"{path}/commit", b"").status)
