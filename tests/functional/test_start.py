"""How the real twistd starts: what stops it, with which words; where it listens; how it ends."""

import base64
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from demo.daemon import free_ports
from tests.functional.live import (
    COMMAND,
    HOST,
    STOP_S,
    LiveTestCase,
    ask,
    environment,
    has_ended,
    twistd,
    wait_until,
)
from tests.real_parts import need

DEFAULT_PORT = 8042


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return True
    return False


class RefusalTests(LiveTestCase):
    """A start that cannot be ends at once, with a sentence and a status that is not 0."""

    def refusal(self, text: str | dict[str, Any]) -> str:
        """What twistd says of a configuration; the same without and with a daemon's fork."""
        path = self.folder / "wrong.json"
        path.write_text(text if isinstance(text, str) else json.dumps(text), encoding="utf-8")
        done = twistd(["--nodaemon", "--pidfile=", "txtransfers", "-c", path], self.folder)
        said = done.stdout + done.stderr
        self.assertNotEqual(0, done.returncode, said)
        self.assertNotIn("Traceback", said)
        self.assertTrue(said.startswith("txtransfers: "), said)
        return said

    def settings(self, **more: Any) -> dict[str, Any]:
        (port,) = free_ports(1)
        return {"HttpPort": port, "StorageDirectory": "store"} | more

    def test_port_taken(self) -> None:
        with socket.socket() as other:
            other.bind((HOST, 0))
            other.listen()
            port = other.getsockname()[1]
            said = self.refusal(self.settings(HttpPort=port))
        self.assert_says(said, HOST, str(port), "HttpPort", "Is another Orthanc or txtransfers")
        self.assertEqual(1, said.count("\n"))

    def test_folder_not_writable(self) -> None:
        # A file where the folder should be: root is stopped by that, too.
        (self.folder / "file").write_text("")
        said = self.refusal(self.settings(StorageDirectory="file/store"))
        self.assert_says(said, "StorageDirectory", str(self.folder / "file/store"), "written")
        self.assertEqual(1, said.count("\n"))

    def test_two_daemons_in_one_folder(self) -> None:
        (port,) = free_ports(1)
        self.start("A", port)
        said = self.refusal(self.settings(StorageDirectory=str(self.store_of("A"))))
        self.assert_says(said, "StorageDirectory", str(self.store_of("A")), "another daemon")
        self.assertEqual(200, ask(port, "GET", "/system").status)

    def test_no_json(self) -> None:
        said = self.refusal('// a comment\n{\n  "HttpPort" : 8042\n  "Name" : "A"\n}\n')
        self.assert_says(said, "wrong.json", "line 4, column 3", "not JSON")

    def test_no_file(self) -> None:
        done = twistd(["-n", "--pidfile=", "txtransfers", "-c", "absent.json"], self.folder)
        self.assertNotEqual(0, done.returncode)
        self.assert_says(done.stdout + done.stderr, "absent.json", "cannot be read")

    def test_all_that_is_wrong_at_once(self) -> None:
        said = self.refusal(
            self.settings(
                HtpPort=8042,
                Transfers={"BucketSize": "4096", "Thread": 4},
                Pkcs11={"Module": "x.so"},
                OrthancPeers={"far": ["ftp://192.0.2.1/"]},
            )
        )
        self.assert_says(said, 'HtpPort: unknown key; did you mean "HttpPort"?')
        self.assert_says(said, "Transfers.BucketSize: expected a whole number", '"4096"')
        self.assert_says(said, 'Transfers.Thread: unknown key; did you mean "Threads"?')
        self.assert_says(said, "Pkcs11: keys in hardware", "not supported")
        self.assert_says(said, "OrthancPeers.far", "expected an address such as")
        self.assertFalse((self.folder / "store").exists())

    def test_in_the_background(self) -> None:
        """The words come before the fork: the terminal shows them, the status tells."""
        path = self.folder / "wrong.json"
        path.write_text('{"Nme" : "A"}', encoding="utf-8")
        done = twistd(
            ["--logfile=log", "--pidfile=pid", "txtransfers", "-c", path],
            self.folder,
        )
        self.assertNotEqual(0, done.returncode)
        self.assert_says(done.stdout + done.stderr, 'did you mean "Name"?')
        self.assertFalse((self.folder / "pid").exists())


