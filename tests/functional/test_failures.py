"""What goes wrong between two real daemons: said in words that help, and nothing half done."""

import http.client
import json
import os
import signal
from pathlib import Path
from typing import Any

from demo import dataset
from demo.daemon import free_ports
from tests.functional.live import PROMPT_S, LiveTestCase, ask, peer_url, study_of, wait_until
from tests.functional.wires import Parrot, Recorder, Wire

MB = 2**20


class Case(LiveTestCase):
    def study(self, daemon: Any, megabytes: int = 12) -> tuple[dict[str, Any], Any]:
        path = dataset.multiframe(self.folder / f"{daemon.name}.dcm", megabytes, 1)
        uploaded = self.upload(daemon, [path])
        return uploaded, study_of(next(iter(uploaded.values())))

    def job(self, daemon: Any, job: str) -> Any:
        return daemon.client.get(f"/jobs/{job}")

    def act(self, daemon: Any, job: str, action: str) -> int:
        return ask(daemon.port, "POST", f"/jobs/{job}/{action}", b"").status


class AdviceTests(Case):
    def test_a_peer_that_is_down(self) -> None:
        (port,) = free_ports(1)
        a = self.start("A", free_ports(1)[0], OrthancPeers={"B": [peer_url(port)]})
        _uploaded, study = self.study(a, 1)
        for route in ("send", "pull"):
            self.assert_says(self.failure(a, route, study), '"B"', str(port), "refused", "running")

    def test_a_wrong_remote_self(self) -> None:
        a, b = self.pair()
        _uploaded, study = self.study(a, 1)
        wanted = {"Resources": study, "Compression": "none", "Peer": "A", "Originator": "other"}
        job = b.client.post("/transfers/pull", wanted)["ID"]
        details = self.wait_for(b, job, "Failure")["ErrorDetails"]
        self.assert_says(details, "RemoteSelf", '"A"', "other")
        unknown = {"B": {"Url": b.url, "RemoteSelf": "nobody"}}
        c = self.start("C", free_ports(1)[0], OrthancPeers=unknown)
        answer = ask(
            c.port,
            "POST",
            "/transfers/send",
            json.dumps({"Resources": study, "Compression": "none", "Peer": "B"}).encode(),
        )
        self.assertEqual(answer.status, 502)
        self.assert_says(answer.json["Details"], "RemoteSelf", '"B"', "nobody")

    def test_an_unknown_patient(self) -> None:
        a, b = self.pair()
        nobody = [{"Level": "Patient", "ID": "-".join(["00000000"] * 5)}]
        self.assert_says(self.failure(a, "send", nobody), "patient", "00000000-00000000")
        self.assert_says(self.failure(b, "pull", nobody, "A"), "patient", "00000000-00000000")

    def test_a_wrong_password(self) -> None:
        secret = {"AuthenticationEnabled": True, "RegisteredUsers": {"me": "right"}}
        b = self.start("B", free_ports(1)[0], **secret)
        a = self.start("A", free_ports(1)[0], OrthancPeers={"B": [b.url, "me", "wrong"]})
        _uploaded, study = self.study(a, 1)
        details = self.failure(a, "send", study)
        self.assert_says(details, '"B"', "401", "Password")
        self.assertNotIn("wrong", details)
        good = self.start("C", free_ports(1)[0], OrthancPeers={"B": [b.url, "me", "right"]})
        _uploaded, study = self.study(good, 1)
        self.transfer(good, "send", study)

    def test_peers_that_are_none(self) -> None:
        said = {
            b"SSH-2.0-OpenSSH_9.2\r\n": ("no HTTP", "SSH-2.0", "GET /plugins"),
            b"": ("the connection broke", "log", "proxy"),
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}": ("nonsense", "missing"),
            b"HTTP/1.1 302 Found\r\nLocation: https://elsewhere.example/\r\n"
            b"Content-Length: 0\r\n\r\n": ("302", "Is this URL", "GET /plugins"),
        }
        parrots = [Parrot(words) for words in said]
        for parrot in parrots:
            self.addCleanup(parrot.close)
        peers = {f"P{n}": [peer_url(parrot.port)] for n, parrot in enumerate(parrots)}
        a = self.start("A", free_ports(1)[0], OrthancPeers=peers)
        _uploaded, study = self.study(a, 1)
        for name, parrot, words in zip(peers, parrots, said.values(), strict=True):
            for route in ("send", "pull"):
                details = self.failure(a, route, study, name)
                self.assert_says(details, f'"{name}"', peer_url(parrot.port), *words)
        self.assertEqual({"disabled"}, set(a.client.get("/transfers/peers").values()))

    def test_a_name_that_is_not_resolved(self) -> None:
        peers = {"B": ["http://no-such-host.invalid:8042/"]}
        a = self.start("A", free_ports(1)[0], OrthancPeers=peers)
        _uploaded, study = self.study(a, 1)
        details = self.failure(a, "send", study)
        self.assert_says(details, '"B"', "no-such-host.invalid", "cannot be resolved", "check Url")


