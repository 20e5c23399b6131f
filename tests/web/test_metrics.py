"""``/metrics``: what is counted, for whom, and that no client can make it grow."""

import gzip
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from tests.dicom_files import make
from tests.web.harness import FakePeer, House
from tests.web.test_hostile import FILE, opening
from txtransfers.metrics import Measures, exposition

MB = 2**20


def parsed(text: bytes) -> dict[str, dict[tuple[str, ...], float]]:
    """Values by name and labels (``name=value``), as Prometheus reads them."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            labels = tuple(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


class MeasuresTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.measures = Measures({"B", "north"})

    def read(self) -> dict[str, dict[tuple[str, ...], float]]:
        return parsed(exposition(self.measures.registry))

    def test_buckets(self) -> None:
        for seconds, size in ((0.2, MB), (20, 4 * MB)):
            self.measures.bucket("B", "push", seconds, size)
        self.measures.bucket("north", "received", 0.3, 10)
        found = self.read()
        labels = ("direction=push", "peer=B")
        self.assertEqual(2, found["txtransfers_bucket_seconds_count"][labels])
        self.assertAlmostEqual(20.2, found["txtransfers_bucket_seconds_sum"][labels])
        self.assertEqual(
            1, found["txtransfers_bucket_seconds_bucket"]["direction=push", "le=0.25", "peer=B"]
        )
        self.assertEqual(5 * MB, found["txtransfers_bucket_bytes_sum"][labels])
        self.assertEqual(
            10, found["txtransfers_bucket_bytes_sum"]["direction=received", "peer=north"]
        )

    def test_jobs(self) -> None:
        self.measures.job_ended("B", "pull", "Success", 3.0)
        self.measures.job_ended("B", "pull", "Failure", 700.0)
        self.measures.tried_again("B", "pull", 3)
        self.measures.tried_again("B", "pull", 0)
        self.measures.travelled("B", "pull", 70)
        self.measures.travelled("B", "pull", -5)
        self.measures.committed("B", "pull", 0.2)
        found = self.read()
        labels = ("direction=pull", "peer=B")
        self.assertEqual(1, found["txtransfers_jobs_ended_total"][*labels, "state=Failure"])
        self.assertEqual(3.0, found["txtransfers_transfer_seconds_sum"][labels])
        self.assertEqual(3, found["txtransfers_retries_total"][labels])
        self.assertEqual(70, found["txtransfers_bytes_total"][labels])
        self.assertEqual(1, found["txtransfers_commit_seconds_count"][labels])

    def test_names_that_nobody_has_configured_are_one(self) -> None:
        for n in range(1000):
            self.measures.travelled(f"{n}", "push", 1)
        self.measures.travelled("", "served", 5)
        series = self.read()["txtransfers_bytes_total"]
        self.assertEqual(
            {("direction=push", "peer=other"): 1000, ("direction=served", "peer="): 5}, series
        )

    def test_no_registry_is_shared(self) -> None:
        self.measures.travelled("B", "push", 1)
        other = parsed(exposition(Measures({"B"}).registry))
        self.assertEqual({}, other.get("txtransfers_bytes_total", {}))

    def test_no_line_tells_when_a_counter_began(self) -> None:
        self.measures.bucket("B", "push", 1, 1)
        self.assertNotIn(b"_created", exposition(self.measures.registry))


class RouteTests(SynchronousTestCase):
    def setUp(self) -> None:
        configuration = {
            "AuthenticationEnabled": True,
            "RegisteredUsers": {"north": "b", "root": "c", "eye": "d"},
            "Permissions": {"north": ["receive"], "root": ["administer"], "eye": ["monitor"]},
        }
        self.house = House(configuration, folder=self.mktemp(), peers=[FakePeer("B")])
        self.addCleanup(self.house.stop)

    def login(self, user: str, password: str) -> dict[str, str]:
        import base64  # noqa: PLC0415

        return {
            "Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"
        }

    def read(self) -> dict[str, dict[tuple[str, ...], float]]:
        answer = self.house.request("GET", "/metrics", headers=self.login("eye", "d"))
        self.assertEqual(200, answer.status, answer.body)
        self.assertEqual("text/plain; version=0.0.4; charset=utf-8", answer.header("Content-Type"))
        return parsed(answer.body)

    def test_what_is_received_and_served(self) -> None:
        north = self.login("north", "b")
        path = self.house.request("POST", "/transfers/push", opening(), north).json()["Path"]
        self.house.request("PUT", f"{path}/0", FILE[:-1], north)
        self.house.request("PUT", f"{path}/0", FILE, north)
        self.house.request("POST", f"{path}/commit", b"", north)
        root = self.login("root", "c")
        stored = self.house.request("POST", "/instances", make(), root).json()["ID"]
        target = f"/transfers/chunks/{stored}"
        self.house.request("GET", target, headers=north)
        answer = self.house.request("GET", f"{target}?compression=gzip", headers=north)
        self.assertEqual(make(), gzip.decompress(answer.body))
        found = self.read()
        received, served = (("direction=" + d, "peer=north") for d in ("received", "served"))
        counts = found["txtransfers_bucket_seconds_count"]
        self.assertEqual({received: 1, served: 2}, counts)
        travelled = found["txtransfers_bytes_total"]
        self.assertEqual(2 * len(FILE) - 1, travelled[received])
        self.assertEqual(len(make()) + len(answer.body), travelled[served])

    def test_how_much_there_is(self) -> None:
        root = self.login("root", "c")
        self.read()  # who is known does not wait after the failure below
        self.house.request("POST", "/instances", make(), root)
        opened = self.house.request("POST", "/transfers/push", opening(), root)
        self.house.request("GET", "/system", headers=self.login("root", "wrong"))
        coming = self.house.connect()
        headers = {"Content-Length": str(len(FILE)), **root}
        coming.request("PUT", f"{opened.json()['Path']}/0", FILE[:10], headers)
        found = self.read()
        self.assertEqual(1, found["txtransfers_archive"]["level=instances",])
        self.assertEqual(len(make()), found["txtransfers_archive_bytes"][()])
        self.assertEqual(1, found["txtransfers_pushes_total"]["what=created",])
        self.assertEqual(1, found["txtransfers_pushes_open"][()])
        self.assertEqual(1, found["txtransfers_failed_logins_total"][()])
        self.assertEqual(1, found["txtransfers_uploads"][()])
        self.assertEqual(2, found["txtransfers_connections"]["state=busy",])
        self.assertEqual(0, found["txtransfers_refused_total"]["limit=MaxUploads",])
        self.assertEqual(0, found["txtransfers_queue"]["queue=downloads",])
        self.assertGreater(found["txtransfers_http_answers_total"]["status=2xx",], 1)
        self.assertEqual(1, found["txtransfers_http_answers_total"]["status=4xx",])
        self.assertGreater(found["process_resident_memory_bytes"][()], MB)

    def test_staging(self) -> None:
        root = self.login("root", "c")
        self.house.request("POST", "/transfers/push", opening(), root)
        found = self.read()
        self.assertEqual(1000, found["txtransfers_staging_bytes"]["what=promised",])
        self.assertEqual(1, found["txtransfers_staging_areas"][()])
        self.assertGreater(found["txtransfers_storage_free_bytes"][()], 0)

    def test_who_may_see_it(self) -> None:
        for path in ("/metrics", "/tools/metrics-prometheus"):
            for login, status in (
                ({}, 401),
                (self.login("north", "b"), 403),
                (self.login("eye", "d"), 200),
                (self.login("root", "c"), 200),
            ):
                answer = self.house.request("GET", path, headers=login)
                self.assertEqual(status, answer.status, (path, login))
        for path in ("/system", "/instances", "/jobs", "/peers", "/metrics/x"):
            answer = self.house.request("GET", path, headers=self.login("eye", "d"))
            self.assertEqual(403, answer.status, path)

    def test_whoever_asks_for_nonsense_makes_no_series(self) -> None:
        self.read()
        before = set(self.read()["txtransfers_http_answers_total"])
        for n in range(20):
            self.house.request("GET", f"/nowhere/{n}", headers=self.login("root", "c"))
            self.house.request(f"BREW{n}", "/", headers=self.login("root", "c"))
        after = self.read()
        self.assertLessEqual(len(set(after["txtransfers_http_answers_total"]) - before), 1)


class JobTests(SynchronousTestCase):
    def test_what_has_moved_is_told_once(self) -> None:
        told: list[tuple[int, int]] = []
        house = House(peers=[FakePeer("B")])
        house.jobs._on_moved = lambda _job, size, retries: told.append((size, retries))
        house.request(
            "POST", "/transfers/pull", b'{"Resources":[],"Compression":"none","Peer":"B"}'
        )
        transfer: Any = house.transfers[0]
        job = house.jobs.jobs()[0]
        job.progress.network_size, job.progress.retries = 100, 1
        house.clock.advance(1)
        job.progress.network_size = 150
        house.clock.advance(1)
        self.assertEqual((150, 1), (sum(t[0] for t in told), sum(t[1] for t in told)))
        del told[:]
        self.successResultOf(Deferred.fromCoroutine(house.jobs.pause(job.id)))
        job.progress.network_size = 150
        self.successResultOf(Deferred.fromCoroutine(house.jobs.resume(job.id)))
        house.clock.advance(1)
        self.assertEqual(0, sum(size for size, _retries in told))
        self.assertIsNotNone(transfer)
