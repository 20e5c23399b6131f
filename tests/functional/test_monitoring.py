"""What Prometheus, a balancer and a dashboard see of real daemons."""

import json
import re
import socket
from pathlib import Path
from typing import Any

from demo import dataset
from demo.daemon import free_ports
from tests.dicom_files import make
from tests.functional.gateways import GatewayTestCase
from tests.functional.live import HOST, LiveTestCase, ask, study_of, wait_until
from tests.web.test_metrics import parsed

ETC = Path(__file__).parent.parent.parent / "etc"


class MonitoringTests(LiveTestCase):
    def begin(self, **both: Any) -> None:
        self.a, self.b = self.pair(**both)
        folder = self.folder / "ct"
        folder.mkdir()
        self.uploaded = self.upload(self.a, dataset.ct_series(folder, 6, 100, 1))
        self.study = study_of(next(iter(self.uploaded.values())))

    def test_a_push_and_a_pull(self) -> None:
        self.begin(Transfers={"BucketSize": 150})
        pushed = self.transfer(self.a, "send", self.study, Compression="none")["Content"]
        self.b.client.request("DELETE", f"/studies/{self.study[0]['ID']}")
        pulled = self.transfer(self.b, "pull", self.study, "A", Compression="none")["Content"]
        a, b = (
            parsed(ask(each.port, "GET", "/metrics").body)
            for each in (self.a, self.b)
        )  # fmt: skip
        push, pull = ("direction=push", "peer=B"), ("direction=pull", "peer=A")
        received, served = ("direction=received", "peer="), ("direction=served", "peer=")
        for found, labels, content in ((a, push, pushed), (b, pull, pulled)):
            count = found["txtransfers_bucket_seconds_count"][labels]
            self.assertEqual(content["Buckets"], count)
            size = float(content["NetworkSize"])
            self.assertEqual(size, found["txtransfers_bytes_total"][labels])
            self.assertEqual(size, found["txtransfers_bucket_bytes_sum"][labels])
            self.assertEqual(1, found["txtransfers_commit_seconds_count"][labels])
            self.assertEqual(1, found["txtransfers_transfer_seconds_count"][labels])
            ended = found["txtransfers_jobs_ended_total"]
            self.assertEqual({(*labels, "state=Success"): 1}, ended)
            self.assertEqual(1, found["txtransfers_jobs"]["state=Success",])
        self.assertEqual(a["txtransfers_bytes_total"][push], b["txtransfers_bytes_total"][received])
        self.assertEqual(b["txtransfers_bytes_total"][pull], a["txtransfers_bytes_total"][served])
        self.assertEqual(1, b["txtransfers_commit_seconds_count"][received])
        self.assertEqual(6, b["txtransfers_archive"]["level=instances",])
        self.assertEqual(0, b["txtransfers_staging_bytes"]["what=promised",])

    def test_all_that_the_dashboard_and_the_alerts_name(self) -> None:
        self.begin()
        self.transfer(self.a, "send", self.study)
        text = ask(self.a.port, "GET", "/metrics").body.decode()
        families = set(re.findall(r"^# TYPE (\S+) ", text, re.MULTILINE))
        files = [ETC / "grafana-dashboard.json", ETC / "prometheus-alerts.yml"]
        named = re.findall(
            r"\b(?:txtransfers|process)_\w+", "".join(each.read_text() for each in files)
        )
        self.assertGreater(len(set(named)), 20)
        missing = {re.sub(r"_(bucket|count|sum)$", "", name) for name in named} - families
        self.assertEqual({"txtransfers_orthanc_up"}, missing)

    def test_health(self) -> None:
        users = {"AuthenticationEnabled": True, "RegisteredUsers": {"alice": "geheim"}}
        (port,) = free_ports(1)
        daemon = self.start("A", port, **users)
        for path, status in (("/healthz", "alive"), ("/readyz", "ready")):
            answer = ask(daemon.port, "GET", path)
            self.assertEqual((200, {"Status": status}), (answer.status, answer.json))
        self.assertEqual(401, ask(daemon.port, "GET", "/metrics").status)
        text = json.dumps([dict(answer.headers), answer.body.decode()])
        for word in ("alice", "geheim", str(self.folder)):
            self.assertNotIn(word, text)


class GatewayTests(GatewayTestCase):
    def test_an_orthanc_that_ends_and_comes_again(self) -> None:
        orthanc = self.orthanc("O")
        gateway = self.gateway("G", orthanc)
        ready = lambda: ask(gateway.port, "GET", "/readyz").status  # noqa: E731
        wait_until(lambda: ready() == 200, "a gateway that is ready")
        text = ask(gateway.port, "GET", "/metrics").body.decode()
        self.assertIn("\ntxtransfers_orthanc_up 1.0\n", text)
        self.assertNotIn("txtransfers_archive_bytes ", text)
        self.kill(orthanc)
        wait_until(lambda: ready() == 503, "a gateway that is not ready")
        answer = ask(gateway.port, "GET", "/readyz")
        self.assertEqual(["orthanc does not answer"], answer.json["Reasons"])
        self.assertEqual(200, ask(gateway.port, "GET", "/healthz").status)
        text = ask(gateway.port, "GET", "/metrics").body.decode()
        self.assertIn("\ntxtransfers_orthanc_up 0.0\n", text)
        self.orthanc("O", orthanc.port)
        wait_until(lambda: ready() == 200, "a gateway that is ready again")

    def test_more_uploads_than_are_taken(self) -> None:
        gateway = self.gateway("G", self.orthanc("O"), Limits={"MaxUploads": 1})
        with socket.create_connection((HOST, gateway.port)) as slow:
            slow.sendall(b"POST /instances HTTP/1.1\r\nHost: g\r\nContent-Length: 9999\r\n\r\nx")
            busy = wait_until(
                lambda: (
                    (answer := ask(gateway.port, "POST", "/instances", make())).status == 503
                    and answer
                ),
                "a refusal",
            )
        self.assertEqual("2", busy.headers["retry-after"])
        wait_until(
            lambda: ask(gateway.port, "POST", "/instances", make()).status == 200, "an upload"
        )
