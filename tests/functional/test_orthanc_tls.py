"""Debian's real Orthanc and TLS: it speaks it to us, and haproxy speaks it for it.

That Orthanc (1.10.1) breaks off after each handshake where it is the server, whoever the client is.
"""

import base64
import json
import subprocess
from pathlib import Path
from typing import Any

from demo import dataset
from demo.daemon import free_ports
from tests.functional.certified import CertifiedCase
from tests.functional.live import HOST, ask, study_of, wait_until
from tests.real_parts import need

START_S = 30.0
LOGIN = {"Authorization": f"Basic {base64.b64encode(b'alice:secret').decode()}"}

HAPROXY = """
defaults
    mode http
    timeout connect 10s
    timeout client 60s
    timeout server 60s
frontend in
    bind {host}:{port} ssl crt {folder}/server.pem verify required ca-file {folder}/ca.pem
    default_backend orthanc
backend orthanc
    server one {host}:{target}
"""


class OrthancTlsTests(CertifiedCase):
    def setUp(self) -> None:
        super().setUp()
        program, haproxy = need(self, "Orthanc"), need(self, "haproxy")
        self.ours_at, self.theirs_at, secure, dicom = free_ports(4)
        mine = self.split("orthanc", self.issue("orthanc.pem", HOST))
        settings = {
            "Name": "Theirs",
            "HttpPort": self.theirs_at,
            "DicomPort": dicom,
            "StorageDirectory": str(self.folder / "orthanc"),
            "AuthenticationEnabled": True,
            "RegisteredUsers": {"alice": "secret"},
            "Plugins": [],
            "HttpsCACertificates": str(self.folder / "ca.pem"),
            "OrthancPeers": {
                "ours": {
                    "Url": f"https://{HOST}:{self.ours_at}/",
                    "Username": "theirs",
                    "Password": "geheim",
                    **mine,
                }
            },
        }
        path = self.folder / "orthanc.json"
        path.write_text(json.dumps(settings))
        self.run_program("orthanc", program, path)
        text = HAPROXY.format(host=HOST, port=secure, target=self.theirs_at, folder=self.folder)
        (self.folder / "haproxy.cfg").write_text(text)
        self.run_program("haproxy", haproxy, "-f", self.folder / "haproxy.cfg")
        assert self.context is not None
        self.context.load_cert_chain(self.issue("me.pem", "me"))
        self.url = f"https://{HOST}:{secure}/"
        wait_until(self.answers, "Orthanc answers", START_S)

    def run_program(self, name: str, *command: Any) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.addCleanup(process.wait, START_S)
        self.addCleanup(process.terminate)

    def split(self, name: str, both: Path) -> dict[str, str]:
        """Certificate and key as two files, as Orthanc wants them."""
        key, _mark, certificate = both.read_text().partition("-----BEGIN CERTIFICATE")
        files = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        files[0].write_text("-----BEGIN CERTIFICATE" + certificate)
        files[1].write_text(key)
        return {"CertificateFile": str(files[0]), "CertificateKeyFile": str(files[1])}

    def theirs(self, method: str, path: str, body: bytes | None = None) -> Any:
        answer = ask(self.theirs_at, method, path, body, LOGIN)
        self.assertEqual(200, answer.status, answer.body)
        return answer.json

    def answers(self) -> bool:
        try:
            return bool(self.theirs("GET", "/system"))
        except OSError:
            return False

    def ours(self, **more: Any) -> Any:
        theirs = {
            "Url": self.url,
            "Username": "alice",
            "Password": "secret",
            "CertificateFile": str(self.folder / "me.pem"),
        }
        settings = self.tls(
            SslVerifyPeers=True,
            SslTrustedClientCertificates=str(self.folder / "ca.pem"),
            OrthancPeers={"theirs": theirs | more},
        )
        return self.start("A", self.ours_at, **settings)

    def test_from_it_to_us(self) -> None:
        ours = self.ours()
        stored = self.theirs("POST", "/instances", dataset.shipped(1)[0].read_bytes())
        self.assertEqual("A", self.theirs("GET", "/peers/ours/system")["Name"])
        self.theirs("POST", "/peers/ours/store", stored["ID"].encode())
        self.assertEqual([stored["ID"]], ours.client.get("/instances"))

    def test_from_us_to_it(self) -> None:
        """It has no accelerator: that it says so, by TLS and as one who knows us, is the proof."""
        ours = self.ours()
        uploaded = self.upload(ours, dataset.shipped(1))
        details = self.failure(ours, "send", study_of(next(iter(uploaded.values()))), "theirs")
        self.assert_says(details, '"theirs"', "404", "accelerator")

    def test_it_refuses_us_without_a_certificate(self) -> None:
        ours = self.ours(CertificateFile="")
        uploaded = self.upload(ours, dataset.shipped(1))
        details = self.failure(ours, "send", study_of(next(iter(uploaded.values()))), "theirs")
        self.assert_says(details, '"theirs"', "refuses us", "CertificateFile")
