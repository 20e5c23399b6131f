"""Debian's Orthanc for a test: on free ports, in a folder of its own, without plugins."""

import json
import subprocess
from pathlib import Path
from typing import Any

import attrs
from twisted.trial.unittest import SynchronousTestCase

from demo.daemon import free_ports
from tests.functional.live import Answer, ask, has_ended, wait_until
from tests.real_parts import need

START_S = 30.0


@attrs.define
class Orthanc:
    """One that runs, or has been stopped."""

    case: SynchronousTestCase
    folder: Path
    port: int
    settings: dict[str, Any]
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        program = need(self.case, "Orthanc")
        self.folder.mkdir(exist_ok=True)
        path = self.folder / "orthanc.json"
        path.write_text(json.dumps(self.settings))
        with (self.folder / "orthanc.log").open("ab") as log:
            self.process = subprocess.Popen(
                [program, path], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        wait_until(self.answers, "Orthanc answers", START_S)

    def answers(self) -> bool:
        """Whether it does, if only that it wants a password."""
        try:
            return self.ask("GET", "/system").status in (200, 401)
        except OSError:
            return False

    def ask(self, method: str, path: str, body: Any = None, **more: Any) -> Answer:
        """One request, past everything else."""
        return ask(self.port, method, path, body, **more)

    def stop(self) -> None:
        """End it, if it runs."""
        process, self.process = self.process, None
        if process is not None:
            process.terminate()
            process.wait(START_S)
            self.case.assertTrue(has_ended(process.pid))


def run_orthanc(
    case: SynchronousTestCase, folder: Path, name: str = "Orthanc", **settings: Any
) -> Orthanc:
    """Start one; it ends with the test."""
    port, dicom = free_ports(2)
    found = {
        "Name": name,
        "HttpPort": port,
        "DicomPort": dicom,
        "StorageDirectory": str(folder / name / "storage"),
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "Plugins": [],
        **settings,
    }
    orthanc = Orthanc(case, folder / name, port, found)
    case.addCleanup(orthanc.stop)
    orthanc.start()
    return orthanc
