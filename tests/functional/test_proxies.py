"""Real nginx and haproxy between two daemons, with the settings that the samples have."""

import re
import signal
import ssl
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from demo import dataset
from demo.daemon import ROOT, Daemon, free_ports
from tests.functional.live import HOST, LiveTestCase, ask, md5, peer_url, study_of, wait_until
from tests.real_parts import need
from txtransfers.wire.plan import Chunk, Instance, content_of

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

SECOND = ("127.0.0.1:8043", "127.0.0.1:9")
SLOW_S = 1.5
"""Seconds; a sixtieth of what a large commit takes."""

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
                return ask(port, "GET", "/plugins", context=self.context).status > 0
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


class SampleCase(ProxyCase):
    """The samples, as they are but for addresses and certificates."""

    def fitted(self, name: str, *places: tuple[str, str]) -> str:
        """A sample in which each of ``places`` was put in the place of what it has."""
        text = re.sub(r"(?m)^\s*#.*\n", "", (ROOT / "etc" / name).read_text(encoding="utf-8"))
        for theirs, ours in places:
            self.assertIn(theirs, text)
            text = text.replace(theirs, ours)
        return CERTIFICATE_PATHS.sub(str(self.certificate()), text)

    def run_sample(self, text: str, port: int, more: str = "") -> None:
        """Have the program run whose configuration it is. :param more: for nginx, besides."""
        if text.lstrip().startswith("global"):
            path = self.folder / "haproxy.cfg"
            path.write_text(text, encoding="utf-8")
            self.run_proxy([need(self, "haproxy"), "-f", path], port)
            return
        folder = self.folder / "nginx"
        folder.mkdir()
        (folder / "sample.conf").write_text(text, encoding="utf-8")
        main = folder / "nginx.conf"
        head = NGINX_FOR_SAMPLE.format(folder=folder).replace("access_log off;", more or "")
        main.write_text(head, encoding="utf-8")
        self.run_proxy([need(self, "nginx"), "-c", main, "-p", folder], port)

    def certificate(self) -> Path:
        """Certificate and key of the peer that the samples name, in one file."""
        openssl = need(self, "openssl")
        key, certificate = self.folder / "key.pem", self.folder / "certificate.pem"
        arguments = "req -x509 -nodes -days 1 -subj /CN=peer.example.org -newkey ec"
        arguments += " -pkeyopt ec_paramgen_curve:prime256v1"
        names = f"subjectAltName=DNS:peer.example.org,IP:{HOST}"
        files = ["-addext", names, "-keyout", key, "-out", certificate]
        subprocess.run(
            [openssl, *arguments.split(), *files], capture_output=True, timeout=60, check=True
        )
        both = self.folder / "both.pem"
        both.write_text(certificate.read_text() + key.read_text())
        self.context = ssl.create_default_context(cafile=str(certificate))
        return both

    def trusting(self, port: int, **more: Any) -> dict[str, Any]:
        """The settings of a daemon for which ``port``, of a proxy with TLS, is peer B."""
        peer = {"Url": f"https://{HOST}:{port}/", **more}
        certificate = str(self.folder / "certificate.pem")
        return {"OrthancPeers": {"B": peer}, "HttpsCACertificates": certificate}


class SampleTests(SampleCase):
    """By a sample from A into TLS, by the same one to B."""

    def check(self, name: str, inside: str) -> None:
        """:param inside: how the sample says that it listens for TLS; ``443`` is the port there."""
        out, tls, target = free_ports(3)
        text = self.fitted(
            name,
            (inside, re.sub(":?443", f"{HOST}:{tls}", inside)),
            ("127.0.0.1:8042", f"{HOST}:{target}"),
            ("127.0.0.1:8143", f"{HOST}:{out}"),
            ("192.0.2.10:443", f"{HOST}:{tls}"),
        )
        self.context = None  # A speaks HTTP to the proxy
        self.run_sample(text, out)
        self.move(out, target)

    def test_nginx(self) -> None:
        self.check("nginx-txtransfers.conf", "listen 443 ssl")

    def test_haproxy(self) -> None:
        self.check("haproxy-txtransfers.cfg", "bind :443 ssl")


