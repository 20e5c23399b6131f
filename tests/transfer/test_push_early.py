"""Sending before the opening is answered, to a far peer that waits for it."""

from typing import Any

from twisted.internet.defer import CancelledError, Deferred

from tests.transfer.fake_peer import FakePeer, FakeSession
from tests.transfer.test_push import END, PushCase
from txtransfers.errors import PeerRefused, PeerUnreachable
from txtransfers.store.interfaces import Outcome
from txtransfers.transfer import push
from txtransfers.transfer.push import Push
from txtransfers.wire.abilities import ALL_ABILITIES

EARLY = ["PUT 0 early", "PUT 1 early", "PUT 2 early"]


class EarlyCase(PushCase):
    def setUp(self) -> None:
        super().setUp()
        self.peer.abilities = ALL_ABILITIES
        self.peer.seem(None, round_trip=0.1)

    def begin(self, push: Push) -> Any:
        """Also what begins a moment later."""
        done = super().begin(push)
        self.clock.advance(0)
        return done

    def held(self, request: str) -> "Deferred[None]":
        step: Deferred[None] = Deferred()
        self.peer.steps[request] = [step]
        return step


class EarlyTests(EarlyCase):
    def test_they_go_while_the_opening_is_on_its_way(self) -> None:
        opening = self.held("POST push")
        done = self.begin(self.push(threads=2))
        self.assertEqual(["POST push", *EARLY[:2]], self.peer.asked, "the opening goes first")
        self.assertEqual({}, self.peer.store.files)
        opening.callback(None)
        self.successResultOf(done)
        self.assertEqual(["PUT 2 early", *END], self.peer.asked[3:])
        self.assertEqual((0, 3), (self.progress.repeated_size, self.progress.buckets_done))
        self.assert_arrived()
        self.assert_nothing_held()

    def test_the_first_has_left_before_the_others_are_made(self) -> None:
        """To make them takes tens of milliseconds, and all leave at the end of the same turn."""
        done = Deferred.fromCoroutine(self.push(threads=3).run(self.progress))
        self.assertEqual(["POST push", EARLY[0]], self.peer.asked)
        done.cancel()
        self.failureResultOf(done, CancelledError)
        self.assert_nothing_held()

    def test_the_opening_has_a_connection_beside_theirs(self) -> None:
        self.patch(push, "SLICE", 100)
        self.successResultOf(self.begin(self.push(threads=2)))
        self.assertEqual([3], self.peer.prepared)

    def test_all_are_sent_before(self) -> None:
        opening = self.held("POST push")
        done = self.begin(self.push(threads=3))
        opening.callback(None)
        self.successResultOf(done)
        self.assertEqual(sorted(["POST push", *EARLY, *END]), sorted(self.peer.asked))
        self.assert_arrived()

    def test_not_to_peers_that_are_near_unknown_or_cannot(self) -> None:
        for change in ("near", "unknown", "stock"):
            self.setUp()
            if change == "near":
                self.peer.seem(None, round_trip=0.0001)
            else:
                self.peer.abilities = None
            self.peer.is_stock = change == "stock"
            self.successResultOf(self.begin(self.push()))
            self.assertNotIn("early", " ".join(self.peer.asked))
            self.assert_arrived()

    def test_what_the_peer_holds_is_left_out_after_all(self) -> None:
        held = self.ids[1]
        self.peer.store.add(self.store.files[held])
        opening = self.held("POST push")
        push = self.push(threads=2)
        done = self.begin(push)
        opening.callback(None)
        self.successResultOf(done)
        self.assert_arrived()
        outcomes = dict(zip(sorted(self.ids), push.outcomes(), strict=True))
        self.assertEqual(
            dict.fromkeys(self.ids, Outcome.STORED) | {held: Outcome.ALREADY_STORED}, outcomes
        )
        self.assert_nothing_held()

    def test_an_opening_that_is_refused(self) -> None:
        opening = self.held("POST push")
        done = self.begin(self.push())
        opening.errback(PeerRefused("The disk is full", 507))
        self.failureResultOf(done, PeerRefused)
        self.assert_nothing_held()

    def test_a_pause_meanwhile(self) -> None:
        self.held("POST push")
        done = self.begin(self.push())
        done.cancel()
        self.failureResultOf(done, CancelledError)
        self.assert_nothing_held()
        self.peer.asked.clear()
        self.successResultOf(self.begin(self.push()))
        self.assert_arrived()

    def test_a_peer_that_does_not_wait_after_all(self) -> None:
        for error in (PeerRefused("No push transaction", 404), PeerRefused("Held", 409)):
            self.setUp()
            for request in EARLY[:2]:
                self.peer.steps[request] = [error]
            self.successResultOf(self.begin(self.push()))
            self.assertEqual([], self.memo.said, "nothing that people need to know")
            self.assert_arrived()
            self.assert_nothing_held()

    def test_another_failure_is_one(self) -> None:
        opening = self.held("POST push")
        for error in (PeerUnreachable("cut"), PeerRefused("Broken", 500)):
            self.setUp()
            self.peer.steps[EARLY[0]] = [error]
            self.failureResultOf(self.begin(self.push()), type(error))
            self.assert_nothing_held()
        opening.callback(None)

    def test_another_machine_behind_the_same_address(self) -> None:
        """A balancer says by a cookie who has the opening; what went elsewhere comes to nothing."""
        cookies: list[dict[str, str]] = []

        class Session(FakeSession):
            def cookies(self) -> list[dict[str, str]]:
                return list(cookies)

        self.patch(FakePeer, "session", lambda _self, id_: Session(id_))
        opening, elsewhere = self.held("POST push"), [self.held(name) for name in EARLY[:2]]
        done = self.begin(self.push())
        cookies.append({"name": "node"})
        opening.callback(None)
        self.clock.advance(0)
        self.successResultOf(done)
        self.assertEqual(["PUT 0", "PUT 1", "PUT 2", *END], self.peer.asked[3:])
        self.assert_arrived()
        for step in elsewhere:
            self.assertTrue(step.called, "it was cancelled")

    def test_a_pause_before_the_end_that_was_asked_for(self) -> None:
        """All is sent, and the commit asked for, when what was opened is still being kept."""
        self.peer.awaits = True
        self.peer.steps["POST commit after"] = [asked := Deferred()]
        self.peer.steps["PUT 2 early"] = [last := Deferred()]
        keep, keeping = self.memo.keep, Deferred()

        async def slow(state: Any) -> None:
            await keep(state)
            if state["path"] and not state["asked_to_commit"]:
                await keeping

        self.memo.keep = slow  # type: ignore[method-assign]
        opening = self.held("POST push")
        push = self.push(threads=3)
        done = self.begin(push)
        opening.callback(None)
        push._commit_if_sent()
        self.assertIn("POST commit after", self.peer.asked)
        done.cancel()
        self.failureResultOf(done, CancelledError)
        self.assertTrue(asked.called, "nobody waits for it any more")
        self.assertTrue(last.called)
        self.assert_nothing_held()
        self.memo.keep = keep  # type: ignore[method-assign]
        self.successResultOf(self.begin(push))
        self.assert_arrived()

    def test_a_new_life_goes_on_with_the_same_key(self) -> None:
        self.held("POST push")
        push = self.push()
        done = self.begin(push)
        done.cancel()
        self.failureResultOf(done, CancelledError)
        key = self.memo.state["key"]
        self.peer.abilities = None
        self.successResultOf(self.begin(self.push()))
        self.assertEqual(key, self.memo.state["key"] or key)
        self.assert_arrived()
        self.assertEqual(1, self.peer.pushes.counters.created)
