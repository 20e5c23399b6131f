"""TLS at both ends, seen by openssl, curl and real daemons."""

import base64
import contextlib
import datetime
import os
import signal
import socket
import ssl
import subprocess
from typing import Any

import trustme
from cryptography.hazmat.primitives import serialization as form

from demo import dataset
from demo.daemon import free_ports
from tests.functional.certified import CertifiedCase, ForwardProxy, Listener, write_json
from tests.functional.live import HOST, study_of, twistd, wait_until
from tests.real_parts import need

SECRET = "hunter2-is-no-password"
UTC = datetime.UTC


class PairTests(CertifiedCase):
    def test_every_kind_of_transfer(self) -> None:
        a, b = self.certified({"Transfers": {"BucketSize": 150}})
        uploaded = self.upload(a, self.files())
        study = study_of(next(iter(uploaded.values())))
        for compression in ("none", "gzip", "auto"):
            for daemon, route, peer in ((a, "send", "B"), (b, "pull", "A")):
                self.transfer(daemon, route, study, peer, Compression=compression)
                self.assert_holds(b, uploaded)
                b.client.request("DELETE", f"/studies/{study[0]['ID']}")
        wanted = {"Resources": study, "Compression": "none", "Peer": "B-pulls"}
        self.wait_for(b, a.client.post("/transfers/send", wanted)["RemoteJob"])
        self.assert_holds(b, uploaded)
        states = a.client.get("/transfers/peers")
        self.assertEqual({"B": "installed", "B-pulls": "bidirectional"}, states)
        self.assertIs(True, a.client.get("/system")["IsHttpServerSecure"])

    def test_bandwidth_is_limited_under_tls(self) -> None:
        a, _b = self.certified({"Transfers": {"Bandwidth": {"Upload": "16M", "Download": "16M"}}})
        uploaded = self.upload(a, self.files(10, 400))
        study = study_of(next(iter(uploaded.values())))
        job = self.transfer(a, "send", study)
        self.assertGreater(job["EffectiveRuntime"], 1.0)  # 4 MB at 2 MB/s
        a.client.request("DELETE", f"/studies/{study[0]['ID']}")
        job = self.transfer(a, "pull", study)
        self.assertGreater(job["EffectiveRuntime"], 1.0)
        self.assert_holds(a, uploaded)

    def test_a_whole_push_has_one_handshake_a_connection(self) -> None:
        """Connections are kept, and what comes after them is resumed: no bucket pays."""
        program, (port,) = need(self, "nginx"), free_ports(1)
        a, b = self.certified({"Transfers": {"BucketSize": 16, "Threads": 2}})
        log = self.run_nginx_before(program, port, b.port)
        peers = {"B": [f"https://{HOST}:{port}/"]}
        uploaded = self.upload(a, self.files(30, 20))
        study = study_of(next(iter(uploaded.values())))
        self.end(a, signal.SIGTERM)
        self._settings["A"]["OrthancPeers"] = peers
        a = self.again(a)
        self.transfer(a, "send", study)
        self.assert_holds(b, uploaded)
        lines = [line.split() for line in log.read_text().splitlines()]
        self.assertGreater(len(lines), 30)
        first = [reused for _connection, requests, reused in lines if requests == "1"]
        self.assertLess(len(first), len(lines) / 3)
        full = [reused for reused in first if reused != "r"]
        self.assertLessEqual(len(full), 3, "one a place, the others resumed or kept")

    def run_nginx_before(self, program: str, port: int, target: int) -> Any:
        """nginx with TLS both ways; it logs connection, request in it, whether it was resumed."""
        folder = self.folder / "nginx"
        folder.mkdir()
        log = folder / "access.log"
        (folder / "nginx.conf").write_text(
            f"""
            daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
            events {{ }}
            http {{
                log_format tls "$connection $connection_requests $ssl_session_reused";
                access_log {log} tls; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p;
                fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
                ssl_session_cache shared:tls:1m;
                server {{
                    listen {HOST}:{port} ssl; keepalive_requests 7;
                    ssl_certificate {self.server}; ssl_certificate_key {self.server};
                    location / {{
                        proxy_pass https://{HOST}:{target}; proxy_http_version 1.1;
                        proxy_ssl_name localhost; proxy_ssl_verify on;
                        proxy_ssl_trusted_certificate {self.folder}/ca.pem;
                        client_max_body_size 0; proxy_request_buffering off;
                    }}
                }}
            }}"""
        )
        process = subprocess.Popen(
            [program, "-c", folder / "nginx.conf", "-p", folder], stderr=subprocess.DEVNULL
        )
        self.addCleanup(process.wait, 10)
        self.addCleanup(process.terminate)

        def listens() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex((HOST, port)) == 0

        wait_until(listens, "nginx listens")
        return log


