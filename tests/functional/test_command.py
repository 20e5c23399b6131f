"""The command against real daemons: what it says, how it ends, without a terminal and at one."""

import json
import os
import re
import signal
import subprocess
import sys
import zipfile
from typing import Any

from demo import dataset
from demo.daemon import ROOT, Daemon, free_ports
from tests.dicom_files import make
from tests.functional.commands import CommandCase
from tests.functional.live import HOST, peer_url, wait_until
from tests.functional.terminal import Terminal
from tests.real_parts import need

SLOW = {"Transfers": {"Bandwidth": "24M", "BucketSize": 256, "Threads": 2}}
"""3 MB a second: a transfer of SLICES takes some seconds."""

SLICES = 16


class ArchiveCase(CommandCase):
    """Two daemons; A holds a study of a few MB, called ACC, of the patient P."""

    settings: Any = {}

    def setUp(self) -> None:
        super().setUp()
        self.a, self.b = self.pair(**self.settings)
        files = dataset.ct_series(self.folder / "files", SLICES, 512, 1, patient_id="P")
        self.uploaded = self.upload(self.a, files)
        (self.study,) = self.a.client.get("/studies?expand")
        self.name = self.study["MainDicomTags"]["AccessionNumber"]


class TransferTests(ArchiveCase):
    def test_send(self) -> None:
        text = self.succeeds("send", self.name, "--to", "B", at=self.a)
        self.assertRegex(text, rf"Success: {SLICES} instances, 8\.4 MB, in [\d.]+ s \(")
        self.assert_holds(self.b, self.uploaded)
        told = json.loads(
            self.succeeds("send", "P", "--to", "B", "--json", "--compression", "none", at=self.a)
        )
        self.assertEqual(("Success", SLICES), (told["State"], told["Content"]["SkippedInstances"]))

    def test_send_where_the_peer_pulls(self) -> None:
        text = self.succeeds("send", self.study["ID"], "--to", "B-pulls", at=self.a)
        self.assertIn("Success", text)
        self.assertEqual("PullTransfer", self.only_job(self.b)["Type"])
        self.assert_holds(self.b, self.uploaded)

    def test_receive(self) -> None:
        uid = self.study["MainDicomTags"]["StudyInstanceUID"]
        for number, name in enumerate((self.name, "P", uid, self.study["ID"])):
            text = self.succeeds("receive", name, "--from", "A", at=self.b)
            self.assertIn("Success", text)
            self.assertEqual(number + 1, len(self.b.client.get("/jobs")))
        self.assert_holds(self.b, self.uploaded)
        self.assertIn("called 'X'", self.fails(4, "receive", "X", "--from", "A", at=self.b))
        self.assertIn("Unknown peer", self.fails(4, "receive", "P", "--from", "X", at=self.b))

    def test_names_that_are_not_clear(self) -> None:
        self.upload(self.a, [self.put("1", make(1, study=8, patient="P", StudyDescription="Head"))])
        said = self.fails(4, "send", "P", "--to", "B", at=self.a)
        self.assertIn("2 studies", said)
        self.assertIn(self.study["ID"], said)
        self.assertIn("Head", said)
        self.assertIn("called 'Q'", self.fails(4, "send", "Q", "--to", "B", at=self.a))
        self.assertIn("OrthancPeers has", self.fails(4, "send", self.name, "--to", "X", at=self.a))
        self.assertEqual([], self.a.client.get("/jobs"))
        self.assertIn("Success", self.succeeds("send", "P", "--all", "--to", "B", at=self.a))
        self.assertEqual(1, len(self.a.client.get("/jobs")), "one transfer")
        self.assertEqual(2, len(self.b.client.get("/studies")))

    def put(self, name: str, data: bytes) -> Any:
        path = self.folder / name
        path.write_bytes(data)
        return path

    def test_a_transfer_that_fails(self) -> None:
        self.end(self.b, signal.SIGTERM)
        done = self.run_command("send", self.name, "--to", "B", at=self.a)
        self.assertEqual(1, done.status)
        self.assertIn("Failure: ", done.out)
        self.assertIn("connection refused", done.out)
        told = self.run_command("send", self.name, "--to", "B", "--json", at=self.a)
        self.assertEqual((1, "Failure"), (told.status, json.loads(told.out)["State"]))

    def test_a_daemon_that_cannot_be_used(self) -> None:
        (port,) = free_ports(1)
        nowhere = f"http://{HOST}:{port}/"
        self.assertIn("refused", self.fails(3, "jobs", "--url", nowhere))

    def test_peers_and_find(self) -> None:
        self.assertRegex(self.succeeds("peers", at=self.a), r"B\s+reachable\s+is pushed")
        told = json.loads(self.succeeds("peers", "--json", at=self.a))
        self.assertEqual(["B", "B-pulls"], [peer["Name"] for peer in told])
        self.assertIn(self.study["ID"], self.succeeds("find", "müster", at=self.a))
        (told,) = json.loads(self.succeeds("find", "PatientID=P", "--json", at=self.a))
        self.assertEqual(self.study["ID"], told["ID"])
        self.assertIn("Nothing", self.fails(4, "find", "nobody", at=self.a))
        rows = self.succeeds("find", "P", "--level", "patient", at=self.a).splitlines()
        self.assertEqual(2, len(rows))


