"""The programs that we are compared with, each as fast as its options make it.

Orthanc is Debian's; it is the receiver of all but rsync.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import attrs

from bench.wan.link import Host
from bench.wan.programs import TooLongError, path_of, run, serving
from bench.wan.stage import HTTP_PORT, OPEN, Ready, Stage, fill, stop, url
from demo.daemon import Client, Daemon

DICOM_PORT = 4242
RSYNC_PORT = 873
PATIENCE_SECONDS = 24 * 3600
"""The HTTP timeout of Orthanc: a large instance takes longer than its 60 s."""
_AT_ONCE = ("env", "TCP_NODELAY=1")
"""Without it dcmtk, in Orthanc too, waits 40 ms with each C-STORE's answer."""


class Orthanc(Daemon):
    """Debian's Orthanc, started and asked as a daemon of ours."""

    def __init__(self, stage: Stage, name: str, host: Host, other: Host) -> None:
        store = stage.store if name == "A" else stage.folder
        settings = {
            "StorageDirectory": str(store / "orthanc"),
            "DicomPort": DICOM_PORT,
            "DicomAlwaysAllowStore": True,
            "DicomAlwaysAllowEcho": True,
            "DicomCheckCalledAet": False,
            "OverwriteInstances": True,
            "HttpTimeout": PATIENCE_SECONDS,
            "OrthancPeers": {"B": [url(other)]} if name == "A" else {},
        }
        super().__init__(name, stage.folder, HTTP_PORT, OPEN | settings, host)

    def command(self, configuration: Path) -> Sequence[str]:
        """Return the program and its arguments."""
        return (*_AT_ONCE, path_of("Orthanc"), str(configuration))

    def count(self) -> int:
        """Return how many instances it holds."""
        return int(self.client.get("/statistics")["CountInstances"])

    @classmethod
    def receiver(cls, stage: Stage, stack: ExitStack) -> "Orthanc":
        """Start an empty one at the receiver."""
        orthanc = cls(stage, "B", stage.receiver, stage.sender)
        stack.callback(stop, orthanc)
        orthanc.start()
        return orthanc


@attrs.frozen
class OrthancPeers:
    """Orthanc's own way to a peer: POST /peers/B/store."""

    name: str = "orthanc"
    programs: tuple[str, ...] = ("Orthanc",)

    def ready(self, stage: Stage, stack: ExitStack) -> Ready:
        """Start both, with the files in A's store."""
        b = Orthanc.receiver(stage, stack)
        a = Orthanc(stage, "A", stage.sender, stage.receiver)
        stack.callback(stop, a)
        a.start()
        fill(a.client, stage.load)
        patient = Client(HTTP_PORT, stage.sender, stage.limit)
        stack.callback(patient.close)
        body = {"Resources": [stage.load.study], "Synchronous": True}

        def go() -> None:
            try:
                patient.post("/peers/B/store", body)
            except TimeoutError:
                raise TooLongError from None

        return Ready(go, b.count)


@attrs.frozen
class Curl:
    """One curl that uploads the files to Orthanc, one after the other over one connection."""

    name: str = "curl"
    programs: tuple[str, ...] = ("curl", "Orthanc")

    def ready(self, stage: Stage, stack: ExitStack) -> Ready:
        """Start the receiver, and write what curl is told."""
        b = Orthanc.receiver(stage, stack)
        # Without Expect there is no round trip that asks whether an upload is welcome.
        parts = (
            f'url = "{url(stage.receiver)}instances"\nupload-file = "{path}"\nrequest = POST\n'
            'header = "Expect:"\noutput = "/dev/null"\nfail\nsilent\nshow-error\n'
            for path in stage.load.paths
        )
        told = stage.folder / "curl.txt"
        told.write_text("fail-early\n" + "next\n".join(parts), encoding="utf-8")
        return Ready(_program(stage, path_of("curl"), "--config", str(told)), b.count)


@attrs.frozen
class Storescu:
    """dcmtk's C-STORE of a folder to Orthanc, over one association."""

    name: str = "storescu"
    programs: tuple[str, ...] = ("storescu", "Orthanc")

    def ready(self, stage: Stage, stack: ExitStack) -> Ready:
        """Start the receiver."""
        b = Orthanc.receiver(stage, stack)
        # No transfer syntax may be proposed that would make it recode.
        syntax = "-xv" if stage.load.name == "jpeg2000" else "-xe"
        where = (stage.receiver.address, str(DICOM_PORT), "+sd", str(stage.load.folder))
        return Ready(_program(stage, *_AT_ONCE, path_of("storescu"), syntax, *where), b.count)


@attrs.frozen
class Rsync:
    """rsync of a folder to an rsync daemon, without its compression: no DICOM, no sync to disk."""

    name: str = "rsync"
    programs: tuple[str, ...] = ("rsync",)

    def ready(self, stage: Stage, stack: ExitStack) -> Ready:
        """Start the daemon with an empty module."""
        target = stage.folder / "module"
        target.mkdir()
        told = stage.folder / "rsyncd.conf"
        told.write_text(
            f"[study]\npath = {target}\nread only = no\nuse chroot = no\nreverse lookup = no\n"
            "uid = 0\ngid = 0\n",
            encoding="utf-8",
        )
        rsync, port = path_of("rsync"), f"--port={RSYNC_PORT}"
        server = (rsync, "--daemon", "--no-detach", port, f"--config={told}")
        log = stage.folder / "rsyncd.log"
        stack.enter_context(serving(stage.receiver, server, log, RSYNC_PORT))
        where = f"rsync://{stage.receiver.address}/study/"
        go = _program(stage, rsync, "--archive", port, f"{stage.load.folder}/", where)
        return Ready(go, lambda: sum(1 for _ in target.iterdir()))


def _program(stage: Stage, *command: str) -> Callable[[], None]:
    """Return what runs a command at the sender."""

    def go() -> None:
        run(stage.sender, command, stage.folder / "sender.log", stage.limit)

    return go
