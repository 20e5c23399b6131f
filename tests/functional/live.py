"""Real daemons for a test, what is asked of them, and what must be so on both sides."""

import hashlib
import http.client
import json
import os
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import attrs
from twisted.trial.unittest import SynchronousTestCase

from demo.daemon import ROOT, Daemon, DaemonError, free_ports

HOST = "127.0.0.1"
WAIT_S = 60.0
"""How long anything may take that should be a matter of a second or two."""
PROMPT_S = 5.0
"""How long a pause, a resume or a cancel may take: one second is the aim."""
STOP_S = 10.0
"""How long a stop may take: three seconds are the promise."""
_POLL_S = 0.03

Json = Any


class IBetween(Protocol):
    """A wire between two daemons."""

    target: int
    port: int

    def close(self) -> None:
        """End it."""


@attrs.frozen
class Answer:
    """An answer as it came."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Json:
        """The body's value."""
        return json.loads(self.body)


def ask(
    port: int,
    method: str,
    path: str,
    body: Any = None,
    headers: Mapping[str, str] | None = None,
    host: str = HOST,
    context: ssl.SSLContext | None = None,
) -> Answer:
    """One request on a connection of its own; an iterable ``body`` travels chunked."""
    if context is None:
        connection = http.client.HTTPConnection(host, port, timeout=WAIT_S)
    else:
        connection = http.client.HTTPSConnection(host, port, timeout=WAIT_S, context=context)
    chunked = body is not None and not isinstance(body, bytes)
    try:
        connection.request(method, path, body, dict(headers or {}), encode_chunked=chunked)
        response = connection.getresponse()
        named = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, named, response.read())
    finally:
        connection.close()


def wait_until(holds: Callable[[], Any], what: str, seconds: float = WAIT_S) -> Any:
    """Ask until ``holds`` gives something true, and give that; fail after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not (value := holds()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        time.sleep(_POLL_S)
    return value


def has_ended(pid: int) -> bool:
    """Whether a process is no more, or waits only for its parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def md5(data: bytes) -> str:
    """As it travels."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def peer_url(port: int) -> str:
    """How OrthancPeers names a port here."""
    return f"http://{HOST}:{port}/"


def study_of(answer: Json) -> list[Json]:
    """The resource that a transfer of the whole study of an uploaded instance names."""
    return [{"Level": "Study", "ID": answer["ParentStudy"]}]


def twistd(arguments: Iterable[str | Path], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run ``twistd`` in ``folder`` until it ends by itself."""
    return subprocess.run(
        [Path(sys.executable).parent / "twistd", *arguments],
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )


