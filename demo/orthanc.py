"""Starts Debian's real Orthanc, as a daemon is started: for tests and benchmarks of the gateway."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from demo.daemon import Daemon, DaemonError, Json

_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin"])

PLAIN: dict[str, Json] = {
    "DicomServerEnabled": False,
    "RemoteAccessAllowed": False,
    "AuthenticationEnabled": False,
    "Plugins": [],
}
"""Settings of one that nothing but this machine reaches."""


class Orthanc(Daemon):
    """One Orthanc: its process, its folder, its API."""

    def command(self, configuration: Path) -> Sequence[str]:
        """Return the program and its arguments."""
        program = shutil.which("Orthanc", path=_PATH)
        if program is None:
            raise DaemonError("Orthanc is not installed")
        return (program, str(configuration))

    def count(self) -> int:
        """Return how many instances it holds."""
        return int(self.client.get("/statistics")["CountInstances"])


def in_front_of(orthanc: Daemon, **more: Json) -> dict[str, Json]:
    """Return the section ``Store`` of a gateway's configuration."""
    return {"Type": "Orthanc", "Url": orthanc.url} | more
