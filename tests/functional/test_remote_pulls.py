"""Pulls that the peer makes, and that a job here follows; with a peer that goes away meanwhile."""

import signal
from typing import Any

from demo import dataset
from demo.daemon import Daemon
from tests.functional.live import LiveTestCase, study_of, wait_until

QUICK, SLOW = "16M", "4M"
"""Bits in a second: 4 MB take two seconds, or eight."""


class RemotePullTests(LiveTestCase):
    def begin(self, rate: str = QUICK) -> tuple[Daemon, Daemon, str, str]:
        """A pull of 4 MB, which is under way; both daemons, the job here and that of the peer."""
        a, b = self.pair(b={"Transfers": {"Bandwidth": rate, "BucketSize": 256}})
        self.uploaded = self.upload(a, [dataset.multiframe(self.folder / "4.dcm", 4, 1)])
        study = study_of(next(iter(self.uploaded.values())))
        wanted = {"Resources": study, "Compression": "none", "Peer": "B-pulls"}
        told = a.client.post("/transfers/send", wanted | {"Synchronous": False})
        self.assertEqual({"ID", "Path", "Peer", "RemoteJob", "URL"}, set(told))
        here, there = told["ID"], told["RemoteJob"]
        wait_until(lambda: self.content(a, here).get("CompletedHttpQueries"), "it is under way")
        return a, b, here, there

    def content(self, daemon: Daemon, job: str) -> Any:
        return daemon.client.get(f"/jobs/{job}")["Content"]

    def test_it_is_followed_to_its_end(self) -> None:
        a, b, here, there = self.begin()
        self.assertLess(0, a.client.get(f"/jobs/{here}")["Progress"])
        job = self.wait_for(a, here)
        self.assertEqual(("RemotePullTransfer", 100), (job["Type"], job["Progress"]))
        self.assertEqual("Success", self.wait_for(b, there)["State"])
        self.assert_holds(b, self.uploaded)

    def test_cancelled_here_it_is_cancelled_there(self) -> None:
        a, b, here, there = self.begin(SLOW)
        a.client.request("POST", f"/jobs/{here}/cancel", b"")
        for daemon, job in ((a, here), (b, there)):
            self.assertEqual(37, self.wait_for(daemon, job, "Failure")["ErrorCode"])
        self.assert_empty(b)

    def test_the_peer_is_killed_and_comes_back(self) -> None:
        a, b, here, _there = self.begin(SLOW)
        self.end(b, signal.SIGKILL)

        def has_noticed() -> bool:
            return "does not tell of its job" in str(a.client.get(f"/jobs/{here}")["History"])

        wait_until(has_noticed, "its silence is noticed")
        self.assertEqual("Running", a.client.get(f"/jobs/{here}")["State"])
        b = self.again(b)
        self.wait_for(a, here)
        self.assert_holds(b, self.uploaded)

    def test_we_are_killed_and_come_back(self) -> None:
        a, b, here, _there = self.begin(SLOW)
        self.end(a, signal.SIGKILL)
        a = self.again(a)
        job = self.wait_for(a, here, "Success")
        self.assertEqual("Success", job["Content"]["RemoteState"])
        self.assert_holds(b, self.uploaded)