class BalancerTests(SampleCase):
    """Two receivers behind one address: all requests of a push reach the same, pushes both."""

    def check(self, name: str, inside: str) -> None:
        by_id, by_cookie, one, two = free_ports(4)
        text = self.fitted(
            name,
            (inside.format(443), inside.replace(":", "").format(f"{HOST}:{by_id}")),
            (inside.format(8443), inside.replace(":", "").format(f"{HOST}:{by_cookie}")),
            ("127.0.0.1:8042", f"{HOST}:{one}"),
            ("127.0.0.1:8043", f"{HOST}:{two}"),
        )
        receivers = [self.start("one", one), self.start("two", two)]
        self.run_sample(text, by_id)
        settings = self.trusting(by_id) | {"Transfers": {"BucketSize": 64, "Threads": 4}}
        settings["OrthancPeers"]["C"] = {"Url": f"https://{HOST}:{by_cookie}/"}
        a = self.start("A", free_ports(1)[0], **settings)
        uploaded = self.upload(a, [dataset.multiframe(self.folder / "large.dcm", 10, 1)])
        self.spread(a, "B", receivers, uploaded)
        self.spread(a, "C", receivers, uploaded)

    def spread(self, a: Daemon, peer: str, receivers: list[Daemon], uploaded: Any) -> None:
        """Push until each receiver has had one; each is whole, in one place."""
        study = study_of(next(iter(uploaded.values())))
        reached = set()
        for number in range(40):
            self.transfer(a, "send", study, peer, SenderTransferID=f"push {number}")
            holders = [each for each in receivers if each.client.get("/instances")]
            self.assertEqual(1, len(holders), "all of a push reaches one receiver")
            self.assert_holds(holders[0], uploaded)
            holders[0].client.request("DELETE", f"/studies/{study[0]['ID']}")
            reached.add(holders[0].name)
            if len(reached) == 2:
                return
        self.fail(f"all pushes reached {reached}")

    def test_nginx(self) -> None:
        self.check("nginx-balancer-txtransfers.conf", "listen {} ssl")

    def test_haproxy(self) -> None:
        self.check("haproxy-balancer-txtransfers.cfg", "bind :{} ssl")


class SlowCommit(BaseHTTPRequestHandler):
    """A daemon that takes a bucket, and as long over it as a large commit."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def do_POST(self) -> None:
        size = int(self.headers["Content-Length"])
        taken = 0
        while taken < size:
            taken += len(self.rfile.read(min(2**20, size - taken)))
        self.server.ended.wait(SLOW_S)  # type: ignore[attr-defined]
        self.do_GET()

    def log_message(self, *_args: Any) -> None:
        pass


class PatienceTests(SampleCase):
    """The samples' times, all of them 60 times shorter: a commit of a minute and a half."""

    def spare(self, theirs: str, before: str = "") -> tuple[str, str]:
        """Another place to listen at, which is not asked."""
        return theirs, f"{before}{HOST}:{free_ports(1)[0]}"

    def check(self, name: str, *places: tuple[str, str]) -> None:
        server = ThreadingHTTPServer((HOST, 0), SlowCommit)
        server.ended = threading.Event()  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(server.shutdown)
        self.addCleanup(server.server_close)
        (port,) = free_ports(1)
        there = f"{HOST}:{server.server_address[1]}"
        text = self.fitted(
            name, *((theirs, ours.format(f"{HOST}:{port}")) for theirs, ours in places),
            ("127.0.0.1:8042", there),
        )  # fmt: skip
        text = re.sub(r"\b(\d+)0s\b", lambda found: f"{1000 * int(found[1]) // 6}ms", text)
        self.assertIn("11000ms", text)
        self.run_sample(text, port)
        answer = ask(
            port, "POST", "/transfers/push/x/commit", bytes(9 * 2**20), context=self.context
        )
        self.assertEqual((200, b"{}"), (answer.status, answer.body))

    def test_nginx(self) -> None:
        self.check(
            "nginx-txtransfers.conf",
            ("listen 443 ssl", "listen {} ssl"),
            self.spare("127.0.0.1:8143"),
        )

    def test_nginx_balancer(self) -> None:
        eight = self.spare("listen 8443", "listen ")
        self.check(
            "nginx-balancer-txtransfers.conf", ("listen 443 ssl", "listen {} ssl"), eight, SECOND
        )

    def test_nginx_cache(self) -> None:
        folder = ("/var/cache/nginx/txtransfers", str(self.folder / "cache"))
        self.check("nginx-cache-txtransfers.conf", ("listen 443 ssl", "listen {} ssl"), folder)

    def test_haproxy(self) -> None:
        self.check(
            "haproxy-txtransfers.cfg",
            ("bind :443 ssl", "bind {} ssl"),
            self.spare("127.0.0.1:8143"),
        )

    def test_haproxy_balancer(self) -> None:
        eight = self.spare("bind :8443", "bind ")
        self.check(
            "haproxy-balancer-txtransfers.cfg", ("bind :443 ssl", "bind {} ssl"), eight, SECOND
        )


