"""Limits of bandwidth between real daemons: kept to, shared, changed while a transfer runs.

Rates are compared with each other; a machine that is busy slows both.
"""

import json
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from demo import dataset
from tests.functional.live import LiveTestCase, ask, study_of, wait_until

MB = 10**6
SIZES = {"BucketSize": 512, "Threads": 4}


def runtime(daemon: Any, job: str) -> float:
    """Seconds that the job has run."""
    return float(daemon.client.get(f"/jobs/{job}")["EffectiveRuntime"])


def completed(daemon: Any, job: str) -> int:
    """Buckets that have arrived."""
    return int(daemon.client.get(f"/jobs/{job}")["Content"].get("CompletedHttpQueries", 0))


class BandwidthTests(LiveTestCase):
    def daemons(
        self, megabytes: int = 4, sizes: Mapping[str, int] = SIZES, **settings: Any
    ) -> tuple[Any, Any, Any]:
        a, b = self.pair(Transfers={"Delta": False, **sizes}, **settings)
        path = dataset.multiframe(self.folder / "large.dcm", megabytes, 1)
        self.uploaded = self.upload(a, [path])
        self.size = Path(path).stat().st_size
        return a, b, study_of(next(iter(self.uploaded.values())))

    def change(self, daemon: Any, **limits: Any) -> Any:
        body = json.dumps(limits).encode()
        answer = ask(daemon.port, "PUT", "/transfers/bandwidth", body)
        self.assertEqual(200, answer.status, answer.body)
        return answer.json

    def timed(self, daemon: Any, route: str, study: Any, peer: str, receiver: Any) -> float:
        started = time.monotonic()
        self.transfer(daemon, route, study, peer)
        took = time.monotonic() - started
        self.assert_holds(receiver, self.uploaded)
        receiver.client.request("DELETE", f"/studies/{study[0]['ID']}")
        return took

    def assert_twice(self, long: float, short: float) -> None:
        self.assertLess(abs(long / short - 2), 0.2, (long, short))
        self.assertGreater(long, 0.9 * self.size / MB, "the limit is kept to")

    def test_each_direction_of_each_way(self) -> None:
        a, b, study = self.daemons()
        for limited, direction, daemon, route, peer in (
            (a, "Upload", a, "send", "B"),
            (b, "Download", a, "send", "B"),
            (a, "Upload", b, "pull", "A"),
            (b, "Download", b, "pull", "A"),
        ):
            took = []
            for limit in ("1MB", "2MB"):
                self.change(limited, **{direction: limit})
                took.append(self.timed(daemon, route, study, peer, b))
            self.assert_twice(*took)
            self.change(limited, **{direction: "0"})

    def test_progress_is_seen_long_before_the_end(self) -> None:
        """Whoever limits it: one bucket ends after the other, not all at the end."""
        for limited, direction, route, sizes in (
            ("a", "Upload", "send", {}),
            ("b", "Download", "pull", {}),
            ("b", "Download", "send", {"BucketSize": 512, "Threads": 8}),
            ("a", "Upload", "pull", {"BucketSize": 512, "Threads": 8}),
        ):
            a, b, study = self.daemons(4, sizes)
            self.change({"a": a, "b": b}[limited], **{direction: "200kB"})
            daemon, peer = (a, "B") if route == "send" else (b, "A")
            job = self.submit(daemon, route, study, peer)
            wait_until(
                lambda d=daemon, j=job: completed(d, j) > 0,  # type: ignore[misc]
                "a bucket has arrived",
            )
            # With a limit nothing else than what travels takes long.
            self.assertLess(runtime(daemon, job), 0.5 * self.size / 200_000)
            self.change({"a": a, "b": b}[limited], **{direction: "0"})
            self.wait_for(daemon, job)
            self.assert_holds(b, self.uploaded)
            for each in (a, b):
                each.client.request("DELETE", f"/studies/{study[0]['ID']}")
                each.stop()

    def test_a_peer_and_a_change_while_it_runs(self) -> None:
        a, b, study = self.daemons()
        self.change(a, Peers={"B": {"Upload": "400kB"}})
        with_limit = self.size / 400_000
        self.assertLess(self.timed(b, "pull", study, "A", b), with_limit, "it is of pushes")
        job = self.submit(a, "send", study)
        wait_until(
            lambda: a.client.get(f"/jobs/{job}")["Content"].get("NetworkSize", "0") != "0",
            "the job is under way",
        )
        before = time.monotonic()
        told = self.change(a, Peers={"B": {"Upload": "0"}})
        self.assertEqual({"Limit": "0", "Now": "0"}, told["Peers"]["B"]["Upload"])
        self.wait_for(a, job)
        self.assertLess(time.monotonic() - before, with_limit / 2, "the rest came at once")
        self.assert_holds(b, self.uploaded)

    def test_held_back_for_longer_than_the_timeout(self) -> None:
        """Who holds a transfer back does not take the other side for dead."""
        for name, direction, route, peer in (
            ("a", "Upload", "send", "B"),
            ("b", "Download", "pull", "A"),
        ):
            a, b, study = self.daemons(1, **{name: {"HttpTimeout": 1}})
            limited = {"a": a, "b": b}[name]
            self.change(limited, **{direction: "8k"})
            job = self.submit(limited, route, study, peer)
            wait_until(lambda d=limited, j=job: runtime(d, j) > 5, "the job has run on")  # type: ignore[misc]
            self.assertEqual("Running", limited.client.get(f"/jobs/{job}")["State"])
            self.change(limited, **{direction: "0"})
            self.wait_for(limited, job)
            self.assert_holds(b, self.uploaded)
            for daemon in (a, b):
                daemon.client.request("DELETE", f"/studies/{study[0]['ID']}")
                daemon.stop()

    def test_a_stop_while_it_is_held(self) -> None:
        """Either side stops promptly, and the job goes on afterwards."""
        a, b, study = self.daemons(1)
        self.change(a, Upload="100kB")
        self.change(b, Download="50kB")
        job = self.submit(a, "send", study)
        wait_until(lambda: runtime(a, job) > 1, "bytes are held on their way")
        self.end(a, signal.SIGTERM)
        self.end(b, signal.SIGTERM)
        b, a = self.again(b), self.again(a)
        self.wait_for(a, job)
        self.assert_holds(b, self.uploaded)