class ServerTests(CertifiedCase):
    def serve(self, **more: Any) -> Any:
        return self.start("A", free_ports(1)[0], **self.tls(**more))

    def test_versions_and_resumption(self) -> None:
        daemon = self.serve()
        for option, version in (("-tls1_3", "TLSv1.3"), ("-tls1_2", "TLSv1.2")):
            said = self.s_client(daemon.port, option, "-brief")
            self.assertIn(f"Protocol version: {version}", said)
            self.assertIn("Verification: OK", said)
            session = self.folder / f"session{option}"
            get = f"GET /plugins HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n"
            quiet = ("-ign_eof", option)
            self.s_client(daemon.port, *quiet, "-sess_out", str(session), said=get)
            said = self.s_client(daemon.port, *quiet, "-sess_in", str(session), said=get)
            self.assertIn("Reused, TLSv1", said)
            self.assertIn('"transfers"', said)
        for option in ("-tls1", "-tls1_1"):
            said = self.s_client(daemon.port, option, "-cipher", "ALL:@SECLEVEL=0")
            self.assertIn("Cipher is (NONE)", said)
        said = self.s_client(daemon.port, "-tls1_2", "-cipher", "AES128-SHA:AES256-GCM-SHA384")
        self.assertIn("Cipher is (NONE)", said)
        self.assertIn("TLS failed", daemon.log_tail())

    def test_the_newest_version_alone(self) -> None:
        daemon = self.serve(SslMinimumProtocolVersion=5)
        self.assertIn("Cipher is (NONE)", self.s_client(daemon.port, "-tls1_2"))
        self.assertIn("TLSv1.3", self.s_client(daemon.port, "-tls1_3", "-brief"))

    def test_ciphers_that_are_named(self) -> None:
        names = ["ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-GCM-SHA256"]
        daemon = self.serve(SslCiphersAccepted=[*names, "TLS_AES_128_GCM_SHA256"])
        for option, cipher in (("-tls1_2", "AES128-GCM"), ("-tls1_3", "TLS_AES_128_GCM_SHA256")):
            self.assertIn(cipher, self.s_client(daemon.port, option, "-brief"))
        said = self.s_client(daemon.port, "-tls1_3", "-ciphersuites", "TLS_AES_256_GCM_SHA384")
        self.assertIn("Cipher is (NONE)", said)

    def test_a_certificate_that_expires_soon(self) -> None:
        soon = datetime.datetime.now(UTC) + datetime.timedelta(days=9, hours=12)
        self.issue("server.pem", HOST, not_after=soon)
        daemon = self.serve()
        wait_until(lambda: "expires in 9 days" in daemon.log_tail(), "the log says so")
        self.assertIn("SslCertificate: a certificate in", daemon.log_tail())

    def test_plain_http_at_the_port_of_tls(self) -> None:
        daemon = self.serve()
        with socket.create_connection((HOST, daemon.port), 10) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            said = b""
            while data := plain.recv(1000):
                said += data
        self.assertNotIn(b"HTTP/", said)
        wait_until(lambda: "TLS failed: http request" in daemon.log_tail(), "the log says so")

    def test_a_new_certificate_without_a_restart(self) -> None:
        daemon = self.serve()
        before = self.shown(daemon.port)
        raw = socket.create_connection((HOST, daemon.port), 10)
        assert self.context is not None
        kept = self.context.wrap_socket(raw, server_hostname=HOST)
        self.addCleanup(kept.close)
        ask = b"GET /plugins HTTP/1.1\r\nHost: x\r\n\r\n"
        kept.sendall(ask)
        self.assertIn(b"200 OK", kept.recv(4096))
        self.issue("server.pem", HOST)
        os.kill(daemon.pid, signal.SIGHUP)
        wait_until(lambda: "was read anew" in daemon.log_tail(), "the log says so")
        self.assertNotEqual(before, self.shown(daemon.port))
        kept.sendall(ask)
        self.assertIn(b"200 OK", kept.recv(4096), "a connection goes on")
        now = self.shown(daemon.port)
        self.server.write_text("nothing")
        wait_until(lambda: "stays as it was" in daemon.log_tail(), "it notices by itself")
        self.assertIn("SslCertificate", daemon.log_tail())
        self.assertIn("holds no certificate", daemon.log_tail())
        self.assertEqual(now, self.shown(daemon.port))

    def shown(self, port: int) -> str:
        return ssl.get_server_certificate((HOST, port), timeout=10)

    def test_clients_must_show_a_certificate(self) -> None:
        other = trustme.CA()
        mine = self.issue("mine.pem", "client.example.org")
        foreign = self.issue("foreign.pem", "client.example.org", ca=other)
        daemon_port = free_ports(1)[0]
        assert self.context is not None
        self.context.load_cert_chain(mine)
        trusted = str(self.folder / "ca.pem")
        settings = self.tls(SslVerifyPeers=True, SslTrustedClientCertificates=trusted)
        audit = self.folder / "audit.log"
        daemon = self.start("A", daemon_port, AuditLog=str(audit), **settings)
        for arguments in ((), ("--cert", str(foreign))):
            refused = self.curl(daemon.port, *arguments)
            self.assertNotEqual(0, refused.returncode)
            self.assertEqual("000", refused.stdout)
        self.assertEqual("200", self.curl(daemon.port, "--cert", str(mine)).stdout)
        log = daemon.log_tail()
        self.assertIn("TLS failed: peer did not return a certificate", log)
        self.curl(daemon.port, "--cert", str(mine), "-d", "x", path="/instances")
        wait_until(audit.exists, "the audit log")
        self.assertIn("certificate client.example.org@127.0.0.1", audit.read_text())
        said = self.s_client(daemon.port, "-cert", str(mine))
        self.assertIn("Acceptable client certificate CA names", said)

    def test_starts_that_cannot_be(self) -> None:
        other = trustme.CA().issue_cert(HOST)
        wrong = self.folder / "wrong.pem"
        text = self.server.read_text()
        key_end = text.index("-----BEGIN CERTIFICATE")
        wrong.write_text(text[:key_end] + other.cert_chain_pems[0].bytes().decode())
        empty = self.folder / "empty.pem"
        empty.write_text("")
        keyless = self.folder / "keyless.pem"
        keyless.write_text(text[key_end:])
        trusted = str(empty)
        for settings, words in (
            ({"SslCertificate": "absent.pem"}, ("SslCertificate", "absent.pem", "cannot be read")),
            ({"SslCertificate": str(empty)}, ("SslCertificate", "holds no certificate")),
            ({"SslCertificate": str(keyless)}, ("SslCertificate", "holds no private key")),
            ({"SslCertificate": str(wrong)}, ("SslCertificate", "is not that of the first")),
            ({"SslCiphersAccepted": ["ROT13"]}, ("SslCiphersAccepted", "ROT13")),
            (
                {"SslVerifyPeers": True, "SslTrustedClientCertificates": trusted},
                ("SslTrustedClientCertificates", "holds no certificate"),
            ),
            (
                {"OrthancPeers": {"B": {"Url": "https://b", "CertificateFile": "no.pem"}}},
                ("OrthancPeers.B.CertificateFile", "cannot be read"),
            ),
        ):
            store = str(self.folder / "store")
            path = write_json(
                self.folder / "c.json", self.tls(StorageDirectory=store, HttpPort=0) | settings
            )
            done = twistd(["-n", "--pidfile=", "txtransfers", "-c", path], self.folder)
            said = done.stdout + done.stderr
            self.assertNotEqual(0, done.returncode, said)
            self.assert_says(said, "txtransfers: ", *words)