FIXED = {"Threads": 2, "BucketSize": 4096}


class LinkTests(Case):
    def test_a_cut_connection(self) -> None:
        wire = Wire(cut_after=3 * MB, cuts=9)  # on a warm connection, one costs only a new one
        a, b = self.pair(wire, Transfers=FIXED)
        _uploaded, study = self.study(a)
        self.assert_says(self.failure(a, "send", study), '"B"', "PUT", "connection")
        wire.cuts_left = 0
        self.assertEqual(len(self.staged("B")), 1, "it waits for the job to be resubmitted")
        self.act(a, a.client.get("/jobs")[0], "cancel")
        self.assert_empty(b)

    def test_a_cut_connection_is_tried_again(self) -> None:
        wire = Wire(cut_after=3 * MB, cuts=2)
        a, b = self.pair(wire, Transfers={"MaxHttpRetries": 3, "Threads": 2})
        uploaded, study = self.study(a)
        self.transfer(a, "send", study)
        self.assert_holds(b, uploaded)

    def test_connections_that_are_closed_while_idle_cost_nothing(self) -> None:
        recorder = Recorder(hang_up_after=0)
        a, b = self.pair(recorder, Transfers={"BucketSize": 512, "Threads": 2})
        uploaded, study = self.study(a)
        job = self.transfer(a, "send", study)
        self.assertEqual(job["Content"]["Retries"], 0)
        self.assert_holds(b, uploaded)

    def test_connections_that_are_closed_once_idle_cost_nothing(self) -> None:
        recorder = Recorder(hang_up_after=0.002)
        a, b = self.pair(recorder, Transfers={"BucketSize": 256, "Threads": 2})
        uploaded, study = self.study(a)
        job = self.transfer(a, "send", study)
        self.assertEqual(job["Content"]["Retries"], 0)
        self.assert_holds(b, uploaded)
        a.client.request("DELETE", f"/studies/{study[0]['ID']}")
        job = self.transfer(a, "pull", study, Compression="gzip")
        self.assertEqual(job["Content"]["Retries"], 0)
        self.assert_holds(a, uploaded)

    def test_a_pull_that_is_cut(self) -> None:
        wire = Wire(cut_after=3 * MB)
        a, b = self.pair(wire, Transfers={"Threads": 2})
        uploaded, study = self.study(b)
        self.assert_says(self.failure(a, "pull", study), '"B"', "GET", "connection")
        self.assertEqual(len(self.staged("A")), 1, "it waits for the job to be resubmitted")
        self.act(a, a.client.get("/jobs")[0], "cancel")
        self.assert_empty(a)
        a.stop()
        self._ended.append(a)
        wire.cuts_left = 3
        self._settings["A"]["Transfers"] = {"MaxHttpRetries": 3, "Threads": 2}
        a = self.again(a)
        job = self.transfer(a, "pull", study)
        self.assertGreater(job["Content"]["Retries"], 0)
        self.assert_holds(a, uploaded)

    def test_no_progress_for_too_long(self) -> None:
        wire = Wire(hold_after=2 * MB)
        a, b = self.pair(wire, a={"HttpTimeout": 1}, Transfers=FIXED)
        _uploaded, study = self.study(a)
        self.assert_says(self.failure(a, "send", study), '"B"', "no progress for 1 s")
        wire.release()
        self.act(a, a.client.get("/jobs")[0], "cancel")
        self.assert_empty(b)

    def test_slow_is_no_failure(self) -> None:
        wire = Wire(rate=2 * MB)
        a, b = self.pair(wire, HttpTimeout=3, Transfers={"Threads": 1})
        uploaded, study = self.study(a)
        self.transfer(a, "send", study)
        self.assert_holds(b, uploaded)


