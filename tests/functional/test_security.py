"""Users, permissions and secrets of real daemons, as others see them."""

import base64
import http.client
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization as form

from demo.daemon import Daemon, free_ports
from tests.functional.certified import CertifiedCase, ForwardProxy, write_json
from tests.functional.live import (
    HOST,
    WAIT_S,
    LiveTestCase,
    environment,
    study_of,
    twistd,
    wait_until,
)
from txtransfers.passwords import hash_password

LOGIN = "alice:geheim"


def basic(login: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"}


class AskingCase(CertifiedCase):
    def call(
        self, daemon: Daemon, method: str, path: str, body: Any = None, login: str = LOGIN
    ) -> tuple[int, Any]:
        """Ask as a user; a ``login`` without a colon is a token."""
        headers = basic(login) if ":" in login else {"Authorization": f"Bearer {login}"}
        connection = http.client.HTTPSConnection(
            HOST, daemon.port, timeout=WAIT_S, context=self.context
        )
        data = json.dumps(body).encode() if isinstance(body, dict | list) else body
        try:
            connection.request(method, path, data, headers if login else {})
            response = connection.getresponse()
            text = response.read()
        finally:
            connection.close()
        try:
            return response.status, json.loads(text)
        except ValueError:
            return response.status, text

    def job(self, daemon: Daemon, route: str, body: Any, login: str = LOGIN) -> Any:
        """A transfer, to its end."""
        status, told = self.call(daemon, "POST", f"/transfers/{route}", body, login)
        self.assertEqual(200, status, told)
        return wait_until(
            lambda: (
                (found := self.call(daemon, "GET", told["Path"], login=login)[1])["State"]
                in ("Success", "Failure")
                and found
            ),
            "the end of the job",
        )


class PermissionTests(AskingCase):
    def test_a_peer_s_account_is_enough_for_a_peer_and_for_nothing_else(self) -> None:
        port_a, port_b = free_ports(2)
        b = self.start(
            "B",
            port_b,
            **self.tls(
                AuthenticationEnabled=True,
                RegisteredUsers={"north": hash_password("south"), "alice": "geheim"},
                Permissions={"north": ["receive"], "alice": ["administer"]},
                OrthancPeers={},
            ),
        )
        peer = [f"https://{HOST}:{port_b}/", "north", "south"]
        a = self.start("A", port_a, **self.tls(OrthancPeers={"B": peer}))
        uploaded = self.upload(a, self.files())
        study = study_of(next(iter(uploaded.values())))
        self.assertEqual({"B": "installed"}, a.client.get("/transfers/peers"))
        self.transfer(a, "send", study, Compression="gzip")
        a.client.request("DELETE", f"/studies/{study[0]['ID']}")
        self.transfer(a, "pull", study)
        self.assert_holds(a, uploaded)
        for method, path in (
            ("GET", "/studies"), ("GET", "/jobs?expand"), ("GET", "/peers?expand"),
            ("POST", "/transfers/send"), ("POST", "/transfers/pull"), ("GET", "/system"),
            ("DELETE", f"/studies/{study[0]['ID']}"), ("POST", "/instances"),
            ("GET", f"/instances/{next(iter(uploaded))}/file"), ("GET", "/changes"),
            ("PUT", "/transfers/bandwidth"), ("GET", "/tools/metrics-prometheus"), ("GET", "/"),
        ):  # fmt: skip
            status, told = self.call(b, method, path, {}, "north:south")
            self.assertEqual(403, status, path)
            self.assertIn("north may not do this", told["Details"])
        self.assertEqual(6, len(self.call(b, "GET", "/instances")[1]))

    def test_the_commands(self) -> None:
        (port,) = free_ports(1)
        kept = self.command("password", "geheim\n").strip()
        self.assertTrue(kept.startswith("$scrypt$"), kept)
        token, hash_ = (line.split()[-1] for line in self.command("token").splitlines())
        self.assertTrue(hash_.startswith("$sha256$"), hash_)
        a = self.start(
            "A",
            port,
            **self.tls(
                AuthenticationEnabled=True,
                RegisteredUsers={"alice": kept},
                BearerTokens={"nightly": hash_},
            ),
        )
        self.assertEqual("401", self.curl(port).stdout)
        self.assertEqual("200", self.curl(port, "-u", "alice:geheim").stdout)
        self.assertEqual("200", self.curl(port, "--oauth2-bearer", token).stdout)
        self.assertEqual("401", self.curl(port, "--oauth2-bearer", hash_).stdout)
        self.assertEqual("401", self.curl(port, "-u", "alice:x").stdout)
        self.assertIn("A login of user alice from 127.0.0.1 failed", a.log_tail())

    def command(self, name: str, said: str = "") -> str:
        done = subprocess.run(
            [sys.executable, "-c", "from txtransfers.cli import main; main()", name],
            input=said,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=True,
        )
        return done.stdout

    def test_the_command_wants_a_password(self) -> None:
        done = subprocess.run(
            [sys.executable, "-c", "from txtransfers.cli import main; main()", "password"],
            input="\n",
            env=environment(),
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=False,
        )
        self.assertEqual(1, done.returncode)
        self.assertIn("the password is empty", done.stderr)


class WorldTests(LiveTestCase):
    def test_no_start_that_opens_all_to_all(self) -> None:
        world = {"RemoteAccessAllowed": True, "AuthenticationEnabled": False, "HttpPort": 0}
        path = write_json(self.folder / "c.json", world)
        done = twistd(["-n", "--pidfile=", "txtransfers", "-c", path], self.folder)
        self.assertNotEqual(0, done.returncode)
        said = done.stdout + done.stderr
        self.assert_says(said, "RemoteAccessAllowed", "RemoteAccessWithoutUsers", "add users")

    def test_no_start_without_the_audit_log(self) -> None:
        path = write_json(self.folder / "c.json", {"AuditLog": "no/where.log", "HttpPort": 0})
        done = twistd(["-n", "--pidfile=", "txtransfers", "-c", path], self.folder)
        self.assertNotEqual(0, done.returncode)
        self.assert_says(done.stdout + done.stderr, "AuditLog: ", "no/where.log", "written")


class SecretTests(AskingCase):
    """Secrets are in the configuration and nowhere else: everything else is searched for them."""

    SECRETS = {
        name: f"s3cr3t-{name}-" + "x" * 24
        for name in ("plain", "hashed", "token", "peer", "header", "key", "proxy", "own", "wrong")
    }

    def setUp(self) -> None:
        super().setUp()
        self.said: list[str] = []

    def note(self, answer: tuple[int, Any]) -> Any:
        self.said.append(repr(answer))
        return answer[1]

    def key_files(self) -> dict[str, str]:
        issued = self.ca.issue_cert("me.example.org")
        key = form.load_pem_private_key(issued.private_key_pem.bytes(), None)
        encryption = form.BestAvailableEncryption(self.SECRETS["key"].encode())
        pem = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, encryption)
        path = self.folder / "mine.pem"
        path.write_bytes(issued.cert_chain_pems[0].bytes() + pem)
        return {"CertificateFile": str(path), "CertificateKeyPassword": self.SECRETS["key"]}

    def daemons(self) -> tuple[Daemon, Daemon]:
        secrets = self.SECRETS
        proxy = ForwardProxy()
        self.addCleanup(proxy.close)
        port_a, port_b = free_ports(2)
        users = {
            "alice": "geheim",
            "peer": secrets["peer"],
            "bob": hash_password(secrets["hashed"]),
        }
        url = f"https://{HOST}:{port_b}/"
        peer = {
            "Url": url,
            "Username": "peer",
            "Password": secrets["peer"],
            "HttpHeaders": {"X-Api-Key": secrets["header"]},
            "ApiToken": secrets["own"],
            **self.key_files(),
        }
        common = {
            "AuthenticationEnabled": True,
            "RegisteredUsers": users | {"carol": secrets["plain"]},
            "BearerTokens": {"nightly": secrets["token"]},
            "AuditLog": str(self.folder / "audit.log"),
            "AuditPatientNames": True,
        }
        a = self.tls(
            OrthancPeers={
                "B": peer,
                "W": peer | {"Password": secrets["wrong"]},
                "N": peer | {"Url": f"https://localhost.localdomain:{port_b}/"},
                "D": peer | {"Url": "https://127.0.0.1:1/"},
            },
            HttpProxy=f"proxy:{secrets['proxy']}@{HOST}:{proxy.port}",
            **common,
        )
        b = self.tls(
            SslVerifyPeers=True,
            SslTrustedClientCertificates=str(self.folder / "ca.pem"),
            OrthancPeers={"A": [f"https://{HOST}:{port_a}/", "carol", secrets["plain"]]},
            **common,
        )
        assert self.context is not None
        self.context.load_cert_chain(self.issue("asker.pem", "asker"))
        return self.start("A", port_a, **a), self.start("B", port_b, **b)

    def test_no_secret_anywhere(self) -> None:
        a, b = self.daemons()
        secrets = self.SECRETS
        study = self.work(a, b)
        for daemon in (a, b):
            for login in (
                f"carol:{secrets['wrong']}", f"{secrets['plain']}:x", secrets["wrong"],
            ):  # fmt: skip
                self.note(self.call(daemon, "GET", "/system", login=login))
            for login in (f"bob:{secrets['hashed']}", secrets["token"]):
                self.assertIn("Name", self.note(self.call(daemon, "GET", "/system", login=login)))
            for path in (
                "/peers?expand", "/peers/B", "/peers/A/configuration", "/jobs?expand", "/system",
                "/transfers/peers", "/tools/metrics-prometheus", "/changes", "/", "/nowhere",
                "/transfers/bandwidth", f"/studies/{study}", "/plugins/transfers", "/peers",
            ):  # fmt: skip
                self.note(self.call(daemon, "GET", path))
            for job in self.call(daemon, "GET", "/jobs")[1]:
                self.note(self.call(daemon, "GET", f"/jobs/{job}/receipt"))
            self.end(daemon, signal.SIGTERM)
        self.assert_nowhere(a, b)

    def work(self, a: Daemon, b: Daemon) -> str:
        """Transfers that succeed, and some that fail for each reason; gives the study."""
        for path in self.files(2):
            told = self.note(self.call(a, "POST", "/instances", path.read_bytes()))
        resources = study_of(told)
        body = {"Resources": resources, "Compression": "none", "Peer": "B"}
        self.assertEqual("Success", self.note((200, self.job(a, "send", body)))["State"])
        body["Peer"] = "A"
        self.call(b, "DELETE", f"/studies/{resources[0]['ID']}")
        self.assertEqual("Success", self.note((200, self.job(b, "pull", body)))["State"])
        for name in ("W", "N", "D"):
            body["Peer"] = name
            ended = self.note((200, self.job(a, "send", body)))
            self.assertEqual("Failure", ended["State"], name)
            self.note(self.call(a, "POST", "/transfers/send", body))
        self.note(self.call(a, "POST", "/transfers/send", b"{"))
        return str(resources[0]["ID"])

    def assert_nowhere(self, *daemons: Daemon) -> None:
        places = {"an answer": "\n".join(self.said).encode()}
        for path in self.folder.rglob("*"):
            if path.is_file() and not path.name.endswith((".json", ".pem")):
                places[str(path)] = path.read_bytes()
        self.assertTrue({"daemon.log", "audit.log"} <= {Path(place).name for place in places})
        self.assertTrue(any("jobs.sqlite" in place for place in places))
        needles = dict(self.SECRETS)
        for user, name in (("peer", "peer"), ("peer", "wrong"), ("carol", "plain")):
            pair = f"{user}:{self.SECRETS[name]}".encode()
            needles[f"{name} (Basic)"] = base64.b64encode(pair).decode()
        needles["proxy (Basic)"] = base64.b64encode(
            f"proxy:{self.SECRETS['proxy']}".encode()
        ).decode()
        for place, content in places.items():
            for name, needle in needles.items():
                self.assertFalse(needle.encode() in content, f"{name} is in {place}")