class BadClientTests(CertifiedCase):
    """Clients that are slow, silent or rude, by TLS."""

    def secure(self, port: int) -> ssl.SSLSocket:
        assert self.context is not None
        raw = socket.create_connection((HOST, port), 30)
        secure = self.context.wrap_socket(raw, server_hostname=HOST)
        self.addCleanup(secure.close)
        return secure

    def test_an_answer_before_the_body_gets_through(self) -> None:
        """Also where so much of it is left that the connection is ended."""
        users = {"AuthenticationEnabled": True, "RegisteredUsers": {"alice": SECRET}}
        daemon = self.start("A", free_ports(1)[0], **self.tls(**users))
        body = self.folder / "body"
        for megabytes in (2, 50):
            with body.open("wb") as file:
                file.truncate(megabytes * 2**20)
            done = self.curl(daemon.port, "--data-binary", f"@{body}", path="/instances")
            self.assertEqual("401", done.stdout, done.stderr)

    def test_readers_that_stop_take_no_memory(self) -> None:
        daemon = self.start("A", free_ports(1)[0], **self.tls())
        path = dataset.multiframe(self.folder / "large.dcm", 48, 1)
        id_ = next(iter(self.upload(daemon, [path])))
        before = daemon.memory("VmRSS")
        readers = [self.secure(daemon.port) for _ in range(4)]
        for reader in readers:
            reader.sendall(f"GET /transfers/chunks/{id_} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            self.assertTrue(reader.recv(1))
        self.transfer_nothing(daemon)
        self.assertLess(daemon.memory("VmRSS") - before, 40 * 1024, "KB; 4 x 48 MB were asked for")
        size = 0
        while size < 48 * 2**20:
            data = readers[0].recv(2**20)
            self.assertTrue(data)
            size += len(data)

    def transfer_nothing(self, daemon: Any) -> None:
        """Give the daemon time to do what it should not do."""
        for _ in range(20):
            daemon.client.get("/statistics")

    def test_who_never_shakes_hands_is_given_up(self) -> None:
        daemon = self.start("A", free_ports(1)[0], **self.tls(HttpTimeout=1))
        for said in (b"", b"\x16\x03\x01\x02\x00\x01"):
            with socket.create_connection((HOST, daemon.port), 30) as client:
                client.sendall(said)
                with contextlib.suppress(ConnectionResetError):
                    while client.recv(1000):  # raises where nothing comes for 30 s
                        pass

    def test_a_peer_that_never_shakes_hands_is_given_up(self) -> None:
        def hold(connection: socket.socket) -> None:
            while connection.recv(1000):
                pass

        silent = Listener(hold)
        self.addCleanup(silent.close)
        a, _uploaded, study = self.client_of(f"https://{HOST}:{silent.port}/", HttpTimeout=1)
        self.assert_says(self.failure(a, "send", study), "no progress for 1 s")


class ClientTests(CertifiedCase):
    """What a job says of a peer whose certificate is not what it must be."""

    def refusal(self, **settings: Any) -> str:
        """The sentence; B is another daemon, which shows ``server.pem``."""
        b = self.start("B", free_ports(1)[0], **self.tls())
        a, _uploaded, study = self.client_of(f"https://{HOST}:{b.port}/", **settings)
        said = self.failure(a, "send", study)
        self.assert_says(said, 'Peer "B"', f"https://{HOST}:{b.port}/")
        self.assertEqual({"B": "disabled"}, a.client.get("/transfers/peers"))
        return said

    def use(self, *identities: str, **more: Any) -> None:
        self.issue("server.pem", *identities, **more)
        assert self.context is not None
        self.context.check_hostname = False
        self.context.verify_mode = ssl.CERT_NONE

    def test_another_name(self) -> None:
        self.use("pacs.example.org", "192.0.2.7")
        said = self.refusal()
        self.assert_says(
            said, "check of its name", "pacs.example.org, 192.0.2.7", f"not for {HOST}"
        )

    def test_expired(self) -> None:
        self.use(HOST, not_after=datetime.datetime(2020, 1, 2, 3, 4, tzinfo=UTC))
        self.assert_says(self.refusal(), "check of its date", "expired at 2020-01-02 03:04 UTC")

    def test_not_yet_valid(self) -> None:
        later = datetime.datetime(2090, 1, 2, tzinfo=UTC)
        self.use(HOST, not_before=later, not_after=datetime.datetime(2091, 1, 2, tzinfo=UTC))
        self.assert_says(self.refusal(), "check of its date", "not valid before 2090-01-02")

    def test_an_unknown_ca(self) -> None:
        self.use(HOST, ca=trustme.CA(organization_name="Somebody else"))
        said = self.refusal()
        self.assert_says(said, "check of its chain", "Somebody else", "HttpsCACertificates")

    def test_the_system_s_cas(self) -> None:
        said = self.refusal(HttpsCACertificates="")
        self.assert_says(said, "check of its chain", "HttpsCACertificates")

    def test_a_certificate_in_between_is_missing(self) -> None:
        issued = self.ca.create_child_ca().issue_cert(HOST)
        self.server.write_bytes(issued.private_key_pem.bytes() + issued.cert_chain_pems[0].bytes())
        assert self.context is not None
        self.context.check_hostname = False
        self.context.verify_mode = ssl.CERT_NONE
        self.assert_says(self.refusal(), "check of its chain", "those in between")

    def test_it_wants_a_certificate(self) -> None:
        trusted = str(self.folder / "ca.pem")
        assert self.context is not None
        self.context.load_cert_chain(self.issue("mine.pem", "me"))
        settings = self.tls(SslVerifyPeers=True, SslTrustedClientCertificates=trusted)
        b = self.start("B", free_ports(1)[0], **settings)
        a, _uploaded, study = self.client_of(f"https://{HOST}:{b.port}/")
        said = self.failure(a, "send", study)
        self.assert_says(said, "refuses us", "certificate required", "CertificateFile")

    def test_no_tls_there(self) -> None:
        b = self.start("B", free_ports(1)[0])
        a, _uploaded, study = self.client_of(f"https://{HOST}:{b.port}/")
        self.assert_says(self.failure(a, "send", study), "does not speak TLS", "http://")

    def test_nothing_is_sent_before_the_certificate_is_verified(self) -> None:
        heard: list[bytes] = []
        self.use("pacs.example.org")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.server)

        def listen(connection: socket.socket) -> None:
            with context.wrap_socket(connection, server_side=True) as tls:
                heard.append(tls.recv(65536))

        impostor = Listener(listen)
        self.addCleanup(impostor.close)
        url = f"https://{HOST}:{impostor.port}/"
        peers = {"B": {"Url": url, "Username": "alice", "Password": SECRET}}
        a, _uploaded, study = self.client_of(url, OrthancPeers=peers)
        self.assert_says(self.failure(a, "send", study), "check of its name")
        self.assertEqual(b"", b"".join(heard))

    def test_without_verification(self) -> None:
        self.use("pacs.example.org", ca=trustme.CA())
        b = self.start("B", free_ports(1)[0], **self.tls())
        a, uploaded, study = self.client_of(f"https://{HOST}:{b.port}/", HttpsVerifyPeers=False)
        self.transfer(a, "send", study)
        self.assert_holds(b, uploaded)
        self.assertRegex(a.log_tail(1000), "warn.*HttpsVerifyPeers is false")

    def test_our_certificate(self) -> None:
        """With its key in a file of its own, which has a password."""
        issued = self.ca.issue_cert("client.example.org")
        key = form.load_pem_private_key(issued.private_key_pem.bytes(), None)
        (self.folder / "my.key").write_bytes(
            key.private_bytes(
                form.Encoding.PEM,
                form.PrivateFormat.PKCS8,
                form.BestAvailableEncryption(SECRET.encode()),
            )
        )
        issued.cert_chain_pems[0].write_to_path(str(self.folder / "my.crt"))
        mine = {
            "CertificateFile": str(self.folder / "my.crt"),
            "CertificateKeyFile": str(self.folder / "my.key"),
            "CertificateKeyPassword": SECRET,
        }
        assert self.context is not None
        self.context.load_cert_chain(self.issue("asker.pem", "asker"))
        trusted = str(self.folder / "ca.pem")
        b_settings = {"SslVerifyPeers": True, "SslTrustedClientCertificates": trusted}
        a, b = self.certified(b=b_settings, **mine)
        uploaded = self.upload(a, self.files())
        self.transfer(a, "send", study_of(next(iter(uploaded.values()))))
        self.assert_holds(b, uploaded)
        self.assertNotIn(SECRET, a.log_tail(10_000))