class SteeringTests(Case):
    def held(
        self, transfers: dict[str, Any] = FIXED, **settings: Any
    ) -> tuple[Wire, Any, Any, dict[str, Any], str]:
        wire = Wire(hold_after=2 * MB)
        a, b = self.pair(wire, Transfers=transfers, **settings)
        uploaded, study = self.study(a)
        job = self.submit(a, "send", study)
        wait_until(wire.holding.is_set, "the middle of a bucket")
        return wire, a, b, uploaded, job

    def test_pause_and_resume_in_the_middle_of_a_bucket(self) -> None:
        wire, a, b, uploaded, job = self.held({"BucketSize": 512, "Threads": 2})
        self.assertEqual(self.act(a, job, "pause"), 200)
        self.wait_for(a, job, "Paused", PROMPT_S)
        done = self.job(a, job)["Content"]["CompletedHttpQueries"]
        wire.release()
        self.assertEqual(self.act(a, job, "resume"), 200)
        ended = self.wait_for(a, job)
        self.assertGreaterEqual(ended["Content"]["CompletedHttpQueries"], done)
        self.assert_holds(b, uploaded)

    def test_cancel_in_the_middle_of_a_bucket(self) -> None:
        wire, a, b, uploaded, job = self.held()
        self.assertEqual(self.act(a, job, "cancel"), 200)
        self.assertEqual(self.wait_for(a, job, "Failure", PROMPT_S)["ErrorCode"], 37)
        wire.release()
        wait_until(lambda: not self.staged("B"), "B has freed the space")
        self.assertEqual(self.act(a, job, "resubmit"), 200)
        self.wait_for(a, job)
        self.assert_holds(b, uploaded)

    def test_a_pull_is_paused_resumed_and_cancelled(self) -> None:
        wire = Wire(hold_after=MB)
        a, b = self.pair(wire, Transfers={"BucketSize": 512, "Threads": 2})
        uploaded, study = self.study(b)
        job, other = (self.submit(a, "pull", study, Compression=c) for c in ("none", "gzip"))
        wait_until(wire.holding.is_set, "the middle of a bucket")
        for each in (job, other):
            self.assertEqual(self.act(a, each, "pause"), 200)
            self.wait_for(a, each, "Paused", PROMPT_S)
        self.assertEqual(a.client.get("/instances"), [])
        self.assertEqual(len(self.staged("A")), 2)
        wire.hold_after = MB // 8  # less of it is left
        wire.holding.clear()
        self.assertEqual(self.act(a, other, "resume"), 200)
        wait_until(wire.holding.is_set, "the middle of a bucket, again")
        self.assertEqual(self.act(a, other, "cancel"), 200)
        self.assertEqual(self.wait_for(a, other, "Failure", PROMPT_S)["ErrorCode"], 37)
        wait_until(lambda: len(self.staged("A")) == 1, "the space of the cancelled one is free")
        wire.release()
        self.assertEqual(self.act(a, job, "resume"), 200)
        self.wait_for(a, job)
        self.assert_holds(a, uploaded)

    def test_pushes_in_the_middle_are_not_disturbed_by_one_too_many(self) -> None:
        wire = Wire(hold_after=2 * MB)
        a, b = self.pair(wire, ConcurrentJobs=3, Transfers=FIXED | {"MaxPushTransactions": 2})
        uploaded, study = self.study(a)
        jobs = [self.submit(a, "send", study) for _ in range(2)]
        wait_until(lambda: len(self.staged("B")) == 2, "two transactions are open")
        self.assert_says(self.failure(a, "send", study), '"B"', "503", "MaxPushTransactions")
        metrics = b.client.request("GET", "/tools/metrics-prometheus").decode()
        self.assertIn("orthanc_transfers_available_push_count 0 ", metrics)
        wire.release()
        for job in jobs:
            self.wait_for(a, job)
        self.assert_holds(b, uploaded)

    def test_a_live_push_is_never_thrown_out(self) -> None:
        b = self.start("B", free_ports(1)[0], Transfers={"MaxPushTransactions": 2})
        opening = {"Instances": [], "Buckets": [], "Compression": "none"}
        first = b.client.post("/transfers/push", opening)["Path"]
        b.client.post("/transfers/push", opening)
        answer = ask(b.port, "POST", "/transfers/push", json.dumps(opening).encode())
        self.assertEqual(answer.status, 503)
        self.assertGreater(int(answer.headers["retry-after"]), 0)
        self.assertIn("MaxPushTransactions", answer.json["Details"])
        self.assertEqual(ask(b.port, "POST", f"{first}/commit", b"").status, 200)
        b.client.post("/transfers/push", opening)


