"""What the client asks a daemon, and what it makes of the answers: the real site, in memory."""

import json
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from tests.client.memory import ClientCase
from tests.dicom_files import make
from txtransfers.client import Compression, Job, Level, Resource
from txtransfers.client.events import Event, EventParser
from txtransfers.client.values import read_job
from txtransfers.client.watching import _parsed
from txtransfers.errors import (
    AccessDenied,
    ConfigurationError,
    DaemonError,
    DaemonNonsense,
    DaemonRefused,
    DaemonUnreachable,
    PeerNonsense,
    UnknownJob,
    UnknownResource,
)
from txtransfers.jobs.runner import JobLimits
from txtransfers.transfer.streams import MemorySlices

NOBODY = "-".join(["00000000"] * 5)


class DaemonCase(ClientCase):
    def store(self, *files: bytes) -> list[Any]:
        """Upload files as others do; gives what the daemon told."""
        return [self.house.request("POST", "/instances", data).json() for data in files]

    def submit(self, peer: str = "B", **more: Any) -> str:
        """Ask for a transfer; gives its job."""
        resources = [Resource(Level.STUDY, NOBODY)]
        return self.result(self.client.send(resources, peer, **more)).job

    def end(self, error: Exception | None = None) -> None:
        """Let the run that began last end."""
        ending = self.house.transfers[-1].ending
        ending.callback(None if error is None else Failure(error))  # type: ignore[arg-type]


class SystemTests(DaemonCase):
    def test_system(self) -> None:
        self.assertEqual("txtransfers", self.result(self.client.system())["Name"])
        self.assertEqual(["transfers"], list(self.result(self.client.plugins())))
        self.assertTrue(self.result(self.client.answers_lookup()))
        self.assertRegex(self.result(self.client.date()), "GMT$")

    def test_a_route_that_is_not_there(self) -> None:
        self.failure(self.client.ask("GET", "/nowhere"), UnknownResource)


class AccessTests(DaemonCase):
    configuration = {
        "AuthenticationEnabled": True,
        "RegisteredUsers": {"jürgen": "geheim:1"},
    }

    def test_nobody(self) -> None:
        said = self.failure(self.client.system(), AccessDenied)
        self.assertIn("TXTRANSFERS_USER", said)

    def test_somebody(self) -> None:
        self.client = self.make_client("http://here/", "jürgen", "geheim:1")
        self.result(self.client.system())

    def test_somebody_else(self) -> None:
        self.client = self.make_client("http://here/", "jürgen", "geheim:2")
        self.assertNotIn("geheim", self.failure(self.client.system(), AccessDenied))


class AddressTests(DaemonCase):
    def test_what_is_no_address(self) -> None:
        for url in (
            *("here", "ftp://here/", "http://", "http://here:x/", "http://here/?a", "http://he re"),
            *("http://here/#a", "http://jürgen.test/", "http://here:0/"),
        ):
            error = self.assertRaises(ConfigurationError, self.make_client, url)
            self.assertIn("expected http" if ":x" not in url else "no address", str(error), url)

    def test_credentials_are_not_for_addresses(self) -> None:
        error = self.assertRaises(ConfigurationError, self.make_client, "http://a:geheim@here/")
        self.assertIn("list of processes", str(error))
        self.assertNotIn("geheim", str(error))

    def test_authorities_that_are_none(self) -> None:
        from txtransfers.client import Client  # noqa: PLC0415

        for pem in (b"", b"hello", b"-----BEGIN CERTIFICATE-----\nxx\n-----END CERTIFICATE-----"):
            self.assertRaises(
                ConfigurationError, Client, self.house.clock, "https://a/", authorities=pem
            )