class ProxyTests(CertifiedCase):
    """``HttpProxy``, with a proxy of the test's own."""

    login = "Basic " + base64.b64encode(f"alice:{SECRET}".encode()).decode()

    def proxy(self, **more: Any) -> ForwardProxy:
        proxy = ForwardProxy(**more)
        self.addCleanup(proxy.close)
        return proxy

    def move(self, url: str, proxy: ForwardProxy, b: Any, login: str = "") -> None:
        a, uploaded, study = self.client_of(url, HttpProxy=f"{login}{HOST}:{proxy.port}")
        self.transfer(a, "send", study)
        self.assert_holds(b, uploaded)
        self.assertNotIn(SECRET, a.log_tail(10_000))

    def test_connect(self) -> None:
        proxy = self.proxy(login=self.login)
        b = self.start("B", free_ports(1)[0], **self.tls())
        self.move(f"https://{HOST}:{b.port}/", proxy, b, f"alice:{SECRET}@")
        expected = (f"CONNECT {HOST}:{b.port} HTTP/1.1", self.login)
        self.assertEqual({expected}, set(proxy.asked))

    def test_whole_addresses(self) -> None:
        proxy = self.proxy(login=self.login)
        b = self.start("B", free_ports(1)[0])
        self.move(f"http://{HOST}:{b.port}/", proxy, b, f"alice:{SECRET}@")
        for line, given in proxy.asked:
            self.assertIn(f" http://{HOST}:{b.port}/", line)
            self.assertEqual(self.login, given)

    def test_it_is_down(self) -> None:
        (port,) = free_ports(1)
        for url in ("https://192.0.2.1/", "http://192.0.2.1/"):
            settings = {"HttpProxy": f"{HOST}:{port}", "OrthancPeers": {"B": [url]}}
            a = self.start("A", free_ports(1)[0], **settings)
            said = self.failure(a, "send", [])
            self.assert_says(said, "refused", f"reached by the proxy {HOST}:{port} (HttpProxy)")
            self.end(a, signal.SIGTERM)

    def test_what_it_refuses(self) -> None:
        for url, more, words in (
            ("https://192.0.2.1/", {"login": self.login}, "wants a user and a password"),
            ("http://192.0.2.1/", {"login": self.login}, "wants a user and a password"),
            ("https://192.0.2.1/", {"refuse": 403}, "does not allow this peer (403)"),
            ("https://192.0.2.1/", {"refuse": 502}, "answered 502; can it reach the peer?"),
        ):
            proxy = self.proxy(**more)
            settings = {"HttpProxy": f"{HOST}:{proxy.port}", "OrthancPeers": {"B": [url]}}
            a = self.start("A", free_ports(1)[0], **settings)
            said = self.failure(a, "send", [])
            self.assert_says(said, 'Peer "B"', f"proxy {HOST}:{proxy.port} (HttpProxy)", words)
            self.end(a, signal.SIGTERM)
