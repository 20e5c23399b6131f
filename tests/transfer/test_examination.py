"""The steps of an examination: what passes, what fails, and what is advised then."""

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.web.harness import peer_settings
from txtransfers.errors import PeerError, PeerNonsense, PeerRefused, PeerUnreachable
from txtransfers.transfer.examination import Examination, Result, Step
from txtransfers.transfer.greeting import Greeting

NAMES = [
    "Name resolved",
    "Connected",
    "TLS",
    "Authenticated",
    "Transfers accelerator there",
    "Answers lookup",
    "Can reach us",
]
_NEVER = object()


class Examined:
    """A peer that does as it is told; what it is not told, it does well."""

    name = "B"

    def __init__(self, url: str = "http://b.test:8042", **settings: Any) -> None:
        self.base_url = url
        self.settings = peer_settings(f"{url}/", **settings)
        self.addresses: Any = ["10.0.0.2"]
        self.told: dict[str, Any] = {}
        self.answers: dict[str, Any] = {
            "/plugins": ["transfers"],
            "/transfers/peers": {"A": "installed"},
        }

    async def _do(self, name: str, usual: Any) -> Any:
        told = self.told.get(name, usual)
        if isinstance(told, Exception):
            raise told
        if told is _NEVER:
            await Deferred()
        return told

    async def resolve(self) -> Any:
        return await self._do("resolve", self.addresses)

    async def knock(self) -> Any:
        return await self._do("knock", "10.0.0.2 port 8042")

    async def ask(self, method: str, path: str, value: Any = None) -> Any:
        return await self._do(path, self.answers[path])

    async def greet(self, timeout: float) -> Greeting:
        return Greeting(True, "", 0.1, "Far", "1.10.1", "0.1.0", "1.7")

    def session(self, transfer_id: str) -> str:
        return transfer_id

    async def lookup(self, resources: Any, session: Any) -> Any:
        return await self._do("lookup", None)


class ExaminationTests(SynchronousTestCase):
    def examine(self, peer: Any, seconds: float = 0.0) -> list[Step]:
        clock = Clock()
        running = Deferred.fromCoroutine(Examination(peer, clock, 2.0, "A").run())
        clock.advance(seconds)
        steps: list[Step] = self.successResultOf(running)
        self.assertEqual(NAMES, [step.name for step in steps])
        for step in steps:
            self.assertTrue(step.details, step)
            self.assertEqual(step.result is Result.FAILED, bool(step.advice), step)
            self.assertEqual(step.result is Result.LEFT_OUT, step.milliseconds is None, step)
        return steps

    def fails(self, peer: Any, name: str, *words: str, seconds: float = 0.0) -> None:
        steps = self.examine(peer, seconds)
        number = NAMES.index(name)
        self.assertIs(Result.FAILED, steps[number].result, steps)
        self.assertNotIn(Result.FAILED, [step.result for step in steps[:number]])
        self.assertLessEqual({s.result for s in steps[number + 1 :]}, {Result.LEFT_OUT})
        for word in words:
            self.assertIn(word, f"{steps[number].details} {steps[number].advice}")

    def test_all_is_well(self) -> None:
        steps = self.examine(Examined(remote_self="A", username="us", password="x"))
        passed = [Result.PASSED] * 7
        passed[2] = Result.LEFT_OUT
        self.assertEqual(passed, [step.result for step in steps])
        self.assertIn("10.0.0.2", steps[0].details)
        self.assertIn('"us"', steps[3].details)
        for word in ("txtransfers 0.1.0", "1.10.1", "1.7", "Far"):
            self.assertIn(word, steps[4].details)
        shown = {"Step": "Connected", "Result": "Passed", "Details": "10.0.0.2 port 8042"}
        self.assertEqual(shown | {"Milliseconds": 0.0}, steps[1].to_json())

    def test_what_is_not_needed(self) -> None:
        steps = self.examine(Examined("https://b.test"))
        self.assertIs(Result.PASSED, steps[2].result)
        self.assertIs(Result.LEFT_OUT, steps[6].result)

    def test_each_failure(self) -> None:
        refused = PeerUnreachable("connection refused")
        for told, name, words in (
            ({"resolve": []}, "Name resolved", ("b.test", "DNS")),
            ({"knock": refused}, "Connected", ("refused", "firewall", "running")),
            ({"/plugins": PeerUnreachable("it broke")}, "Authenticated", ("broke", "https")),
            ({"/plugins": PeerRefused("401", 401)}, "Authenticated", ("RegisteredUsers",)),
            ({"/plugins": PeerNonsense("a web page")}, "Authenticated", ("web page", "port")),
            ({"/plugins": PeerRefused("500", 500)}, "Transfers accelerator there", ("500", "log")),
            ({"/plugins": ["dicom-web"]}, "Transfers accelerator there", ("OrthancTransfers",)),
            ({"/plugins": {}}, "Transfers accelerator there", ("OrthancTransfers",)),
            ({"lookup": PeerRefused("404", 404)}, "Answers lookup", ("404",)),
            ({"/transfers/peers": {"A": "disabled"}}, "Can reach us", ("cannot reach", "Url")),
            ({"/transfers/peers": {"C": "installed"}}, "Can reach us", ("OrthancPeers", '"A"')),
            ({"/transfers/peers": []}, "Can reach us", ("OrthancPeers",)),
        ):
            peer = Examined(remote_self="A")
            peer.told = told
            with self.subTest(str(told)):
                self.fails(peer, name, *words)

    def test_tls_that_fails(self) -> None:
        peer = Examined("https://b.test")
        peer.told = {"/plugins": PeerError("its certificate has expired")}
        self.fails(peer, "TLS", "expired", "certificate")

    def test_silence_at_each_step(self) -> None:
        for silent, name in (
            ("resolve", "Name resolved"),
            ("knock", "Connected"),
            ("lookup", "Answers lookup"),
        ):
            peer = Examined(remote_self="A")
            peer.told = {silent: _NEVER}
            self.fails(peer, name, "2 s", seconds=2.0)
        peer.told = {"/transfers/peers": _NEVER}
        self.fails(peer, "Can reach us", "10 s", seconds=10.0)