class PlaceTests(LiveTestCase):
    """Where it listens and stores."""

    def test_without_configuration(self) -> None:
        if not is_free(DEFAULT_PORT):
            self.skipTest(f"port {DEFAULT_PORT} is taken on this machine")
        process = subprocess.Popen(
            [Path(sys.executable).parent / "twistd", "--nodaemon", "--pidfile=", "txtransfers"],
            cwd=self.folder,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        wait_until(lambda: not is_free(DEFAULT_PORT), f"the port {DEFAULT_PORT}")
        system = wait_until(
            lambda: (answer := ask(DEFAULT_PORT, "GET", "/system")).status == 200 and answer,
            "an answer",
        )
        self.assertEqual("txtransfers", system.json["Name"])
        self.assertTrue((self.folder / "OrthancStorage" / "index.sqlite").exists())
        process.send_signal(signal.SIGTERM)
        process.wait(STOP_S)

    def test_addresses(self) -> None:
        if not has_ipv6():
            self.skipTest("this machine has no IPv6 loopback")
        (port,) = free_ports(1)
        addresses = [HOST, "::1", "127.0.0.2"]
        daemon = self.start("A", port, HttpBindAddresses=addresses)
        for host in addresses:
            self.assertEqual("A", ask(port, "GET", "/system", host=host).json["Name"])
        with self.assertRaises(ConnectionRefusedError):
            ask(port, "GET", "/system", host="127.0.0.3")
        log = daemon.log_tail()
        self.assertIn(f"http://[::1]:{port}/", log)
        self.assertIn(f"http://127.0.0.2:{port}/", log)

    def test_the_loopback_alone_without_remote_access(self) -> None:
        (port,) = free_ports(1)
        self.start("A", port)
        with self.assertRaises(ConnectionRefusedError):
            ask(port, "GET", "/system", host="127.0.0.2")

    def test_plugins_of_orthanc_are_a_notice(self) -> None:
        (port,) = free_ports(1)
        daemon = self.start("A", port, Plugins=["/usr/share/orthanc/plugins"], DicomPort=4242)
        log = daemon.log_tail()
        self.assertIn("Plugins is ignored: transfers are built in", log)
        self.assertIn("DicomPort", log)
        self.assertIn("stores in", log)

    def test_in_the_background(self) -> None:
        (port,) = free_ports(1)
        path = self.folder / "A.json"
        path.write_text(json.dumps({"HttpPort": port, "StorageDirectory": "store"}))
        log, pid_file = self.folder / "daemon.log", self.folder / "daemon.pid"
        arguments = [f"--logfile={log}", f"--pidfile={pid_file}", "txtransfers", "-c", "A.json"]
        done = twistd(arguments, self.folder)
        self.assertEqual(0, done.returncode, done.stdout + done.stderr)
        pid = int(wait_until(lambda: pid_file.exists() and pid_file.read_text(), "the pid file"))
        self.addCleanup(self._kill, pid)

        def answers() -> bool:
            with contextlib.suppress(OSError):
                return ask(port, "GET", "/system").status == 200
            return False

        wait_until(answers, "an answer")
        self.assertTrue((self.folder / "store" / "index.sqlite").exists())
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: has_ended(pid), "the end after SIGTERM", STOP_S)
        self.assertFalse(pid_file.exists())
        text = log.read_text()
        self.assertIn("has stopped", text)
        self.assertNotIn("Traceback", text)

    def _kill(self, pid: int) -> None:
        if not has_ended(pid):
            os.kill(pid, signal.SIGKILL)


class UserTests(LiveTestCase):
    """Who may come in, asked with curl."""

    def setUp(self) -> None:
        super().setUp()
        self.curl = need(self, "curl")
        (self.port,) = free_ports(1)
        self.start(
            "A",
            self.port,
            AuthenticationEnabled=True,
            RegisteredUsers={"alice": "a pass:word", "jürgen": "geheim"},
        )

    def status(self, *arguments: str, path: str = "/system") -> int:
        url = f"http://{HOST}:{self.port}{path}"
        done = subprocess.run(
            [self.curl, "-sS", "-o", "/dev/null", "-w", "%{http_code}", *arguments, url],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        return int(done.stdout)

    def test_users(self) -> None:
        self.assertEqual(401, self.status())
        self.assertEqual(401, self.status("-u", "alice:wrong"))
        self.assertEqual(401, self.status("-u", "bob:a pass:word"))
        self.assertEqual(401, self.status("-u", "alice:"))
        self.assertEqual(200, self.status("-u", "alice:a pass:word"))
        self.assertEqual(200, self.status("-u", "jürgen:geheim"))

    def test_every_route(self) -> None:
        for path in ("/", "/jobs", "/transfers/peers", "/instances", "/plugins", "/nowhere"):
            self.assertEqual(401, self.status(path=path), path)

    def test_the_refusal(self) -> None:
        answer = ask(self.port, "GET", "/system")
        self.assertEqual(401, answer.status)
        realm = 'Basic realm="Orthanc Secure Area"'
        self.assertEqual(realm, answer.headers["www-authenticate"])
        for nonsense in ("Basic", "Basic !!!", "Bearer x", "Basic " + "A" * 4000):
            headers = {"Authorization": nonsense}
            self.assertEqual(401, ask(self.port, "GET", "/system", headers=headers).status)
        pair = base64.b64encode(b"\xff\xfe:\xff").decode()
        headers = {"Authorization": f"Basic {pair}"}
        self.assertEqual(401, ask(self.port, "GET", "/system", headers=headers).status)

    def test_an_upload_is_refused_before_its_body(self) -> None:
        body = self.folder / "body"
        body.write_bytes(bytes(2_000_000))
        data = f"@{body}"
        self.assertEqual(401, self.status("--data-binary", data, path="/instances"))
        self.assertEqual(
            400, self.status("-u", "alice:a pass:word", "--data-binary", data, path="/instances")
        )


class CommandTests(LiveTestCase):
    """``txtransfers``, the command that the package installs."""

    def run_command(self, *arguments: str) -> "subprocess.Popen[bytes]":
        return self.run_words([*COMMAND, *arguments])

    def test_it_runs_in_the_foreground(self) -> None:
        (port,) = free_ports(1)
        (self.folder / "c.json").write_text(json.dumps({"HttpPort": port, "Name": "Mine"}))
        process = self.run_command("-c", "c.json")

        def name() -> str:
            with contextlib.suppress(OSError):
                return str(ask(port, "GET", "/system").json["Name"])
            return ""

        self.assertEqual(wait_until(name, "the daemon answers"), "Mine")
        process.terminate()
        wait_until(lambda: has_ended(process.pid), "the end", STOP_S)
        self.assertFalse((self.folder / "twistd.pid").exists())

    def test_it_says_why_it_cannot_start(self) -> None:
        said, _nothing = self.run_command("-c", "nope.json").communicate(timeout=STOP_S)
        self.assertIn(b"txtransfers: nope.json", said)
        self.assertNotIn(b"Traceback", said)