def environment() -> dict[str, str]:
    """One in which ``twistd`` finds the plugin."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return os.environ | {"PYTHONPATH": path}


COMMAND = (sys.executable, "-c", "from txtransfers.cli import main; main()")
"""``txtransfers``, the command that the package installs."""


class LiveTestCase(SynchronousTestCase):
    """Starts daemons; at the end of the test each is stopped, and its log is looked through."""

    context: ssl.SSLContext | None = None
    """How those are asked that speak TLS."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory(prefix="txtransfers-")
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self._lives = count(1)
        self._settings: dict[str, dict[str, Json]] = {}
        self._ended: list[Daemon] = []

    # Daemons

    def start(self, name: str, port: int, **settings: Json) -> Daemon:
        """A daemon; its store is that of earlier ones of the name."""
        life = self.folder / f"life-{next(self._lives)}"
        self._settings[name] = settings
        store = {"StorageDirectory": str(self.store_of(name))}
        context = self.context if settings.get("SslEnabled") else None
        daemon = Daemon(name, life, port, store | settings, context=context)
        self.addCleanup(self._tidy, daemon, life / name / "daemon.log")
        daemon.start()
        return daemon

    def again(self, daemon: Daemon) -> Daemon:
        """A daemon that was ended, once more."""
        return self.start(daemon.name, daemon.port, **self._settings[daemon.name])

    def pair(
        self,
        between: IBetween | None = None,
        a: Mapping[str, Json] | None = None,
        b: Mapping[str, Json] | None = None,
        **both: Json,
    ) -> tuple[Daemon, Daemon]:
        """Two daemons, each other's peers; for A, B is where the wire ``between`` begins."""
        port_a, port_b = free_ports(2)
        url_b = peer_url(port_b)
        if between is not None:
            between.target = port_b
            self.addCleanup(between.close)
            url_b = peer_url(between.port)
        peers_a = {"B": [url_b], "B-pulls": {"Url": url_b, "RemoteSelf": "A"}}
        peers_b = {"A": [peer_url(port_a)]}
        return (
            self.start("A", port_a, **({"OrthancPeers": peers_a} | both | dict(a or {}))),
            self.start("B", port_b, **({"OrthancPeers": peers_b} | both | dict(b or {}))),
        )

    def run_words(self, words: Sequence[str], **variables: str) -> "subprocess.Popen[bytes]":
        """A program in the folder of the test, ended with it; what it says can be read."""
        process = subprocess.Popen(
            words,
            cwd=self.folder,
            env=environment() | variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.addCleanup(process.communicate, timeout=STOP_S)
        self.addCleanup(process.terminate)
        return process

    def store_of(self, name: str) -> Path:
        """The storage directory of a daemon."""
        return self.folder / f"store-{name}"

    def end(self, daemon: Daemon, how: signal.Signals) -> None:
        """End a daemon's process by a signal, promptly."""
        self._ended.append(daemon)
        pid = daemon.pid
        os.kill(pid, how)
        wait_until(lambda: has_ended(pid), f"the end of {daemon.name} after {how.name}", STOP_S)

    def _tidy(self, daemon: Daemon, log: Path) -> None:
        try:
            daemon.stop()
        except DaemonError:
            if daemon not in self._ended:
                raise
        text = log.read_text(errors="replace") if log.exists() else ""
        for word in ("Traceback", "Incident", "Unhandled"):
            self.assertNotIn(word, text, f"in the log of {daemon.name}")

    # Instances

    def upload(self, daemon: Daemon, paths: Iterable[Path]) -> dict[str, Json]:
        """Store files; gives what the daemon told of each, with its ``Path`` on our disk."""
        return {
            told["ID"]: told | {"File": path}
            for path, told in ((path, daemon.client.upload(path)) for path in paths)
        }

    def assert_holds(self, daemon: Daemon, uploaded: Mapping[str, Json]) -> None:
        """These instances are at the daemon, and no others; each is downloaded and compared."""
        self.assertEqual(sorted(uploaded), sorted(daemon.client.get("/instances")))
        everything = [
            {"Level": "Patient", "ID": patient} for patient in daemon.client.get("/patients")
        ]
        looked_up = daemon.client.lookup(everything)
        for id_, told in uploaded.items():
            original = told["File"].read_bytes()
            data = daemon.client.request("GET", f"/instances/{id_}/file")
            self.assertEqual((len(original), md5(original)), (len(data), md5(data)), told["File"])
            self.assertEqual((md5(original), len(original)), looked_up[id_])

    def assert_empty(self, daemon: Daemon) -> None:
        """Nothing can be seen at the daemon, and nothing half done is on its disk."""
        for level in ("patients", "studies", "series", "instances"):
            self.assertEqual([], daemon.client.get(f"/{level}"))
        self.assertEqual("0", daemon.client.get("/statistics")["TotalDiskSize"])
        self.assertEqual([], daemon.client.get("/changes")["Changes"])
        self.assertEqual([], self.staged(daemon.name))

    def staged(self, name: str) -> list[str]:
        """The folders with files of instances, shown or not."""
        return os.listdir(self.store_of(name) / "instances")

    # Jobs

    def submit(
        self, daemon: Daemon, route: str, resources: Json, peer: str = "B", **more: Json
    ) -> str:
        """Ask for a transfer; gives the job."""
        wanted = {"Resources": resources, "Compression": "none", "Peer": peer} | more
        answer = daemon.client.post(f"/transfers/{route}", wanted)
        self.assertEqual({"ID", "Path"}, set(answer))
        self.assertEqual(f"/jobs/{answer['ID']}", answer["Path"])
        return str(answer["ID"])

    def wait_for(
        self, daemon: Daemon, job: str, state: str = "Success", seconds: float = WAIT_S
    ) -> Json:
        """Wait until a job has ended, as expected."""
        ended = wait_until(
            lambda: (
                (found := daemon.client.get(f"/jobs/{job}"))["State"]
                in {state, "Success", "Failure"}
                and found
            ),
            f"{state} of job {job} at {daemon.name}",
            seconds,
        )
        self.assertEqual(state, ended["State"], json.dumps(ended, indent=1))
        return ended

    def transfer(
        self, daemon: Daemon, route: str, resources: Json, peer: str = "B", **more: Json
    ) -> Json:
        """A transfer that succeeds; gives its job."""
        return self.wait_for(daemon, self.submit(daemon, route, resources, peer, **more))

    def failure(
        self, daemon: Daemon, route: str, resources: Json, peer: str = "B", **more: Json
    ) -> str:
        """A transfer that fails; gives the sentence that says why."""
        job = self.submit(daemon, route, resources, peer, **more)
        ended = self.wait_for(daemon, job, "Failure")
        self.assertNotEqual(0, ended["ErrorCode"])
        self.assertTrue(ended["ErrorDescription"])
        return str(ended["ErrorDetails"])

    def assert_says(self, text: str, *words: str) -> None:
        """The text has each of the words, and nothing that only programmers understand."""
        for word in words:
            self.assertIn(word, text)
        for word in ("Traceback", "defect", "<twisted", "Failure instance", " object at 0x", "()"):
            self.assertNotIn(word, text)
