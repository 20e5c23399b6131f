"""The real daemon, and what stands for systemd: a datagram socket, or its own tools."""

import contextlib
import json
import os
import re
import signal
import socket
import sqlite3
import ssl
import subprocess
from pathlib import Path
from typing import Any

from demo.daemon import free_ports
from tests.functional.certified import CertifiedCase
from tests.functional.live import (
    COMMAND,
    HOST,
    STOP_S,
    WAIT_S,
    ask,
    environment,
    has_ended,
    wait_until,
)
from tests.real_parts import need

ROOT = Path(__file__).parent.parent.parent
MOST_EXPOSED = 2.0
"""What `systemd-analyze security` may say of the unit; 10 is as bad as can be."""


class SupervisedCase(CertifiedCase):
    """Starts the command as systemd does."""

    def configure(self, **settings: Any) -> None:
        (self.port,) = free_ports(1)
        settings = {"HttpPort": self.port, "StorageDirectory": "store", **settings}
        (self.folder / "c.json").write_text(json.dumps(settings))


class NotifyTests(SupervisedCase):
    def setUp(self) -> None:
        super().setUp()
        self.ear = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(self.ear.close)
        self.ear.settimeout(WAIT_S)
        self.heard: list[str] = []

    def hear(self, *lines: str) -> None:
        """Wait for a word with these lines."""
        while True:
            told = self.ear.recv(4096).decode()
            self.heard.append(told)
            if set(lines) <= set(told.splitlines()):
                return

    def test_a_life(self) -> None:
        self.configure(**self.tls())
        self.ear.bind("\0txtransfers-" + self.folder.name)
        process = self.run_words(
            [*COMMAND, "-c", "c.json"],
            NOTIFY_SOCKET="@txtransfers-" + self.folder.name,
            WATCHDOG_USEC="300000",
        )
        self.hear("STATUS=Opens the store")
        place = f"https://{HOST}:{self.port}/"
        self.hear("READY=1", f"STATUS=Listens on {place}; jobs that run: 0")
        with socket.create_connection((HOST, self.port), WAIT_S):
            pass
        for _ in range(3):
            self.hear("WATCHDOG=1")
        process.send_signal(signal.SIGHUP)
        self.hear("RELOADING=1")
        self.assertRegex(self.heard[-1], r"(?m)^MONOTONIC_USEC=\d+$")
        self.hear("READY=1")
        process.terminate()
        self.hear("STOPPING=1")
        wait_until(lambda: has_ended(process.pid), "the end", STOP_S)

    def told_without_a_start(self) -> tuple[str, str]:
        """What is said, and what systemd is told, by a daemon that ends by itself."""
        self.configure()
        self.ear.bind(str(self.folder / "ear"))
        process = self.run_words([*COMMAND, "-c", "c.json"], NOTIFY_SOCKET=str(self.folder / "ear"))
        said, _nothing = process.communicate(timeout=WAIT_S)
        self.ear.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                self.heard.append(self.ear.recv(4096).decode())
        told = "\n".join(self.heard)
        self.assertNotIn("READY=1", told)
        return said.decode(), told

    def test_not_ready_when_a_database_is_none(self) -> None:
        (self.folder / "store").mkdir()
        (self.folder / "store" / "jobs.sqlite").write_bytes(b"no database" * 1000)
        said, _told = self.told_without_a_start()
        self.assertIn("jobs.sqlite cannot be opened", said)

    def test_an_end_when_the_start_fails_later(self) -> None:
        (self.folder / "store").mkdir()
        db = sqlite3.connect(self.folder / "store" / "jobs.sqlite")
        schema = ROOT / "tests" / "data" / "schemas" / "jobs-3.sql"
        db.executescript(schema.read_text() + "UPDATE job SET record = 'no JSON';")
        db.close()
        said, told = self.told_without_a_start()
        self.assertIn("The start failed", said)
        self.assertIn("STATUS=The start failed", told)


