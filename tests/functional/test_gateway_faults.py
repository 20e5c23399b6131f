"""A gateway and its Orthanc are killed, refuse, or are locked: nothing is half there afterwards."""

import json
import subprocess

from demo.daemon import Daemon, free_ports
from demo.orthanc import Orthanc
from tests.dicom_files import make
from tests.functional.gateways import GatewayTestCase
from tests.functional.live import ask, peer_url, twistd, wait_until
from tests.functional.test_proxies import NGINX_HEAD, ProxyCase
from tests.real_parts import need

COUNT = 150
"""Instances of a transfer whose import takes a second or so."""
LATE = 20
"""When so many are in, it is in the middle."""

MB = 2**20

FILTER = """
function ReceivedInstanceFilter(dicom, origin, info)
  return dicom.InstanceNumber ~= '%d'
end
"""


class GatewayFaultTests(GatewayTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.new = [make(n, filler=20_000) for n in range(COUNT)]
        self.old = [make(3, filler=20_000, PatientSex="F"), make(1, study=5, patient="P5")]

    def sender_and_receiver(self, **at_b: object) -> tuple[Daemon, Orthanc, Daemon]:
        """A standalone daemon with the files, and a gateway that is to get them."""
        port_a, port_b = free_ports(2)
        a = self.start(
            "A",
            port_a,
            OrthancPeers={"B": [peer_url(port_b)]},
            Transfers={"JobRetryDelays": [1] * 30, "MaxHttpRetries": 3},
        )
        paths = []
        for number, data in enumerate(self.new):
            paths.append(self.folder / f"{number}.dcm")
            paths[-1].write_bytes(data)
        self.upload(a, paths)
        orthanc = self.orthanc("B", **at_b)
        self.known = self.fill(orthanc, self.old)
        b = self.gateway("B", orthanc, port_b, OrthancPeers={"A": [peer_url(port_a)]})
        return a, orthanc, b

    def resources_of(self, daemon: Daemon) -> list[dict[str, str]]:
        return [{"Level": "Patient", "ID": id_} for id_ in daemon.client.get("/patients")]

    def expected(self, daemon: Daemon) -> dict[str, bytes]:
        """What the receiver is to have: the old one of number 3 stays."""
        all_of_it = {
            id_: daemon.client.request("GET", f"/instances/{id_}/file")
            for id_ in daemon.client.get("/instances")
        }
        return all_of_it | self.known

    def test_the_gateway_is_killed_in_the_middle_of_an_import(self) -> None:
        a, orthanc, b = self.sender_and_receiver()
        job = self.submit(a, "send", self.resources_of(a))
        wait_until(lambda: orthanc.count() > LATE, "the import is in the middle")
        self.kill(b)
        in_it = orthanc.count()
        self.assertLess(in_it, COUNT, "it was too quick for this test")
        b = self.again(b)
        self.wait_for(a, job)
        self.assert_content(orthanc, self.expected(a))
        wait_until(lambda: not self.left_in("B"), "nothing is left on its disk")

    def test_a_killed_import_is_completed_though_nobody_asks(self) -> None:
        a, orthanc, b = self.sender_and_receiver()
        self.submit(a, "send", self.resources_of(a))
        wait_until(lambda: orthanc.count() > LATE, "the import is in the middle")
        self.kill(b)
        expected = self.expected(a)
        self.kill(a)
        self.again(b)
        wait_until(lambda: orthanc.count() == len(expected), "the import is complete")
        self.assert_content(orthanc, expected)

    def test_orthanc_is_killed_in_the_middle_of_an_import(self) -> None:
        a, orthanc, _b = self.sender_and_receiver()
        job = self.submit(a, "send", self.resources_of(a))
        wait_until(lambda: orthanc.count() > LATE, "the import is in the middle")
        self.kill(orthanc)
        orthanc = self.orthanc("B", orthanc.port)
        self.wait_for(a, job)
        self.assert_content(orthanc, self.expected(a))
        wait_until(lambda: not self.left_in("B"), "nothing is left on its disk")

    def test_one_that_orthanc_refuses_takes_all_back(self) -> None:
        script = self.folder / "filter.lua"
        script.write_text(FILTER % (COUNT - 1))
        a, orthanc, b = self.sender_and_receiver(LuaScripts=[str(script)])
        said = self.failure(b, "pull", self.resources_of(a), "A")
        self.assert_says(said, "was not imported", "filter", orthanc.url, "was taken back")
        self.assert_content(orthanc, self.known)

    def test_the_disk_of_orthanc_is_full_in_the_middle(self) -> None:
        need(self, "mount")
        disk = self.folder / "orthanc-B"
        disk.mkdir()
        size = sum(map(len, self.new)) * 2 // 3 // MB
        options = ["mount", "-t", "tmpfs", "-o"]
        subprocess.run([*options, f"size={size}m", "tmpfs", disk], check=True)
        self.addCleanup(subprocess.run, ["umount", "-l", disk], check=True)
        a, orthanc, b = self.sender_and_receiver()
        said = self.failure(b, "pull", self.resources_of(a), "A")
        self.assert_says(said, "disk", "full", orthanc.url, "taken back")
        # An Orthanc without any room can mostly not even delete.
        subprocess.run([*options, "remount,size=64m", "tmpfs", disk], check=True)
        wait_until(lambda: not self.left_in("B"), "all is taken back")
        self.assert_content(orthanc, self.known)
        self.transfer(b, "pull", self.resources_of(a), "A")
        self.assert_content(orthanc, self.expected(a))

    def test_the_same_where_it_replaces(self) -> None:
        script = self.folder / "filter.lua"
        script.write_text(FILTER % (COUNT - 1))
        a, orthanc, b = self.sender_and_receiver(LuaScripts=[str(script)])
        b.stop()
        self._ended.append(b)
        b = self.gateway("B", orthanc, b.port, OrthancPeers={"A": [a.url]}, OverwriteInstances=True)
        self.failure(b, "pull", self.resources_of(a), "A")
        self.assert_content(orthanc, self.known)

    def test_replacing(self) -> None:
        """Whether Orthanc overwrites by itself or not."""
        for number, overwrites in enumerate((False, True)):
            at_a, at_b = (
                self.orthanc(f"A{number}"),
                self.orthanc(f"B{number}", OverwriteInstances=overwrites),
            )
            files = self.fill(at_a, self.new[:5])
            self.fill(at_b, [make(n, filler=9, PatientSex="M") for n in range(5)])
            port_a, port_b = free_ports(2)
            self.gateway(f"A{number}", at_a, port_a)
            b = self.gateway(
                f"B{number}",
                at_b,
                port_b,
                OrthancPeers={"A": [peer_url(port_a)]},
                OverwriteInstances=True,
            )
            job = self.transfer(b, "pull", self.resources(at_a), "A")
            self.assertEqual({"Replaced": 5}, job["Content"]["Outcomes"])
            self.assert_content(at_b, files)


TLS = (
    NGINX_HEAD
    + """
    server {{
        listen {host}:{port};
        listen {host}:{secure} ssl;
        ssl_certificate {pem}; ssl_certificate_key {pem};
        location / {{ proxy_pass http://{host}:{target}; }}
    }}
}}
"""
)


class GatewayAccessTests(GatewayTestCase, ProxyCase):
    """An Orthanc that asks for a password; one behind TLS, with and without its own authority."""

    def certificate(self) -> str:
        openssl = need(self, "openssl")
        key, certificate = self.folder / "key.pem", self.folder / "certificate.pem"
        arguments = "req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost"
        more = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
        subprocess.run(
            [openssl, *arguments.split(), *more, "-keyout", str(key), "-out", str(certificate)],
            capture_output=True,
            check=True,
        )
        both = self.folder / "both.pem"
        both.write_text(key.read_text() + certificate.read_text())
        return str(certificate)

    def test_a_password(self) -> None:
        orthanc = self.orthanc("A", AuthenticationEnabled=True, RegisteredUsers={"alice": "s3cret"})
        ids = [{"Level": "Instance", "ID": "-".join(["00000000"] * 5)}]
        wrong = self.gateway("A", orthanc, Store={"Username": "alice", "Password": "wrong"})
        said = self.refused(wrong, ids)
        self.assert_says(said, "401", "check Username and Password under Store", orthanc.url)
        wrong.stop()
        self._ended.append(wrong)
        right = self.gateway("A", orthanc, Store={"Username": "alice", "Password": "s3cret"})
        self.assertIn("404", self.refused(right, ids))

    def test_https(self) -> None:
        authority = self.certificate()
        orthanc = self.orthanc("A")
        plain, secure = free_ports(2)
        places = {"port": plain, "secure": secure, "target": orthanc.port}
        self.run_nginx(TLS, plain, **places, pem=self.folder / "both.pem")
        ids = [{"Level": "Instance", "ID": "-".join(["00000000"] * 5)}]
        for host in ("localhost", "127.0.0.1"):
            url = f"https://{host}:{secure}/"
            for more, words in (
                ({}, "into the file of Store.HttpsCACertificates"),
                ({"HttpsCACertificates": authority}, "404"),
                ({"HttpsVerifyPeers": False}, "404"),
            ):
                daemon = self.gateway("A", orthanc, Store={"Url": url, **more})
                self.assertIn(words, self.refused(daemon, ids))
                handed_on = ask(daemon.port, "GET", "/system")
                self.assertEqual(200 if more else 502, handed_on.status, handed_on.body)
                if not more:
                    self.assertIn("certificate", handed_on.json["Details"])
                daemon.stop()
                self._ended.append(daemon)

    def test_certificates_that_cannot_be_used(self) -> None:
        self.certificate()
        empty = self.folder / "empty.pem"
        empty.write_text("nothing")
        pair = {"CertificateFile": str(empty), "CertificateKeyFile": str(empty)}
        for more, words in (
            ({"HttpsCACertificates": "/nowhere.pem"}, "/nowhere.pem cannot be read"),
            (
                {"HttpsCACertificates": str(empty)},
                f"Store.HttpsCACertificates: {empty} holds no certificate",
            ),
            (pair, "expected a PEM file with BEGIN CERTIFICATE in it"),
        ):
            path = self.folder / "bad.json"
            store = {"Type": "Orthanc", "Url": "https://localhost:1/", **more}
            path.write_text(json.dumps({"HttpPort": 0, "Store": store}))
            done = twistd(["-n", "--pidfile=", "txtransfers", "-c", path], self.folder)
            self.assertNotEqual(0, done.returncode)
            self.assert_says(done.stderr, "txtransfers: Store.", words)