class JobTests(DaemonCase):
    configuration = {
        "OrthancPeers": {
            "B": ["http://b.test:8042/"],
            "C": {"Url": "http://c.test:8042/", "RemoteSelf": "here"},
        }
    }

    def test_a_job_from_its_submission_to_its_end(self) -> None:
        id_ = self.submit(compression=Compression.GZIP, priority=7)
        job = self.result(self.client.job(id_))
        self.assertEqual(
            (id_, "PushTransfer", "Running", "B", 1, 10),
            (job.id, job.type, job.state, job.peer, job.total_instances, job.total_size),
        )
        self.assertEqual(("gzip", 7), (job.raw["Content"]["Compression"], job.raw["Priority"]))
        self.assertFalse(job.is_ended)
        self.assertTrue(job.is_sending)
        self.end()
        job = self.result(self.client.job(id_))
        self.assertTrue(job.is_ended)
        self.assertTrue(job.is_success)
        self.assertEqual((10, 1.0, ""), (job.done_size, job.fraction, job.error))
        self.assertEqual([job], list(self.result(self.client.jobs())))
        self.assertEqual(id_, self.result(self.client.receipt(id_))["Job"])

    def test_actions(self) -> None:
        id_ = self.submit()
        for action, state in (("pause", "Paused"), ("resume", "Running"), ("cancel", "Failure")):
            self.result(getattr(self.client, action)(id_))
            self.assertEqual(state, self.result(self.client.job(id_)).state)
        self.assertIn("canceled", self.result(self.client.job(id_)).error)
        self.result(self.client.resubmit(id_))
        said = self.failure(self.client.resume(id_), DaemonRefused)
        self.assertIn("its state is Running", said)

    def test_unknown(self) -> None:
        for id_ in ("nothing", "../system", "a/b", "%41", "ü", "\x1b[2J"):
            self.failure(self.client.job(id_), UnknownJob)
        self.failure(self.client.receipt(self.submit()), UnknownJob)
        self.failure(self.client.send([], "X"), UnknownResource)
        self.failure(self.client.receive([], "X"), UnknownResource)

    def test_receive(self) -> None:
        sent = self.result(self.client.receive([Resource(Level.STUDY, NOBODY)], "B"))
        self.assertFalse(self.result(self.client.job(sent.job)).is_sending)

    def test_peers_of_an_orthanc(self) -> None:
        self.agent.has_expanded_peers = False
        self.test_peers()

    def test_peers(self) -> None:
        b, c = self.result(self.client.peers())
        self.assertEqual(("B", "installed", False), (b.name, b.state, b.pulls))
        self.assertTrue(b.is_usable)
        self.assertEqual("http://b.test:8042/", b.url)
        self.assertEqual((False, True), (c.is_usable, c.pulls))


class FollowTests(DaemonCase):
    """By events."""

    has_events = True

    def setUp(self) -> None:
        super().setUp()
        self.agent.has_events = self.has_events
        self.seen: list[Job] = []
        self.troubles: list[DaemonError] = []
        self.job_id = self.submit()

    def follow(self, **more: Any) -> "Deferred[Job]":
        return self.begin(
            self.client.follow(
                self.job_id, self.seen.append, every=1.0, on_trouble=self.troubles.append, **more
            )
        )

    def pass_time(self, following: "Deferred[Job]", seconds: float = 1.0) -> None:
        self.house.clock.advance(seconds)
        self.settle(following)

    def test_until_it_ends(self) -> None:
        following = self.follow()
        for _ in range(3):
            self.pass_time(following)
        self.assertGreaterEqual(len(self.seen), 4)
        self.assertNoResult(following)
        self.end()
        self.pass_time(following)
        self.assertTrue(self.successResultOf(following).is_success)
        self.assertTrue(self.seen[-1].is_success)

    def test_one_that_fails(self) -> None:
        following = self.follow()
        self.end(PeerNonsense("it is a teapot"))
        self.pass_time(following)
        job = self.successResultOf(following)
        self.assertEqual((True, False), (job.is_ended, job.is_success))
        self.assertIn("teapot", job.error)

    def test_one_that_is_paused_and_goes_on(self) -> None:
        following = self.follow()
        self.result(self.client.pause(self.job_id))
        self.pass_time(following)
        self.assertEqual("Paused", self.seen[-1].state)
        self.result(self.client.resume(self.job_id))
        self.pass_time(following)
        self.assertEqual("Running", self.seen[-1].state)

    def test_one_that_is_unknown(self) -> None:
        self.job_id = "nothing"
        self.failureResultOf(self.follow(), UnknownJob)

    def test_a_daemon_that_is_away_for_a_while(self) -> None:
        following = self.follow(patience=5.0)
        self.agent.leave()
        for _ in range(4):
            self.pass_time(following)
        self.assertTrue(self.troubles)
        self.agent.come_back()
        self.end()
        for _ in range(3):
            self.pass_time(following)
        self.assertTrue(self.successResultOf(following).is_success)

    def test_a_daemon_that_stays_away(self) -> None:
        following = self.follow(patience=5.0)
        self.agent.leave()
        for _ in range(10):
            self.pass_time(following)
        self.failureResultOf(following, DaemonUnreachable)

    def test_a_proxy_whose_daemon_is_away_for_a_while(self) -> None:
        self.agent.has_events = False
        self.agent.status = 502
        following = self.follow(patience=5.0)
        for _ in range(3):
            self.pass_time(following)
        self.assertTrue(self.troubles)
        self.agent.status = 200
        self.end()
        for _ in range(3):
            self.pass_time(following)
        self.assertTrue(self.successResultOf(following).is_success)

    def test_a_daemon_that_refuses(self) -> None:
        self.agent.status = 500
        self.failureResultOf(self.follow(), DaemonRefused)

    def test_cancelled(self) -> None:
        following = self.follow()
        following.cancel()
        self.failureResultOf(following)
        self.assertEqual("Running", self.result(self.client.job(self.job_id)).state)

    def test_all_jobs(self) -> None:
        seen: list[list[str]] = []
        watching = self.begin(
            self.client.watch(
                lambda jobs: seen.append([job.state for job in jobs]),
                is_over=lambda jobs: len(jobs) == 2 and all(job.is_ended for job in jobs),
                every=1.0,
            )
        )
        self.house.clock.advance(0.5)
        self.submit()
        self.pass_time(watching)
        self.assertEqual(["Running", "Running"], seen[-1])
        for transfer in self.house.transfers:
            transfer.ending.callback(None)
        for _ in range(2):
            self.pass_time(watching)
        self.successResultOf(watching)
        self.assertEqual(["Success", "Success"], seen[-1])
        self.agent.flush()
        self.assertEqual([], self.house.clock.getDelayedCalls())