class StopTests(Case):
    def running(self) -> tuple[Wire, Any, Any, dict[str, Any], str]:
        wire = Wire(hold_after=2 * MB)
        a, b = self.pair(wire, Transfers=FIXED)
        uploaded, study = self.study(a)
        job = self.submit(a, "send", study)
        wait_until(wire.holding.is_set, "the middle of a bucket")
        return wire, a, b, uploaded, job

    def sender_ends(self, how: signal.Signals) -> None:
        wire, a, b, uploaded, job = self.running()
        self.end(a, how)
        wire.release()
        self.assertEqual(b.client.get("/instances"), [])
        a = self.again(a)
        history = str(self.wait_for(a, job)["History"])
        self.assertIn("restarted", history)
        self.assert_holds(b, uploaded)

    def test_the_sender_is_stopped(self) -> None:
        self.sender_ends(signal.SIGTERM)

    def test_the_sender_is_killed(self) -> None:
        self.sender_ends(signal.SIGKILL)

    def receiver_ends(self, how: signal.Signals) -> None:
        wire, a, b, uploaded, job = self.running()
        self.assertNotEqual(self.staged("B"), [])
        self.end(b, how)
        wire.release()
        self.wait_for(a, job, "Failure")
        b = self.again(b)
        self.assertEqual(b.client.get("/instances"), [])
        self.assertEqual(self.act(a, job, "resubmit"), 200)
        self.wait_for(a, job)
        self.assert_holds(b, uploaded)

    def test_the_receiver_is_stopped(self) -> None:
        self.receiver_ends(signal.SIGTERM)

    def test_the_receiver_is_killed(self) -> None:
        self.receiver_ends(signal.SIGKILL)

    def puller_ends(self, how: signal.Signals) -> None:
        wire = Wire(hold_after=2 * MB)
        a, b = self.pair(wire, Transfers=FIXED)
        uploaded, study = self.study(b)
        job = self.submit(a, "pull", study)
        wait_until(wire.holding.is_set, "the middle of a bucket")
        self.end(a, how)
        wire.release()
        a = self.again(a)
        self.wait_for(a, job)
        self.assert_holds(a, uploaded)

    def test_the_puller_is_stopped(self) -> None:
        self.puller_ends(signal.SIGTERM)

    def test_the_puller_is_killed(self) -> None:
        self.puller_ends(signal.SIGKILL)

    def test_the_peer_ends_while_we_pull(self) -> None:
        wire = Wire(hold_after=2 * MB)
        a, b = self.pair(wire, Transfers=FIXED)
        uploaded, study = self.study(b)
        job = self.submit(a, "pull", study)
        wait_until(wire.holding.is_set, "the middle of a bucket")
        self.end(b, signal.SIGTERM)
        wire.release()
        self.assert_says(self.wait_for(a, job, "Failure")["ErrorDetails"], '"B"', "connection")
        self.assertEqual(a.client.get("/instances"), [])
        self.again(b)
        self.assertEqual(self.act(a, job, "resubmit"), 200)
        self.wait_for(a, job)
        self.assert_holds(a, uploaded)

    def test_ended_jobs_survive(self) -> None:
        a, b = self.pair()
        _uploaded, study = self.study(a, 1)
        self.transfer(a, "send", study)
        self.failure(a, "send", [{"Level": "Study", "ID": "-".join(["00000000"] * 5)}])
        before = [{**job, "Timestamp": ""} for job in a.client.get("/jobs?expand")]
        self.end(a, signal.SIGKILL)
        a = self.again(a)
        after = [{**job, "Timestamp": ""} for job in a.client.get("/jobs?expand")]
        self.assertEqual(before, after)
        self.end(b, signal.SIGKILL)

    def test_paused_and_waiting_jobs_survive(self) -> None:
        wire = Wire(hold_after=MB)
        a, b = self.pair(wire, ConcurrentJobs=1)
        uploaded, study = self.study(a)
        paused = self.submit(a, "send", study)
        waiting = self.submit(a, "send", study)
        for job in (paused, waiting):
            self.assertEqual(self.act(a, job, "pause"), 200)
            self.assertEqual(self.job(a, job)["State"], "Paused")
        self.end(a, signal.SIGKILL)
        wire.release()
        a = self.again(a)
        for job in (paused, waiting):
            self.assertEqual(self.job(a, job)["State"], "Paused", self.job(a, job))
            self.assertEqual(self.act(a, job, "resume"), 200)
        for job in (paused, waiting):
            self.wait_for(a, job)
        self.assert_holds(b, uploaded)


class SlowReaderTests(Case):
    def test_a_reader_that_stops_costs_no_memory(self) -> None:
        a = self.start("A", free_ports(1)[0])
        uploaded, _study = self.study(a, 64)
        (id_,) = uploaded
        before = memory(a.pid)
        connections = []
        for _ in range(6):
            connection = http.client.HTTPConnection("127.0.0.1", a.port, timeout=60)
            self.addCleanup(connection.close)
            connection.request("GET", f"/transfers/chunks/{id_}")
            connections.append(connection)
        a.client.get("/system")
        answers = [connection.getresponse() for connection in connections]
        self.assertLess(memory(a.pid) - before, 60 * MB)
        for answer in answers:
            self.assertEqual(answer.read(), uploaded[id_]["File"].read_bytes())


def memory(pid: int) -> int:
    """Bytes of a process that are in memory."""
    fields = Path(f"/proc/{pid}/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")
