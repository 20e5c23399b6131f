"""Real Orthancs with daemons in front of them: what is moved, and what is so afterwards."""

import json
from io import BytesIO

from demo import dataset
from tests.dicom_files import make, variety
from tests.functional.gateways import GatewayTestCase
from tests.functional.live import peer_url, wait_until
from txtransfers.store.dicom import read_header

COMPRESSIONS = ("none", "gzip", "auto")


class GatewayTests(GatewayTestCase):
    def files(self, count: int = 12) -> list[bytes]:
        shipped = [path.read_bytes() for path in dataset.shipped(count)]
        return shipped + [make(n, patient="P9", filler=700_000) for n in range(3)]

    def test_every_mode_and_compression(self) -> None:
        at_a, a, at_b, b = self.gateways()
        files = self.fill(at_a, self.files())
        wanted = self.resources(at_a)
        for compression in COMPRESSIONS:
            for daemon, route, peer in ((a, "send", "B"), (b, "pull", "A")):
                job = self.transfer(daemon, route, wanted, peer, Compression=compression)
                self.assertEqual({"Stored": len(files)}, job["Content"]["Outcomes"])
                self.assert_content(at_b, files)
                self.empty(at_b)
        self.assertEqual([], self.left_in("A") + self.left_in("B"))

    def test_files_of_every_kind(self) -> None:
        """Our identifiers are Orthanc's, and no byte is changed."""
        at_a, a, at_b, b = self.gateways()
        stored = {}
        for kind, data in variety().items():
            ids = read_header(BytesIO(data), len(data)).ids
            told = json.loads(at_a.client.request("POST", "/instances", data))
            self.assertEqual("Success", told["Status"], kind)
            theirs = [told[name] for name in ("ID", "ParentSeries", "ParentStudy", "ParentPatient")]
            self.assertEqual([ids.instance, ids.series, ids.study, ids.patient], theirs, kind)
            stored[told["ID"]] = data
        stored |= self.fill(at_a, [make(1, 1, 40), *self.no_preamble()])
        self.assert_content(at_a, stored)
        wanted = self.resources(at_a)
        for daemon, route, peer in ((a, "send", "B"), (b, "pull", "A")):
            self.transfer(daemon, route, wanted, peer, Compression="gzip")
            self.assert_content(at_b, stored)
            self.empty(at_b)

    def no_preamble(self) -> list[bytes]:
        """Real files that begin without one, as far as Orthanc takes such."""
        files = [path.read_bytes() for path in dataset.shipped()]
        return [data for data in files if data[128:132] != b"DICM"]

    def test_what_is_there_does_not_travel(self) -> None:
        at_a, a, at_b, _b = self.gateways()
        files = self.fill(at_a, self.files())
        self.fill(at_b, list(files.values())[:5])
        job = self.transfer(a, "send", self.resources(at_a))
        self.assertEqual(len(files) - 5, job["Content"]["SentInstances"])
        self.assertEqual({"AlreadyStored": 5, "Stored": len(files) - 5}, job["Content"]["Outcomes"])
        self.assert_content(at_b, files)

    def test_with_a_standalone_daemon(self) -> None:
        at_a = self.orthanc("A")
        alone = self.start(
            "B", (ports := self.ports(2))[0], OrthancPeers={"A": [peer_url(ports[1])]}
        )
        peers = {"B": [peer_url(alone.port)]}
        a = self.gateway("A", at_a, ports[1], OrthancPeers=peers)
        files = self.fill(at_a, self.files())
        wanted = self.resources(at_a)
        self.transfer(a, "send", wanted)
        self.assertEqual(sorted(files), sorted(alone.client.get("/instances")))
        for id_, data in files.items():
            self.assertEqual(data, alone.client.request("GET", f"/instances/{id_}/file"))
        self.empty(at_a)
        self.transfer(a, "pull", wanted)
        self.assert_content(at_a, files)

    def test_it_starts_before_its_orthanc(self) -> None:
        at_a = self.orthanc("A")
        files = self.fill(at_a, self.files(3))
        wanted = self.resources(at_a)
        self.kill(at_a)
        a = self.gateway("A", at_a)
        wait_until(lambda: "does not answer" in a.log_tail(), "a word in the log")
        answer = self.refused(a, wanted)
        self.assert_says(answer, at_a.url, "connection refused", "503")
        self.orthanc("A", at_a.port)
        self.assertEqual(sorted(files), sorted(a.client.lookup(wanted)))
