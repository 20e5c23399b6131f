"""The end of a push to a peer whose commit waits for the last buckets."""

from twisted.internet.defer import CancelledError, Deferred

from tests.transfer.test_push import BUCKETS, PushCase
from txtransfers.errors import PeerRefused, PeerUnreachable
from txtransfers.store.interfaces import CommitReport, Outcome

COMMIT = "POST commit after"


class EndTests(PushCase):
    """The answer to the last bucket gets lost, or is late."""

    def setUp(self) -> None:
        super().setUp()
        self.peer.awaits = True
        self.lost: Deferred[None] = Deferred()
        real = self.peer.put_bucket

        async def put(path: str, body: object, session: str) -> None:
            await real(path, body, session)
            if path.endswith("/2"):
                await self.lost

        self.peer.put_bucket = put  # type: ignore[method-assign]

    def test_the_commit_is_asked_for_before(self) -> None:
        self.peer.steps["answer to commit"] = [answer := Deferred()]
        done = self.begin(push := self.push(threads=3))
        self.assertNoResult(done)
        answer.callback(None)
        self.successResultOf(done)
        self.assertEqual(sorted(["POST push", *BUCKETS, COMMIT]), sorted(self.peer.asked))
        self.assertEqual([Outcome.STORED] * 3, list(push.outcomes()))
        self.assertEqual(3, self.progress.buckets_done)
        self.assertTrue(self.lost.called, "what the peer has is not waited for")
        self.assert_arrived()
        self.assert_nothing_held()

    def test_no_answer_to_a_bucket_while_it_commits(self) -> None:
        for error in (PeerUnreachable("no progress for 60 s"), PeerRefused("committing", 409)):
            self.setUp()
            self.peer.steps["answer to commit"] = [Deferred()]
            done = self.begin(push := self.push(threads=3))
            self.assertNoResult(done)
            self.lost.errback(error)
            self.successResultOf(done)
            self.assertEqual("GET push", self.peer.asked[-1])
            self.assertEqual([Outcome.STORED] * 3, list(push.outcomes()))
            self.assert_nothing_held()

    def test_no_answer_to_a_bucket_that_has_not_come(self) -> None:
        """It is not tried more often than is configured."""
        self.peer.steps["PUT 1"] = [Deferred()]
        self.peer.steps[COMMIT] = [Deferred()]
        done = self.begin(self.push(threads=3))
        self.lost.errback(error := PeerUnreachable("cut"))
        self.assertIs(self.failureResultOf(done, PeerUnreachable).value, error)
        self.assertEqual(("GET push", 1), (self.peer.asked[-1], self.peer.asked.count("PUT 2")))
        self.assert_nothing_held()

    def test_another_refusal_is_one(self) -> None:
        self.peer.steps["answer to commit"] = [Deferred()]
        done = self.begin(self.push(threads=3))
        self.lost.errback(PeerRefused("forbidden", 403))
        self.failureResultOf(done, PeerRefused)
        self.assert_nothing_held()

    def test_a_pause_while_it_commits(self) -> None:
        self.peer.steps["answer to commit"] = [Deferred()]
        done = self.begin(self.push(threads=3))
        done.cancel()
        self.failureResultOf(done, CancelledError)
        self.assert_nothing_held()
        self.successResultOf(self.begin(self.push(threads=3)))
        self.assert_arrived()

    def test_a_pause_and_a_commit_that_goes_on(self) -> None:
        """What was under way then has arrived after all, while it was sent once more."""
        for status in (404, 409):
            self.setUp()
            self.lost.callback(None)
            self.peer.steps["PUT 1"] = [Deferred(), again := Deferred()]
            self.peer.steps["PUT 2"] = [Deferred()]
            before = self.begin(self.push(threads=3))
            before.cancel()
            self.failureResultOf(before, CancelledError)
            done = self.begin(push := self.push(threads=1))
            self.assertNoResult(done)
            self.successResultOf(self.arrive_and_commit(1, 2))
            again.errback(PeerRefused("it is committed", status))
            self.successResultOf(done)
            self.assertEqual([Outcome.STORED] * 3, list(push.outcomes()))
            self.assertEqual(1, self.peer.asked.count("POST push"))
            self.assert_arrived()
            self.assert_nothing_held()

    def arrive_and_commit(self, *numbers: int) -> "Deferred[CommitReport]":
        """What a life before has sent and asked for happens at the peer now."""

        async def happen() -> CommitReport:
            pushes, id_ = self.peer.pushes, self.peer.paths[-1].split("/")[3]
            assert self.memo.kept is not None
            for number in numbers:
                sink = await pushes.receive(id_, number)
                sink.write(self.store.files[self.memo.kept[number].id])
                await pushes.finish_bucket(id_, sink, 0)
            return await pushes.commit(id_)

        return Deferred.fromCoroutine(happen())