class PollingTests(FollowTests):
    """By asking: an Orthanc, or an older daemon."""

    has_events = False


class ListeningTests(DaemonCase):
    """The stream of events."""

    def test_what_is_told(self) -> None:
        heard: list[Event] = []
        job = self.submit()
        listening = self.begin(self.client.listen(heard.append))
        self.end()
        self.settle(listening)
        kinds = [event.kind for event in heard]
        self.assertEqual(["reset", "job", "ready", "job"], kinds)
        self.assertEqual(
            (job, "Success"), tuple(json.loads(heard[-1].data)[k] for k in ("ID", "State"))
        )
        listening.cancel()
        self.failureResultOf(listening)

    def test_what_is_not_there(self) -> None:
        self.failure(self.client.listen(lambda event: None, "nothing"), UnknownResource)

    def test_an_end_that_is_seen_though_the_job_is_forgotten_at_once(self) -> None:
        self.house.jobs._limits = JobLimits(2, history_size=0)
        job = self.submit()
        following = self.begin(self.client.follow(job))
        self.end()
        for _ in range(3):
            self.house.clock.advance(1)
            self.settle(following)
        self.assertTrue(self.successResultOf(following).is_success)

    def test_nonsense(self) -> None:
        job = self.submit()
        for data in (b"hello", b'"x"', b"[", b"{}"):
            self.agent.answer = b"event: job\ndata: " + data + b"\n\n"
            heard = self.client.listen(self.raise_unless_job, job)
            self.failure(heard, DaemonNonsense)

    def raise_unless_job(self, event: Event) -> None:
        read_job(_parsed(event))


class ParserTests(SynchronousTestCase):
    def test_cut_anywhere(self) -> None:
        stream = (
            ": hello\n\nretry: 10\n\nevent: a\nid: 1\ndata: ü\n\nevent: b\ndata:x\ndata: y\n\n"
            "data\n\nevent: c\r\ndata: z\r\n\r\nevent: lost\n\n"
        ).encode()
        expected = [Event("a", "ü"), Event("b", "x\ny"), Event("message", ""), Event("c", "z")]
        for size in (1, 2, 3, 7, 1000):
            parser = EventParser()
            parts = [stream[at : at + size] for at in range(0, len(stream), size)]
            heard = [event for part in parts for event in parser.feed(part)]
            self.assertEqual(expected, heard, size)

    def test_no_end(self) -> None:
        for data in (b"data: " + bytes(2**20), b"data: x\n" * 2**17):
            parser = EventParser()
            with self.assertRaises(DaemonNonsense):
                for _ in range(5):
                    parser.feed(data)


