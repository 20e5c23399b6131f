"""Real daemons tell a real receiver, whatever ends in between."""

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from demo import dataset
from demo.daemon import Daemon, free_ports
from tests.functional.live import LiveTestCase, study_of, wait_until
from tests.functional.receiver import HOST, Received, Receiver
from tests.jobs.test_webhooks import WHSEC
from tests.real_parts import need
from txtransfers.errors import PeerRefused, PeerUnreachable
from txtransfers.jobs.announcements import signature
from txtransfers.transfer.post import Poster

reactor: Any = _reactor
SECRET = bytes(range(32))


class PosterTests(TestCase):
    """One request."""

    timeout = 30

    def setUp(self) -> None:
        self.receiver = Receiver()
        self.addCleanup(self.receiver.close)

    async def post(self, url: str = "", timeout: float = 10.0) -> None:
        await Poster(reactor, timeout)(url or self.receiver.url, {"X-A": "b"}, b"{}")

    async def test_taken(self) -> None:
        await self.post()
        (request,) = self.receiver.requests
        self.assertEqual("/hook?token=geheim", request.path)
        self.assertEqual(("b", b"{}"), (request.headers["X-A"], request.body))

    async def test_refused(self) -> None:
        for status in (400, 404, 500, 503):
            self.receiver.statuses = [status]
            error = await self.assertFailure(Deferred.fromCoroutine(self.post()), PeerRefused)
            self.assertEqual(f"it answered {status}", str(error))

    async def test_a_redirection_leads_nowhere(self) -> None:
        for status in (301, 302, 303, 307, 308):
            self.receiver.statuses = [status]
            error = await self.assertFailure(Deferred.fromCoroutine(self.post()), PeerRefused)
            self.assertIn("not followed", str(error))
        self.assertEqual({"/hook?token=geheim"}, {each.path for each in self.receiver.requests})

    async def test_silence(self) -> None:
        self.receiver.silent.set()
        asking = Deferred.fromCoroutine(self.post(timeout=0.1))
        error = await self.assertFailure(asking, PeerUnreachable)
        self.assertEqual("no answer within 0.1 s", str(error))

    async def test_an_answer_without_end_is_an_answer(self) -> None:
        self.receiver.endless = True
        await self.post()

    async def test_nobody(self) -> None:
        (port,) = free_ports(1)
        asking = Deferred.fromCoroutine(self.post(f"http://{HOST}:{port}/geheim"))
        error = await self.assertFailure(asking, PeerUnreachable)
        self.assertIn("refused", str(error))
        self.assertNotIn("geheim", str(error))

    async def test_a_certificate_that_nobody_vouches_for(self) -> None:
        openssl = need(self, "openssl")
        pem = Path(self.mktemp())
        arguments = "req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost"
        arguments += f" -addext subjectAltName=IP:{HOST}"
        files = ["-keyout", str(pem), "-out", str(pem) + ".crt"]
        subprocess.run([openssl, *arguments.split(), *files], check=True, capture_output=True)
        (port,) = free_ports(1)
        command = [openssl, "s_server", "-accept", str(port), "-key", str(pem), "-www", "-quiet"]
        server = subprocess.Popen(
            [*command, "-cert", f"{pem}.crt"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.addCleanup(server.wait)
        self.addCleanup(server.kill)
        wait_until(lambda: _listens(port), "openssl s_server")
        asking = Deferred.fromCoroutine(self.post(f"https://{HOST}:{port}/"))
        error = await self.assertFailure(asking, PeerUnreachable)
        self.assertIn("certificate verify failed", str(error))


def _listens(port: int) -> bool:
    import socket  # noqa: PLC0415

    try:
        socket.create_connection((HOST, port), 1).close()
    except OSError:
        return False
    return True


class WebhookTests(LiveTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.receiver = Receiver()
        self.addCleanup(self.end_receiver)

    def end_receiver(self) -> None:
        self.receiver.close()

    def daemons(self) -> tuple[Daemon, Daemon]:
        hooks = [{"Url": self.receiver.url, "Secret": WHSEC}]
        return self.pair(a={"Transfers": {"Webhooks": hooks}})

    def told(self, count: int = 1) -> list[Received]:
        wait_until(lambda: len(self.receiver.requests) >= count, f"{count} events")
        for request in self.receiver.requests:
            headers = request.headers
            expected = signature(
                headers["Webhook-Id"], headers["Webhook-Timestamp"], request.body, SECRET
            )
            self.assertEqual(expected, headers["Webhook-Signature"])
        return self.receiver.requests

    def study(self, daemon: Daemon) -> Any:
        files = dataset.ct_series(self.folder / "files", 3, 32, 1)
        return study_of(next(iter(self.upload(daemon, files).values())))

    def test_success_and_failure(self) -> None:
        a, b = self.daemons()
        study = self.study(a)
        job = self.transfer(a, "send", study)
        (request,) = self.told()
        event = json.loads(request.body)
        transfer = event["Transfer"]
        self.assertEqual(
            (job["ID"], "Success", 3, "A", "B"),
            tuple(transfer[k] for k in ("Job", "State", "TotalInstances", "Daemon", "Peer")),
        )
        receipt = json.loads(a.client.request("GET", event["Receipt"]))
        self.assertEqual(receipt["Job"], job["ID"])
        self.failure(a, "send", [{"Level": "Study", "ID": study[0]["ID"][::-1]}])
        event = json.loads(self.told(2)[1].body)
        self.assertEqual("Failure", event["Transfer"]["State"])
        self.transfer(b, "pull", study, "A")
        self.assertEqual(2, len(self.receiver.requests), "B tells nobody")

    def test_until_it_is_taken(self) -> None:
        self.receiver.statuses = [500, 302]
        a, _b = self.daemons()
        self.transfer(a, "send", self.study(a))
        requests = self.told(3)
        self.assertEqual(1, len({each.headers["Webhook-Id"] for each in requests}))
        self.assertEqual(1, len({each.body for each in requests}))
        self.assertNotIn("geheim", a.log_tail(1000))
        self.assertIn("it answered 500", a.log_tail(1000))

    def test_across_kill_9(self) -> None:
        """The receiver is down, the daemon is killed: the event comes all the same."""
        port = self.receiver.port
        a, _b = self.daemons()
        study = self.study(a)
        self.receiver.close()
        job = self.transfer(a, "send", study)
        self.end(a, signal.SIGKILL)
        self.receiver = Receiver(port)
        self.again(a)
        event = json.loads(self.told()[0].body)
        self.assertEqual(
            (job["ID"], "Success"), (event["Transfer"]["Job"], event["Transfer"]["State"])
        )

    def test_a_silent_receiver_holds_up_neither_jobs_nor_the_stop(self) -> None:
        self.receiver.silent.set()
        a, _b = self.daemons()
        study = self.study(a)
        for _ in range(3):
            self.transfer(a, "send", study)
        wait_until(lambda: self.receiver.requests, "a request")
        self.end(a, signal.SIGTERM)
        self.assertEqual(1, len(self.receiver.requests))