class JournalTests(SupervisedCase):
    def lines_of(self, *words: str) -> list[str]:
        """What is written to a standard error that is the journal's, until SIGTERM or the end."""
        with open(self.folder / "journal", "wb") as file:
            found = os.fstat(file.fileno())
            process = subprocess.Popen(
                [*COMMAND, *words],
                cwd=self.folder,
                env=environment() | {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            )
        self.addCleanup(process.wait, STOP_S)
        self.addCleanup(process.terminate)
        text = wait_until(
            lambda: (self.has("listens on") or has_ended(process.pid)) and self.read(),
            "the log",
        )
        process.terminate()
        process.wait(STOP_S)
        return str(text).splitlines()

    def read(self) -> str:
        return (self.folder / "journal").read_text()

    def has(self, words: str) -> bool:
        return words in self.read()

    def test_every_line_has_a_priority(self) -> None:
        self.configure(HttpsVerifyPeers=False)
        lines = self.lines_of("-c", "c.json")
        for line in lines:
            self.assertRegex(line, r"\A<[2-7]>")
        self.assertTrue(any(line.startswith("<4>") and "HttpsVerify" in line for line in lines))
        self.assertTrue(any(line.startswith("<6>") and "listens on" in line for line in lines))

    def test_why_it_does_not_start_is_an_error(self) -> None:
        self.configure(Nme="x", Prt=1)
        lines = self.lines_of("-c", "c.json")
        self.assertGreater(len(lines), 1)
        self.assertEqual({"<3>"}, {line[:3] for line in lines})


class ActivationTests(SupervisedCase):
    def activated(self, *options: str, **settings: Any) -> "subprocess.Popen[bytes]":
        tool = need(self, "systemd-socket-activate")
        self.configure(**settings)
        (self.port,) = free_ports(1)  # not HttpPort: what is passed decides
        variables = [f"--setenv={name}" for name in ("PYTHONPATH", "PATH")]
        return self.run_words(
            [tool, f"--listen={HOST}:{self.port}", *variables, *options, *COMMAND, "-c", "c.json"]
        )

    def listens(self) -> bool:
        """Whether systemd does; a connection starts the daemon."""
        with socket.socket() as probe:
            return probe.connect_ex((HOST, self.port)) == 0

    def test_the_socket_that_is_passed(self) -> None:
        self.activated("--fdname=http")
        wait_until(self.listens, "the socket")
        self.assertEqual(200, ask(self.port, "GET", "/system").status)

    def test_with_tls(self) -> None:
        self.activated("--fdname=http", **self.tls())
        wait_until(self.listens, "the socket")
        with (
            socket.create_connection((HOST, self.port), WAIT_S) as plain,
            ssl.create_default_context(cafile=self.folder / "ca.pem").wrap_socket(
                plain, server_hostname="localhost"
            ) as secure,
        ):
            secure.sendall(b"GET /system HTTP/1.0\r\n\r\n")
            self.assertIn(b" 200 ", secure.recv(1000))

    def test_what_is_no_tcp_is_refused(self) -> None:
        process = self.activated("--datagram", "--fdname=http")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as caller:

            def has_ended_when_called() -> bool:
                caller.sendto(b"x", (HOST, self.port))
                return has_ended(process.pid)

            wait_until(has_ended_when_called, "the end")
        said, _nothing = process.communicate(timeout=STOP_S)
        self.assert_says(
            said.decode().splitlines()[-1],
            "descriptor 3",
            "does not listen on TCP",
            "ListenStream=",
        )


class UnitTests(SupervisedCase):
    """What systemd's own tools say of the units."""

    def analyze(self, *words: str | Path) -> str:
        done = subprocess.run(
            [need(self, "systemd-analyze"), *words],
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=False,
            env=os.environ | {"SYSTEMD_COLORS": "0"},
        )
        self.assertEqual(0, done.returncode, done.stdout + done.stderr)
        return done.stdout + done.stderr

    def test_they_are_understood(self) -> None:
        text = (ROOT / "etc" / "txtransfers.service").read_text()
        # What is not installed here is no mistake in the unit.
        there = text.replace("/usr/bin/txtransfers", "/bin/true")
        (self.folder / "txtransfers.service").write_text(there)
        (self.folder / "txtransfers.socket").write_text(
            (ROOT / "etc" / "txtransfers.socket").read_text()
        )
        for name in ("txtransfers.service", "txtransfers.socket"):
            said = self.analyze("verify", "--man=no", self.folder / name)
            self.assertNotIn("txtransfers", said)

    def test_they_expose_little(self) -> None:
        said = self.analyze("security", "--offline=true", ROOT / "etc" / "txtransfers.service")
        found = re.search(r"exposure level for txtransfers.service: ([\d.]+)", said)
        assert found is not None, said
        self.assertLess(float(found[1]), MOST_EXPOSED)