class ArchiveTests(DaemonCase):
    def test_find(self) -> None:
        self.store(make(1), make(2, study=2, patient="P2", AccessionNumber="A2"))
        found = self.result(self.client.find(Level.STUDY, {"AccessionNumber": "A*"}))
        self.assertEqual(["P2"], [each.tag("PatientID") for each in found])
        self.assertEqual("", found[0].tag("InstitutionName"))
        self.assertEqual(2, len(self.result(self.client.find(Level.PATIENT, {}))))
        page = self.result(self.client.find(Level.STUDY, {}, since=1, limit=5))
        self.assertEqual([found[0].id], [each.id for each in page])

    def test_lookup_and_resource(self) -> None:
        (told,) = self.store(make(1))
        patient, study = told["ParentPatient"], told["ParentStudy"]
        (resource,) = self.result(self.client.lookup("P1"))
        self.assertEqual(Resource(Level.PATIENT, patient), resource)
        found = self.result(self.client.resource(Level.PATIENT, patient))
        self.assertEqual((study,), found.children)
        for id_, level in (
            (study, Level.STUDY),
            (patient, Level.PATIENT),
            (told["ID"], Level.INSTANCE),
        ):
            found = self.result(self.client.resource_of_any_level(id_))
            self.assertEqual((id_, level), (found.id, found.level))
        self.failure(self.client.resource(Level.PATIENT, study), UnknownResource)
        self.failure(self.client.resource_of_any_level(NOBODY), UnknownResource)
        numbers = self.result(self.client.statistics(Level.STUDY, study))
        self.assertEqual(1, numbers["CountInstances"])

    def test_upload(self) -> None:
        data = make(1)
        sent: list[int] = []

        def upload(data: bytes) -> Any:
            return self.client.upload(
                len(data), lambda: MemorySlices([data[:100], data[100:]]), sent.append
            )

        (stored,) = self.result(upload(data))
        self.assertFalse(stored.already_stored)
        self.assertEqual(len(data), sum(sent))
        (stored,) = self.result(upload(data))
        self.assertTrue(stored.already_stored)
        self.assertIn("400", self.failure(upload(b"hello"), DaemonRefused))


class NonsenseTests(DaemonCase):
    """A server that is no daemon, or one that lies."""

    def test_answers_of_another_form(self) -> None:
        for body in (b"<html>", b'"text"', b"{}", b"[5]", b"[" * 100_000, b'{"ID":5}', b"\xff"):
            self.agent.answer = body
            for ask in (
                lambda: self.client.job("x"),
                self.client.jobs,
                lambda: self.client.send([], "B"),
                lambda: self.client.find(Level.STUDY, {}),
                lambda: self.client.resource(Level.STUDY, "x"),
                lambda: self.client.upload(1, lambda: MemorySlices([b"x"])),
            ):
                self.failure(ask(), DaemonNonsense)
            if body != b"{}":
                self.failure(self.client.peers(), DaemonNonsense)

    def test_a_job_with_strange_members(self) -> None:
        strange = {
            "ID": "x",
            "Type": "PushTransfer",
            "State": "Running",
            "Progress": "high",
            "ErrorCode": [],
            "Content": {"TotalSize": "-5", "UploadedSize": 7, "Peer": None, "Retries": "many"},
        }
        self.agent.answer = json.dumps(strange).encode()
        job = self.result(self.client.job("x"))
        self.assertEqual(
            (0.0, None, 0, "None"), (job.fraction, job.total_size, job.done_size, job.peer)
        )

    def test_a_job_of_an_orthanc(self) -> None:
        self.agent.answer = json.dumps(
            {
                "ID": "x",
                "Type": "PushTransfer",
                "State": "Running",
                "Progress": 50,
                "ErrorCode": 0,
                "Content": {"TotalSizeMB": 10, "UploadedSizeMB": 5, "TotalInstances": 3},
            }
        ).encode()
        job = self.result(self.client.job("x"))
        self.assertEqual(
            (10 * 2**20, 5 * 2**20, 3, 0.5),
            (job.total_size, job.done_size, job.total_instances, job.fraction),
        )