class ClientTests(ArchiveCase):
    def test_the_example_of_the_docs(self) -> None:
        page = (ROOT / "docs" / "command.md").read_text(encoding="utf-8")
        block = re.search(r"```python\n(.*?)```", page, re.DOTALL)
        assert block is not None
        code = block[1].replace("http://127.0.0.1:8042/", self.a.url)
        done = subprocess.run(
            [sys.executable, "-c", code.replace("ACC226050", self.name)],
            env=self.variables(None, {}),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        self.assertEqual(0, done.returncode, done.stderr)
        self.assertEqual("Success", done.stdout.splitlines()[-1].strip())
        self.assert_holds(self.b, self.uploaded)


class HostileTests(ArchiveCase):
    def test_names_in_files_do_nothing_to_a_terminal(self) -> None:
        name = "\x1b[2J[red]<script>\x9b31m"
        path = self.folder / "hostile"
        path.write_bytes(make(1, study=9, patient="P9", PatientName=name, AccessionNumber="H1"))
        self.upload(self.a, [path])
        terminal = self.at_terminal("find", "P9", at=self.a)
        self.assertEqual(0, terminal.end())
        self.assertIn("[red]<script>", terminal.text)
        self.assertNotIn("\x1b[2J", terminal.raw)
        self.assertNotIn("\x9b", terminal.raw)


class AccessTests(CommandCase):
    def test_credentials(self) -> None:
        (port,) = free_ports(1)
        users = {"alice": "geheim"}
        a = self.start("A", port, AuthenticationEnabled=True, RegisteredUsers=users)
        self.assertIn("RegisteredUsers", self.fails(3, "jobs", at=a))
        login = {"TXTRANSFERS_USER": "alice", "TXTRANSFERS_PASSWORD": "geheim"}
        self.succeeds("jobs", at=a, **login)
        self.assertEqual(3, self.status("jobs", at=a, **login | {"TXTRANSFERS_PASSWORD": "x"}))
        path = self.folder / "credentials"
        path.write_text("alice:geheim\n")
        path.chmod(0o600)
        self.succeeds("jobs", "--credentials", path, at=a)
        self.succeeds("--credentials", path, "jobs", at=a)
        path.chmod(0o644)
        self.assertIn("chmod 600", self.fails(2, "jobs", "--credentials", path, at=a))
        configuration = next(self.folder.glob("life-*/A/A.json"))
        self.succeeds("jobs", "-c", configuration)
        self.succeeds("-c", configuration, "jobs")


class SlowCase(ArchiveCase):
    """A transfer takes some seconds."""

    settings = SLOW

    @property
    def sending(self) -> list[str]:
        """The words that send the study as it is."""
        return ["send", self.name, "--to", "B", "--compression", "none"]

    def limit(self, figure: str) -> None:
        """Let A send so fast, and no faster: what a test interrupts is not to end before."""
        body = json.dumps({"Upload": figure}).encode()
        self.a.client.request("PUT", "/transfers/bandwidth", body)

    def send(self) -> Terminal:
        """Send, at a terminal; wait until something has arrived."""
        terminal = self.at_terminal(*self.sending, at=self.a)
        terminal.wait_for(r"Running \w{8} .* of 8\.4 MB")
        return terminal


class TerminalTests(SlowCase):
    def test_a_bar_with_rate_and_eta(self) -> None:
        terminal = self.send()
        terminal.wait_for(r"\d+ %  [\d.]+ [kM]B of 8\.4 MB  [\d.]+ [kM]B/s  ETA \d+:\d\d")
        self.assertIn("\u2501", terminal.text)
        self.assertEqual(0, terminal.end())
        self.assertRegex(terminal.text, rf"Success: {SLICES} instances")

    def test_interrupted_and_cancelled(self) -> None:
        self.limit("1M")
        terminal = self.send()
        terminal.type("\x03")
        terminal.wait_for("Cancel the transfer, leave it running, or wait on")
        terminal.type("cancel\r")
        self.assertEqual(1, terminal.end())
        self.assertIn("Failure", terminal.text)
        self.assertEqual("Failure", self.only_job(self.a)["State"])
        self.assertEqual([], self.b.client.get("/instances"))

    def test_interrupted_and_left(self) -> None:
        self.limit("1M")
        for answer in ("leave\r", "\r", "\x03"):
            terminal = self.send()
            terminal.type("\x03")
            terminal.wait_for(r"wait on.*\[leave\]")
            terminal.type(answer)
            self.assertEqual(5, terminal.end())
            self.assertIn("txtransfers jobs --watch", terminal.text)
            (id_,) = [
                job["ID"] for job in self.a.client.get("/jobs?expand") if job["State"] == "Running"
            ]
            if answer != "\x03":
                self.a.client.request("POST", f"/jobs/{id_}/cancel", b"")
        self.limit("0")
        self.wait_for(self.a, id_)
        self.assert_holds(self.b, self.uploaded)

    def test_interrupted_and_waited_on(self) -> None:
        self.limit("1M")
        terminal = self.send()
        terminal.type("\x03")
        place = terminal.wait_for("wait on")
        terminal.type("wait\r")
        terminal.wait_for("Running", place)
        self.limit("0")
        self.assertEqual(0, terminal.end())

    def test_a_narrow_terminal(self) -> None:
        terminal = self.at_terminal(*self.sending, at=self.a, columns=40)
        self.assertEqual(0, terminal.end())

    def test_jobs_are_watched(self) -> None:
        terminal = self.at_terminal("jobs", "--watch", at=self.a)
        terminal.wait_for("Job ")
        resources = [{"Level": "Study", "ID": self.study["ID"]}]
        job = self.submit(self.a, "send", resources)
        terminal.wait_for(rf"{job[:8]} +Running")
        terminal.wait_for(rf"{job[:8]} +Success")
        terminal.type("\x03")
        self.assertEqual(0, terminal.end())


class WithoutTerminalTests(SlowCase):
    def test_a_line_a_second(self) -> None:
        text = self.succeeds(*self.sending, at=self.a)
        lines = [line for line in text.splitlines() if "Running" in line]
        self.assertGreaterEqual(len(lines), 3, text)
        line = r"Running  \d+ %  [\d.]+ [kM]B of 8\.4 MB  [\d.]+ [kM]B/s  \d:\d\d left"
        self.assertRegex(text, line)
        self.assertNotIn("\x1b", text)

    def test_interrupted(self) -> None:
        """Nobody can be asked: the transfer goes on."""
        self.limit("1M")
        with self.begin_command(*self.sending, at=self.a) as process:
            wait_until(lambda: self.a.client.get("/jobs"), "a job")
            assert process.stdout is not None
            process.stdout.readline()
            process.send_signal(signal.SIGINT)
            _out, err = process.communicate(timeout=60)
        self.assertEqual(5, process.returncode)
        job = self.only_job(self.a)["ID"]
        self.assertIn(f"goes on as job {job}", err)
        self.limit("0")
        self.assert_waited(job)

    def assert_waited(self, job: str) -> None:
        """``jobs --watch JOB`` ends with the job, and as it does."""
        text = self.succeeds("jobs", "--watch", job[:6], at=self.a)
        self.assertIn("Success", text)
        self.assertEqual("Success", self.only_job(self.a)["State"])
        told = self.succeeds("jobs", "--watch", job[:6], "--json", at=self.a)
        self.assertEqual("Success", json.loads(told.splitlines()[0])["State"])

    def test_a_daemon_that_is_restarted_meanwhile(self) -> None:
        self.limit("1M")
        with self.begin_command(*self.sending, at=self.a) as process:
            assert process.stdout is not None
            while "of 8.4 MB" not in process.stdout.readline():
                pass
            self.end(self.a, signal.SIGKILL)
            self.a = self.again(self.a)
            out, err = process.communicate(timeout=60)
        self.assertEqual(0, process.returncode, out + err)
        self.assertIn("waiting for the daemon", err)
        self.assert_holds(self.b, self.uploaded)

    def test_actions(self) -> None:
        self.limit("1M")
        resources = [{"Level": "Study", "ID": self.study["ID"]}]
        job = self.submit(self.a, "send", resources)
        short = job[:7]
        self.assertIn("Paused", self.succeeds("pause", short, at=self.a))
        self.assertIn("Paused", self.succeeds("jobs", short.upper(), at=self.a))
        self.assertIn("goes on", self.succeeds("resume", short, at=self.a))
        (told,) = json.loads(self.succeeds("cancel", short, "--json", at=self.a))
        self.assertEqual("Failure", told["State"])
        self.assertIn("state is Failure", self.fails(1, "resume", short, at=self.a))
        self.assertEqual(1, self.status("jobs", "--watch", short, at=self.a))
        self.assertIn("submitted again", self.succeeds("resubmit", short, at=self.a))
        self.assertIn("has no receipt", self.fails(4, "receipt", short, at=self.a))
        self.assertIn("No job begins", self.fails(4, "cancel", "zz", at=self.a))
        self.limit("0")
        self.succeeds("jobs", "--watch", short, at=self.a)
        self.assertEqual(job, json.loads(self.succeeds("receipt", short, at=self.a))["Job"])
        self.assertIn(short, self.succeeds("jobs", at=self.a))


class ImportTests(CommandCase):
    def setUp(self) -> None:
        super().setUp()
        self.a = self.start("A", free_ports(1)[0], MaximumStorageSize=8)
        self.discs = self.folder / "discs"
        dataset.ct_series(self.discs / "one", 3, 32, 1)
        dataset.ct_series(self.discs / "two" / "deep", 2, 32, 2)
        for name, data in (("readme.txt", b"hello"), ("empty", b""), ("DICOMDIR", make(1))):
            (self.discs / name).write_bytes(data)
        (self.discs / "broken.dcm").write_bytes(make(1)[:200])
        os.mkfifo(self.discs / "pipe")
        os.symlink("..", self.discs / "one" / "round")
        with zipfile.ZipFile(self.discs / "more.zip", "w") as archive:
            archive.writestr("1", make(1))
            archive.writestr("readme", b"hello")

    def test_a_folder_with_junk(self) -> None:
        done = self.run_command("import", self.discs, at=self.a)
        self.assertEqual(0, done.status, done)
        self.assertIn(
            "6 instances stored, 4 files skipped, which are not DICOM; 3 studies", done.out
        )
        self.assertIn("broken.dcm", done.err)
        told = json.loads(self.succeeds("import", self.discs, "--json", at=self.a))
        self.assertEqual(
            (0, 6, 4, 0, 3),
            (
                *(told[name] for name in ("Stored", "AlreadyStored", "Skipped", "Failed")),
                len(told["Studies"]),
            ),
        )
        self.assertEqual(6, len(self.a.client.get("/instances")))

    def test_no_room(self) -> None:
        (self.discs / "large.dcm").write_bytes(make(2, filler=9 * 2**20))
        done = self.run_command("import", self.discs, at=self.a)
        self.assertEqual(1, done.status, done)
        self.assertIn("1 failed", done.out)
        self.assertIn("large.dcm", done.err)
        self.assertIn("507", done.err)
        self.assertEqual(6, len(self.a.client.get("/instances")))

    def test_a_bar(self) -> None:
        for number in range(200):
            (self.discs / f"n{number}").write_bytes(make(number + 10, filler=4096))
        terminal = self.at_terminal("import", self.discs, "--parallel", "1", at=self.a)
        terminal.wait_for(r"Import .*\d+ of 2\d\d files")
        self.assertEqual(0, terminal.end())
        self.assertIn("206 instances stored", terminal.text)

    def test_interrupted(self) -> None:
        for number in range(400):
            (self.discs / f"n{number}").write_bytes(make(number + 10, filler=4096))
        terminal = self.at_terminal("import", self.discs, "--parallel", "1", at=self.a)
        terminal.wait_for(r"\d+ of \d+ files")
        terminal.type("\x03")
        self.assertEqual(130, terminal.end())
        self.assertIn("what was stored stays", terminal.text)

    def test_what_is_not_there(self) -> None:
        self.assertEqual(2, self.status("import", "absent", at=self.a))


class DoctorTests(CommandCase):
    def doctor(self, *words: Any, at: Daemon | None = None, status: int = 0) -> str:
        done = self.run_command("doctor", *words, at=at)
        self.assertEqual(status, done.status, done)
        return done.out

    def failed(self, text: str) -> str:
        """The step that failed."""
        (step,) = re.findall(r"FAILED +(.*?):", text)
        return str(step)

    def test_all_is_well(self) -> None:
        a, b = self.pair()
        text = self.doctor("B-pulls", at=a)
        self.assertNotIn("FAILED", text)
        self.assertIn("it reaches us as", text)
        told = json.loads(self.doctor("B", "--json", at=a))
        self.assertTrue(told["Passed"])
        self.assertEqual("Name resolved", told["Peer"][0]["Step"])
        self.end(b, signal.SIGTERM)
        text = self.doctor("B", at=a, status=1)
        self.assertEqual("Connected", self.failed(text))
        self.assertEqual(4, self.status("doctor", "X", at=a))

    def test_no_such_host(self) -> None:
        text = self.doctor("--url", "http://nowhere.invalid:8042/", status=1)
        self.assertEqual("Name resolved", self.failed(text))
        self.assertIn("DNS", text)

    def test_nobody_listens(self) -> None:
        (port,) = free_ports(1)
        text = self.doctor("--url", f"http://{HOST}:{port}/", status=1)
        self.assertEqual("Connected", self.failed(text))
        self.assertIn("Is the daemon running", text)

    def test_no_user(self) -> None:
        (port,) = free_ports(1)
        users = {"alice": "geheim"}
        a = self.start("A", port, AuthenticationEnabled=True, RegisteredUsers=users)
        self.assertEqual("Authenticated", self.failed(self.doctor(at=a, status=1)))

    def test_tls(self) -> None:
        nginx, openssl = need(self, "nginx"), need(self, "openssl")
        (port, secure, plain) = free_ports(3)
        self.start("A", port)
        key, certificate = self.folder / "key.pem", self.folder / "certificate.pem"
        arguments = f"req -x509 -newkey rsa:2048 -nodes -days 5 -subj /CN={HOST}"
        arguments += f" -addext subjectAltName=IP:{HOST} -keyout {key} -out {certificate}"
        subprocess.run([openssl, *arguments.split()], check=True, capture_output=True)
        configuration = self.folder / "nginx.conf"
        configuration.write_text(
            f"daemon off; pid {self.folder}/pid; error_log {self.folder}/error.log; events {{}}"
            f" http {{ access_log off; server {{ listen {HOST}:{secure} ssl;"
            f" ssl_certificate {certificate}; ssl_certificate_key {key};"
            f" location / {{ proxy_pass http://{HOST}:{port}; }} }}"
            f" server {{ listen {HOST}:{plain}; }} }}"
        )
        process = subprocess.Popen(
            [nginx, "-p", self.folder, "-c", configuration],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.addCleanup(process.wait)
        self.addCleanup(process.terminate)
        url = f"https://{HOST}:{secure}/"
        wait_until(lambda: "Connected: port" in self.run_command("doctor", "--url", url).out, "up")
        text = self.doctor("--url", url, status=1)
        self.assertEqual("TLS", self.failed(text))
        self.assertIn("authorit", text)
        text = self.doctor("--url", url, "--authorities", certificate)
        self.assertRegex(text, r"mind +TLS: .* ends in [45] days")
        self.succeeds("jobs", "--url", url, "--authorities", certificate)
        text = self.doctor("--url", f"https://{HOST}:{plain}/", status=1)
        self.assertIn("does not speak TLS", text)


class ConfigTests(CommandCase):
    def test_check(self) -> None:
        self.assertIn(
            "can be used", self.succeeds("config", "check", ROOT / "etc/txtransfers.json")
        )
        path = self.folder / "wrong.json"
        path.write_text('{ "HtpPort" : 1, "Transfers" : { "Threads" : "x" } }')
        said = self.fails(1, "config", "check", path)
        self.assertIn('did you mean "HttpPort"?', said)
        self.assertIn("Transfers.Threads", said)
        done = self.run_command("config", "check", path, "--json")
        told = json.loads(done.out)
        self.assertEqual((1, False, 2), (done.status, told["Valid"], len(told["Problems"])))
        path.write_text('{ "Plugins" : [] }')
        self.assertIn("Plugins is ignored", self.succeeds("config", "check", path))
        self.assertEqual(1, self.status("config", "check", self.folder / "absent"))


class CompletionTests(CommandCase):
    def complete(self, words: str, at: Daemon | None, **variables: str) -> list[str]:
        """What bash is offered for the word that is being typed at the end."""
        count = len(words.split(" ")) - 1
        shell = {"_TXTRANSFERS_COMPLETE": "bash_complete", "COMP_CWORD": str(count)}
        out = self.succeeds(at=at, **shell | {"COMP_WORDS": words} | variables)
        return [line.partition(",")[2] for line in out.splitlines() if line]

    def test_words(self) -> None:
        self.assertIn("send", self.complete("txtransfers se", None))
        self.assertIn("--compression", self.complete("txtransfers send --c", None))
        self.assertIn("gzip", self.complete("txtransfers send --compression ", None))
        self.assertIn("complete", self.succeeds(_TXTRANSFERS_COMPLETE="bash_source"))

    def test_peers_and_jobs(self) -> None:
        a, _b = self.pair()
        study = self.upload(a, [self.file()])
        resources = [{"Level": "Study", "ID": next(iter(study.values()))["ParentStudy"]}]
        job = self.transfer(a, "send", resources)["ID"]
        self.assertEqual(["B", "B-pulls"], self.complete("txtransfers send X --to ", a))
        self.assertEqual(["B-pulls"], self.complete("txtransfers doctor B-", a))
        self.assertEqual([job], self.complete(f"txtransfers receipt {job[:3]}", a))
        self.assertEqual([], self.complete("txtransfers cancel ", a))
        with_url = f"txtransfers send --url {a.url} X --to "
        self.assertEqual(["B", "B-pulls"], self.complete(with_url, None))
        self.assertEqual(
            ["B", "B-pulls"], self.complete(f"txtransfers --url {a.url} send X --to ", None)
        )

    def file(self) -> Any:
        path = self.folder / "file"
        path.write_bytes(make(1))
        return path

    def test_a_daemon_that_is_not_there(self) -> None:
        (port,) = free_ports(1)
        nowhere = {"TXTRANSFERS_URL": peer_url(port)}
        self.assertEqual([], self.complete("txtransfers send X --to ", None, **nowhere))
        wrong = {"TXTRANSFERS_CONFIG": "absent.json"}
        self.assertEqual([], self.complete("txtransfers send X --to ", None, **wrong))