class CacheTests(SampleCase):
    """nginx as a cache before C, from which A and B pull the same."""

    def setUp(self) -> None:
        super().setUp()
        self.folder.chmod(0o755)  # for nginx's workers, who are another user if we are root
        self.port, self.target = free_ports(2)
        self.cache = self.folder / "cache"
        text = self.fitted(
            "nginx-cache-txtransfers.conf",
            ("listen 443 ssl", f"listen {HOST}:{self.port} ssl"),
            ("127.0.0.1:8042", f"{HOST}:{self.target}"),
            ("/var/cache/nginx/txtransfers", str(self.cache)),
        )
        self.log = self.folder / "seen.log"
        seen = "log_format seen '$sent_http_x_cache_status $status $request_uri';"
        self.run_sample(text, self.port, f"{seen} access_log {self.log} seen;")

    def puller(self, name: str, **peer: Any) -> Daemon:
        fixed = {"Transfers": {"BucketSize": 256, "Threads": 2}}
        return self.start(name, free_ports(1)[0], **(self.trusting(self.port, **peer) | fixed))

    def seen(self) -> list[str]:
        """What was answered to requests for buckets since the last time: HIT, MISS, ..."""
        lines = [line for line in self.log.read_text().splitlines() if "/transfers/chunks/" in line]
        self.log.write_text("")
        for line in lines:
            self.assertEqual("200", line.split()[1], line)
        return [line.split()[0] for line in lines]

    def test_the_second_pull_comes_from_the_cache(self) -> None:
        c = self.start("C", self.target, OverwriteInstances=True)
        a, b = self.puller("A"), self.puller("B")
        path = dataset.multiframe(self.folder / "large.dcm", 10, 1)
        uploaded = self.upload(c, [path, *dataset.shipped(3)])
        patients = [{"Level": "Patient", "ID": id_} for id_ in c.client.get("/patients")]
        for compression in ("none", "gzip"):
            for daemon, expected in ((a, "MISS"), (b, "HIT")):
                self.transfer(daemon, "pull", patients, Compression=compression)
                self.assert_holds(daemon, uploaded)
                self.assertEqual({expected}, set(self.seen()), compression)
                for patient in patients:
                    daemon.client.request("DELETE", f"/patients/{patient['ID']}")

        # The same address as before, for who says nothing of the content: nobody keeps it.
        changed = bytearray(path.read_bytes())
        changed[-1000:] = bytes(1000)
        path.write_bytes(changed)
        (id_,) = (id_ for id_, told in uploaded.items() if told["File"] == path)
        plain = f"/transfers/chunks/{id_}"
        before = ask(self.port, "GET", plain, context=self.context)
        again = ask(self.port, "GET", plain, context=self.context)
        self.assertEqual(["MISS", "MISS"], self.seen())
        self.assertEqual(before.body, again.body)
        uploaded |= self.upload(c, [path])
        self.assertEqual(bytes(changed), ask(self.port, "GET", plain, context=self.context).body)
        self.seen()

        for daemon, expected in ((a, {"MISS", "HIT"}), (b, {"HIT"})):
            self.transfer(daemon, "pull", patients)
            self.assert_holds(daemon, uploaded)
            self.assertEqual(expected, set(self.seen()), "the others are still in the cache")

    def test_a_tag_is_enough_for_who_has_it(self) -> None:
        c = self.start("C", self.target)
        (id_, told), *_ = self.upload(c, dataset.shipped(1)).items()
        data = told["File"].read_bytes()
        instance = Instance(id_, len(data), md5(data))
        content = content_of((Chunk(id_, 0, len(data)),), {id_: instance})
        target = f"/transfers/chunks/{id_}?content={content}"
        first = ask(self.port, "GET", target, context=self.context)
        headers = {"If-None-Match": first.headers["etag"]}
        again = ask(self.port, "GET", target, None, headers, context=self.context)
        self.assertEqual((304, b""), (again.status, again.body))
        self.assertEqual("HIT", again.headers["x-cache-status"])
        head = ask(self.port, "HEAD", target, context=self.context)
        self.assertEqual((200, "HIT"), (head.status, head.headers["x-cache-status"]))

    def test_what_only_users_may_see_is_not_kept(self) -> None:
        c = self.start("C", self.target)
        uploaded = self.upload(c, dataset.shipped(3))
        patients = [{"Level": "Patient", "ID": id_} for id_ in c.client.get("/patients")]
        self.end(c, signal.SIGTERM)
        self.start("C", self.target, AuthenticationEnabled=True, RegisteredUsers={"a": "secret"})
        user = {"Username": "a", "Password": "secret"}
        for name in ("A", "B"):
            daemon = self.puller(name, **user)
            self.transfer(daemon, "pull", patients)
            self.assert_holds(daemon, uploaded)
            self.assertEqual({"MISS"}, set(self.seen()))
        self.assertEqual([], [path for path in self.cache.rglob("*") if path.is_file()])


class HaproxyTests(ProxyCase):
    def test_between_two_daemons_with_sticky_sessions(self) -> None:
        program = need(self, "haproxy")
        port, target = free_ports(2)
        path = Path(self.folder / "haproxy.cfg")
        path.write_text(HAPROXY.format(host=HOST, port=port, target=target))
        self.run_proxy([program, "-f", path], port)
        self.move(port, target)
