"""Real nginx and haproxy between two daemons, with the settings that the samples have."""

import re
import subprocess
from pathlib import Path
from typing import Any

from demo import dataset
from demo.daemon import ROOT, free_ports
from tests.functional.live import HOST, LiveTestCase, ask, peer_url, study_of, wait_until
from tests.real_parts import need

NGINX_HEAD = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
"""

NGINX = (
    NGINX_HEAD
    + """
    upstream txtransfers {{ server {host}:{target}; keepalive 16; }}
    server {{
        listen {host}:{port};
        location / {{
            proxy_pass http://txtransfers; proxy_http_version 1.1; proxy_set_header Connection "";
            client_max_body_size 0; proxy_request_buffering off; proxy_buffering off;
        }}
    }}
    server {{ listen {host}:{welcome}; root /nowhere; location / {{ return 200 "<h1>Welcome</h1>";
        default_type text/html; }} }}
}}
"""
)

NGINX_FOR_SAMPLE = (
    NGINX_HEAD
    + """
    include {folder}/sample.conf;
}}
"""
)

CERTIFICATE_PATHS = re.compile(r"/etc/(?:ssl/certs|ssl/private|haproxy)/[\w.-]+")

HAPROXY = """
defaults
    mode http
    timeout connect 10s
    timeout client 60s
    timeout server 660s
    http-reuse safe
frontend in
    bind {host}:{port}
    default_backend txtransfers
backend txtransfers
    cookie SRV insert indirect nocache
    server daemon {host}:{target} cookie one
