"""Daemons in front of real Orthancs, and what must be so in these."""

import json
import os
import signal
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from demo.daemon import AnswerError, Daemon, free_ports
from demo.orthanc import PLAIN, Orthanc, in_front_of
from tests.functional.live import (
    LiveTestCase,
    has_ended,
    md5,
    peer_url,
    wait_until,
)
from tests.real_parts import need

Json = Any


class GatewayTestCase(LiveTestCase):
    """Starts Orthancs and daemons in front of them; all are ended with the test."""

    def setUp(self) -> None:
        super().setUp()
        need(self, "Orthanc")

    def orthanc(self, name: str, port: int | None = None, **settings: Json) -> Orthanc:
        """A real one; its archive is that of earlier ones of the name."""
        port = port or free_ports(1)[0]
        store = {"StorageDirectory": str(self.folder / f"orthanc-{name}")}
        life = self.folder / f"orthanc-life-{next(self._lives)}"
        orthanc = Orthanc(name, life, port, PLAIN | store | settings)
        self.addCleanup(self._end_orthanc, orthanc)
        orthanc.start()
        return orthanc

    def kill(self, daemon: Daemon) -> None:
        """End a process at once."""
        self._ended.append(daemon)
        pid = daemon.pid
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: has_ended(pid), f"the end of {daemon.name}")

    def _end_orthanc(self, orthanc: Orthanc) -> None:
        if orthanc in self._ended:
            assert orthanc._process is not None
            orthanc._process.wait()
        else:
            orthanc.stop()

    def gateway(self, name: str, orthanc: Orthanc, port: int | None = None, **more: Json) -> Daemon:
        """A daemon in front of an Orthanc."""
        store = in_front_of(orthanc, **more.pop("Store", {}))
        return self.start(name, port or free_ports(1)[0], Store=store, **more)

    def gateways(self, **both: Json) -> tuple[Orthanc, Daemon, Orthanc, Daemon]:
        """Two Orthancs, and the daemons in front of them, each other's peers."""
        port_a, port_b = free_ports(2)
        at_a, at_b = self.orthanc("A"), self.orthanc("B")
        url_b = peer_url(port_b)
        peers_a = {"B": [url_b], "B-pulls": {"Url": url_b, "RemoteSelf": "A"}}
        a = self.gateway("A", at_a, port_a, OrthancPeers=peers_a, **both)
        b = self.gateway("B", at_b, port_b, OrthancPeers={"A": [peer_url(port_a)]}, **both)
        return at_a, a, at_b, b

    def fill(self, orthanc: Orthanc, files: Iterable[bytes]) -> dict[str, bytes]:
        """Store files; gives them by the identifier that Orthanc told."""
        stored = {}
        for data in files:
            told = orthanc.client.request("POST", "/instances", data)
            stored[self.told_id(told)] = data
        return stored

    def ports(self, count: int) -> list[int]:
        """Ports that nobody listens on."""
        return free_ports(count)

    def refused(self, daemon: Daemon, resources: Json) -> str:
        """What a daemon says to a lookup that it cannot serve."""
        with self.assertRaises(AnswerError) as caught:
            daemon.client.lookup(resources)
        return str(caught.exception)

    def told_id(self, told: bytes) -> str:
        """The identifier in the answer to an upload."""
        return str(json.loads(told)["ID"])

    def resources(self, orthanc: Orthanc) -> list[Json]:
        """All that it holds, as a transfer names it."""
        return [{"Level": "Patient", "ID": id_} for id_ in orthanc.client.get("/patients")]

    def assert_content(self, orthanc: Orthanc, files: Mapping[str, bytes]) -> None:
        """It holds these, and no others: its own MD5s, and its bytes, say so."""
        self.assertEqual(sorted(files), sorted(orthanc.client.get("/instances")))
        for id_, data in files.items():
            path = f"/instances/{id_}"
            told = orthanc.client.request("GET", f"{path}/attachments/dicom/md5")
            self.assertEqual(md5(data), told.decode())
            self.assertEqual(data, orthanc.client.request("GET", f"{path}/file"))

    def empty(self, orthanc: Orthanc) -> None:
        """Delete all that it holds."""
        for patient in orthanc.client.get("/patients"):
            orthanc.client.request("DELETE", f"/patients/{patient}")

    def left_in(self, name: str) -> list[Path]:
        """What a gateway has on its disk of transfers: none once they have ended."""
        folder = self.store_of(name) / "gateway"
        areas = [*(folder / "instances").iterdir(), *(folder / "staging").iterdir()]
        return sorted(areas)
