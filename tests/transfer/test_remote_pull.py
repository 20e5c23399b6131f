"""A pull that the peer makes, watched from here."""

from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from tests.transfer.fake_peer import FakeMemo, SlowStore, parts
from tests.web.harness import peer_settings
from txtransfers.errors import (
    PeerNonsense,
    PeerRefused,
    PeerUnreachable,
    RemoteJobFailed,
    TransfersError,
)
from txtransfers.transfer.parts import ITransfer
from txtransfers.transfer.progress import Progress
from txtransfers.transfer.remote_pull import RemotePull
from txtransfers.wire.messages import Compression, Level, Resource, TransferRequest

REQUEST = TransferRequest((Resource(Level.STUDY, "s"),), Compression.GZIP, "B")
SILENT = PeerUnreachable("no answer")


def job(state: str, progress: Any = 0, **more: Any) -> dict[str, Any]:
    """What a peer tells of its job."""
    return {"ID": "remote", "State": state, "Progress": progress, "Content": {}} | more


class WatchedPeer:
    """A peer with one job; what it tells next is in ``tells``, the last for ever."""

    name = "B"
    base_url = "http://b.test"

    def __init__(self) -> None:
        self.settings: Any = peer_settings("http://b.test/", remote_self="A")
        self.tells: list[dict[str, Any] | TransfersError] = []
        self.asked: list[str] = []
        self.refusal: TransfersError | None = None

    def session(self, transfer_id: str) -> str:
        return transfer_id

    async def request_pull(self, _request: Any, originator: str, as_peer: str, _s: Any) -> Any:
        self.asked.append(f"pull as {as_peer} for {originator}")
        return "remote", "/jobs/remote"

    async def job(self, path: str, _session: Any) -> Any:
        self.asked.append(f"GET {path}")
        told = self.tells.pop(0) if len(self.tells) > 1 else self.tells[0]
        if isinstance(told, TransfersError):
            raise told
        return told

    async def act_on_job(self, path: str, action: str, _session: Any) -> None:
        self.asked.append(f"POST {path}/{action}")
        if self.refusal is not None:
            raise self.refusal


class RemotePullTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.peer = WatchedPeer()
        self.memo = FakeMemo()
        self.memo.state = {"job": "remote", "path": "/jobs/remote"}
        self.progress = Progress()

    def make(self) -> RemotePull:
        peer: Any = self.peer
        return RemotePull(parts(self.clock, SlowStore()), peer, REQUEST, self.memo)

    def begin(self, pull: RemotePull, *tells: dict[str, Any] | TransfersError) -> Deferred[None]:
        self.peer.tells = list(tells)
        return Deferred.fromCoroutine(pull.run(self.progress))

    def test_interface(self) -> None:
        verifyObject(ITransfer, self.make())

    def test_until_it_has_ended(self) -> None:
        pull = self.make()
        content = {"TotalInstances": 7, "Buckets": 3, "Peer": "A", "Codec": ["x"]}
        running = self.begin(
            pull, job("Pending"), job("Running", 40, Content=content), job("Success", 100)
        )
        self.assertNoResult(running)
        self.clock.advance(1)
        self.assertEqual((7, 0.4), (self.progress.total_instances, self.progress.fraction))
        self.assertEqual(
            {
                "RemoteJob": "remote",
                "URL": "http://b.test/jobs/remote",
                "RemoteState": "Running",
                "TotalInstances": 7,
                "Buckets": 3,
            },
            pull.figures(),
        )
        self.clock.advance(1)
        self.successResultOf(running)
        self.assertEqual(["GET /jobs/remote"] * 3, self.peer.asked)
        self.assertEqual("Success", pull.figures()["RemoteState"])

    def test_missing_answers_end_nothing(self) -> None:
        busy = PeerRefused("busy", 503)
        running = self.begin(
            self.make(),
            job("Running", 10),
            SILENT,
            busy,
            SILENT,
            job("Running", 20),
            job("Success"),
        )
        for seconds in (1, 2, 4, 8, 1):
            self.assertNoResult(running)
            self.clock.advance(seconds)
        self.successResultOf(running)
        self.assertEqual(["The peer does not tell of its job: no answer"], self.memo.said)

    def test_silence_for_too_long(self) -> None:
        running = self.begin(self.make(), SILENT)
        self.clock.pump([30] * 119)
        self.assertNoResult(running)
        self.clock.pump([30] * 10)
        self.failureResultOf(running, PeerUnreachable)

    def test_it_fails_there(self) -> None:
        told = job("Failure", ErrorDescription="Error", ErrorDetails="its disk is full")
        error = self.failureResultOf(self.begin(self.make(), told), RemoteJobFailed).value
        for word in ('"B"', "http://b.test/jobs/remote", "its disk is full"):
            self.assertIn(word, str(error))

    def test_it_is_forgotten_there(self) -> None:
        self.failureResultOf(self.begin(self.make(), PeerRefused("unknown", 404)), PeerRefused)

    def test_it_is_no_job(self) -> None:
        for told in ({}, {"State": 5}, {"State": "Gone"}):
            self.failureResultOf(self.begin(self.make(), told), PeerNonsense)
        strange = job("Running", "x", Content=[1])
        running = self.begin(self.make(), strange)
        self.assertEqual(0.0, self.progress.fraction)
        running.cancel()
        self.failureResultOf(running, CancelledError)

    def test_a_pause_is_none_there(self) -> None:
        pull = self.make()
        running = self.begin(pull, job("Running", 10))
        running.cancel()
        self.failureResultOf(running, CancelledError)
        self.successResultOf(Deferred.fromCoroutine(pull.close()))
        self.assertEqual(["GET /jobs/remote"], self.peer.asked)
        self.assertEqual({"job": "remote", "path": "/jobs/remote"}, pull.state())

    def abandon(self, pull: RemotePull) -> bool:
        return self.successResultOf(Deferred.fromCoroutine(pull.abandon()))

    def test_cancelled(self) -> None:
        pull = self.make()
        self.peer.tells = [job("Failure")]
        self.assertFalse(self.abandon(pull))
        self.assertEqual("POST /jobs/remote/cancel", self.peer.asked[0])

    def test_cancelled_too_late(self) -> None:
        pull = self.make()
        self.peer.tells = [job("Success")]
        self.assertTrue(self.abandon(pull))

    def test_cancelled_while_it_is_silent(self) -> None:
        pull = self.make()
        self.peer.refusal = SILENT
        self.assertFalse(self.abandon(pull))

    def test_resubmitted(self) -> None:
        """The peer is asked again; a second life goes on with the job of the first."""
        self.memo.state = {}
        self.memo.anew = True
        pull = self.make()
        self.assertEqual({}, pull.figures())
        self.assertFalse(self.abandon(pull))
        running = self.begin(pull, job("Running", 10))
        self.assertTrue(self.peer.asked[0].startswith("pull as A for "), self.peer.asked)
        self.assertEqual(
            ({"job": "remote", "path": "/jobs/remote"}, False), (self.memo.state, self.memo.anew)
        )
        running.cancel()
        self.failureResultOf(running, CancelledError)
        self.successResultOf(self.begin(self.make(), job("Success")))
        self.assertEqual(1, len([asked for asked in self.peer.asked if "pull" in asked]))

    def test_the_peer_cannot_pull_any_more(self) -> None:
        self.memo.state = {}
        self.peer.settings = attrs.evolve(self.peer.settings, remote_self=None)
        error = self.failureResultOf(self.begin(self.make()), PeerUnreachable).value
        self.assertIn("RemoteSelf", str(error))