"""


class ProxyCase(LiveTestCase):
    def run_proxy(self, command: list[Any], port: int) -> None:
        log = (self.folder / "proxy.log").open("wb")
        self.addCleanup(log.close)
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.addCleanup(process.wait, 10)
        self.addCleanup(process.terminate)

        def answers() -> bool:
            self.assertIsNone(process.poll(), (self.folder / "proxy.log").read_text())
            try:
                return ask(port, "GET", "/plugins").status > 0
            except OSError:
                return False

        wait_until(answers, "the proxy answers")

    def run_nginx(self, text: str, answering: int, /, **places: Any) -> None:
        """nginx with a configuration, whose ``{folder}`` is its own; a port that answers."""
        program = need(self, "nginx")
        folder = self.folder / "nginx"
        folder.mkdir()
        path = folder / "nginx.conf"
        path.write_text(text.format(folder=folder, host=HOST, **places))
        self.run_proxy([program, "-c", path, "-p", folder], answering)

    def move(self, port: int, target: int) -> None:
        """Push through the proxy, and pull through it, in each compression."""
        a = self.start("A", free_ports(1)[0], OrthancPeers={"B": [peer_url(port)]})
        b = self.start("B", target)
        seen = {"B": "installed"}
        wait_until(lambda: a.client.get("/transfers/peers") == seen, "the proxy sees B")
        path = dataset.multiframe(self.folder / "large.dcm", 20, 1)
        uploaded = self.upload(a, [path, *dataset.shipped(3)])
        patients = [{"Level": "Patient", "ID": p} for p in a.client.get("/patients")]
        study = study_of(next(iter(uploaded.values())))
        for compression in ("none", "gzip"):
            self.transfer(a, "send", patients, Compression=compression)
            self.assert_holds(b, uploaded)
            a.client.request("DELETE", f"/studies/{study[0]['ID']}")
            self.transfer(a, "pull", study, Compression=compression)
            self.assert_holds(a, uploaded)
            for patient in patients:
                b.client.request("DELETE", f"/patients/{patient['ID']}")


class NginxTests(ProxyCase):
    def nginx(self, target: int) -> tuple[int, int]:
        port, welcome = free_ports(2)
        self.run_nginx(NGINX, welcome, port=port, target=target, welcome=welcome)
        return port, welcome

    def test_between_two_daemons(self) -> None:
        (target,) = free_ports(1)
        port, _welcome = self.nginx(target)
        self.move(port, target)

    def test_a_web_server_is_no_peer(self) -> None:
        _port, welcome = self.nginx(free_ports(1)[0])
        a = self.start("A", free_ports(1)[0], OrthancPeers={"web": [peer_url(welcome)]})
        uploaded = self.upload(a, dataset.shipped(1))
        study = study_of(next(iter(uploaded.values())))
        for route in ("send", "pull"):
            details = self.failure(a, route, study, "web")
            self.assert_says(details, '"web"', str(welcome), "a web page", "GET /plugins")
        self.assertEqual(a.client.get("/transfers/peers"), {"web": "disabled"})

    def test_a_gateway_without_a_daemon(self) -> None:
        port, _welcome = self.nginx(free_ports(1)[0])
        a = self.start("A", free_ports(1)[0], OrthancPeers={"B": [peer_url(port)]})
        uploaded = self.upload(a, dataset.shipped(1))
        details = self.failure(a, "send", study_of(next(iter(uploaded.values()))))
        self.assert_says(details, '"B"', "502")


class SampleTests(ProxyCase):
    """The samples, as they are but for addresses: by one from A into TLS, by the other to B."""

    def sample(self, name: str, inside: str) -> tuple[str, int, int]:
        """The text with our addresses and certificate, the port for A, the port of B.

        :param inside: how the sample says that it listens for TLS; ``443`` is the port there.
        """
        out, tls, target = free_ports(3)
        text = (ROOT / "etc" / name).read_text(encoding="utf-8")
        text = re.sub(r"(?m)^\s*#.*\n", "", text)
        for theirs, ours in (
            (inside, re.sub(":?443", f"{HOST}:{tls}", inside)),
            ("127.0.0.1:8042", f"{HOST}:{target}"),
            ("127.0.0.1:8143", f"{HOST}:{out}"),
            ("192.0.2.10:443", f"{HOST}:{tls}"),
        ):
            self.assertEqual(1, text.count(theirs), theirs)
            text = text.replace(theirs, ours)
        return CERTIFICATE_PATHS.sub(str(self.certificate()), text), out, target

    def certificate(self) -> Path:
        """Certificate and key of the peer that the samples name, in one file."""
        openssl = need(self, "openssl")
        key, certificate = self.folder / "key.pem", self.folder / "certificate.pem"
        arguments = "req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=peer.example.org"
        name = ["-addext", "subjectAltName=DNS:peer.example.org"]
        files = ["-keyout", key, "-out", certificate]
        subprocess.run(
            [openssl, *arguments.split(), *name, *files],
            capture_output=True,
            timeout=60,
            check=True,
        )
        both = self.folder / "both.pem"
        both.write_text(certificate.read_text() + key.read_text())
        return both

    def test_nginx(self) -> None:
        program = need(self, "nginx")
        text, out, target = self.sample("nginx-txtransfers.conf", "listen 443 ssl")
        folder = self.folder / "nginx"
        folder.mkdir()
        (folder / "sample.conf").write_text(text, encoding="utf-8")
        main = folder / "nginx.conf"
        main.write_text(NGINX_FOR_SAMPLE.format(folder=folder), encoding="utf-8")
        self.run_proxy([program, "-c", main, "-p", folder], out)
        self.move(out, target)

    def test_haproxy(self) -> None:
        program = need(self, "haproxy")
        text, out, target = self.sample("haproxy-txtransfers.cfg", "bind :443 ssl")
        path = self.folder / "haproxy.cfg"
        path.write_text(text, encoding="utf-8")
        self.run_proxy([program, "-f", path], out)
        self.move(out, target)


class HaproxyTests(ProxyCase):
    def test_between_two_daemons_with_sticky_sessions(self) -> None:
        program = need(self, "haproxy")
        port, target = free_ports(2)
        path = Path(self.folder / "haproxy.cfg")
        path.write_text(HAPROXY.format(host=HOST, port=port, target=target))
        self.run_proxy([program, "-f", path], port)
        self.move(port, target)
