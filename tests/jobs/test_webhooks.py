"""Events for others: what is told, that it stays until it is taken, and who is asked when."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from tests.jobs.test_model import REQUEST
from txtransfers.config_webhooks import WebhookSettings
from txtransfers.errors import PeerRefused, PeerUnreachable, StorageFailure, TransfersError
from txtransfers.jobs.announcements import Announcements, signed_headers
from txtransfers.jobs.journal import MemoryJournal, SqliteJournal
from txtransfers.jobs.model import Direction, Event, Job, from_record, new_job, to_record
from txtransfers.jobs.outbox import Delivery, IOutbox
from txtransfers.jobs.webhooks import (
    FIRST_DELAY_S,
    KEPT_S,
    LONGEST_DELAY_S,
    LONGEST_HOLD_S,
    Webhooks,
)
from txtransfers.threads import SynchronousThreads

A, B = "https://a.test/hook?token=geheim", "http://b.test:81/"
SECRET = bytes(range(32))
WHSEC = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
NOW = 1_795_000_000.0


def ended(sequence: int = 1, error: tuple[int, str, str] | None = None) -> Job:
    job = new_job(Direction.PUSH, REQUEST, sequence, NOW)
    job.happens(Event.START, NOW)
    job.happens(Event.FAIL if error else Event.SUCCEED, NOW + 1, error)
    return job


def announcements(*urls: str) -> Announcements:
    return Announcements(urls, lambda peer: ("here", f"http://{peer}.test/"), lambda: NOW + 2)


class AnnouncementTests(SynchronousTestCase):
    def test_what_is_told(self) -> None:
        job = ended(error=(9, "Error in the network protocol", "it is gone"))
        first, second = announcements(A, B).of(job)
        self.assertEqual((first.id, first.body), (second.id, second.body))
        self.assertEqual((A, B), (first.url, second.url))
        told = json.loads(first.body)
        self.assertEqual({"ID", "Event", "Time", "Receipt", "Transfer"}, set(told))
        self.assertEqual(
            (first.id, "TransferEnded", f"/jobs/{job.id}/receipt"),
            (told["ID"], told["Event"], told["Receipt"]),
        )
        transfer = told["Transfer"]
        self.assertEqual(
            (job.id, "Failure", "it is gone", "here", REQUEST.peer),
            tuple(transfer[k] for k in ("Job", "State", "ErrorDetails", "Daemon", "Peer")),
        )
        for name in ("History", "Description"):  # the latter names patients
            self.assertNotIn(name, transfer)
        self.assertNotIn("geheim", repr(first))

    def test_nobody_is_told(self) -> None:
        self.assertEqual((), announcements().of(ended()))

    def test_a_signature_that_others_computed(self) -> None:
        # The example of the reference library's tests, Standard Webhooks 1.0.
        delivery = Delivery("msg_p5jXN8AQM9LWM0D4loKWxJek", A, b'{"test": 2432232314}', 0)
        secret = WebhookSettings(A, _decoded("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")).secret
        headers = signed_headers(delivery, secret, 1614265330.9)
        self.assertEqual("1614265330", headers["Webhook-Timestamp"])
        self.assertEqual(
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=", headers["Webhook-Signature"]
        )

    def test_the_example_of_the_docs(self) -> None:
        page = (Path(__file__).parents[2] / "docs" / "webhooks.md").read_text(encoding="utf-8")
        block = re.search(r"```python\n(.*?)```", page, re.DOTALL)
        assert block is not None
        names: dict[str, Any] = {}
        exec(block[1], names)
        names["time"] = type("Time", (), {"time": staticmethod(lambda: NOW + 100)})
        (delivery,) = announcements(A).of(ended())
        headers = signed_headers(delivery, SECRET, NOW)
        is_ours = names["is_ours"]
        self.assertTrue(is_ours(headers, delivery.body, WHSEC))
        self.assertTrue(is_ours(headers, delivery.body, WHSEC.removeprefix("whsec_")))
        self.assertFalse(is_ours(headers, delivery.body + b" ", WHSEC))
        self.assertFalse(is_ours(headers, delivery.body, WHSEC.replace("AAEC", "AAED")))
        for old in (NOW - 500, NOW + 500):
            self.assertFalse(
                is_ours(signed_headers(delivery, SECRET, old), delivery.body, WHSEC), old
            )


def _decoded(secret: str) -> bytes:
    from base64 import b64decode  # noqa: PLC0415

    return b64decode(secret)


class _OutboxSuite:
    """What both journals keep, and when."""

    make: Any

    def setUp(self: Any) -> None:
        self.journal = self.make(announcements(A, B).of)

    def now(self: Any, deferred: Any) -> Any:
        return self.successResultOf(deferred)

    def first(self: Any, url: str = A) -> Any:
        return self.now(self.journal.outbox.first(url))

    def test_interface(self: Any) -> None:
        verifyObject(IOutbox, self.journal.outbox)
        self.assertIsNone(self.first())

    def test_filled_once_with_each_end(self: Any) -> None:
        woken: list[None] = []
        self.journal.outbox.call_when_filled(lambda: woken.append(None))
        job = new_job(Direction.PUSH, REQUEST, 1, NOW)
        self.now(self.journal.save(job))
        job.happens(Event.START, NOW)
        self.now(self.journal.save(job, durable=False))
        self.assertEqual((None, 0), (self.first(), len(woken)))
        job.happens(Event.FAIL, NOW + 1, (9, "no", ""))
        for _ in range(3):
            self.now(self.journal.save(job))
        self.assertEqual(1, len(woken))
        delivery = self.first()
        self.now(self.journal.outbox.done(delivery))
        self.now(self.journal.outbox.done(delivery))
        self.assertIsNone(self.first())
        self.assertEqual(delivery.id, self.first(B).id)
        (loaded,) = self.now(self.journal.load())
        self.now(self.journal.save(loaded))
        self.assertIsNone(self.first(), "a restart is no end")
        job.happens(Event.RESUBMIT, NOW + 2)
        self.now(self.journal.save(job))
        job.happens(Event.CANCEL, NOW + 3)
        self.now(self.journal.save(job))
        self.assertNotEqual(delivery.id, self.first().id)

    def test_postponed_ones_let_others_go_first(self: Any) -> None:
        for number in (1, 2):
            self.now(self.journal.save(ended(number)))
        delivery = self.first()
        later = Delivery(delivery.id, A, delivery.body, delivery.created, 1, delivery.next_try + 10)
        self.now(self.journal.outbox.postpone(later))
        self.assertNotEqual(delivery.id, self.first().id)
        self.now(self.journal.outbox.done(self.first()))
        self.assertEqual(later, self.first())

    def test_forget_others(self: Any) -> None:
        self.now(self.journal.save(ended()))
        self.assertEqual(1, self.now(self.journal.outbox.forget_others([B])))
        self.assertIsNone(self.first())
        self.assertIsNotNone(self.first(B))
        self.assertEqual(1, self.now(self.journal.outbox.forget_others([])))

    def test_a_job_of_an_earlier_release_that_had_ended(self: Any) -> None:
        record = to_record(ended())
        del record["announced"]
        self.now(self.journal.save(from_record(record)))
        self.assertIsNone(self.first())

    def test_jobs_that_are_forgotten_are_told_all_the_same(self: Any) -> None:
        job = ended()
        self.now(self.journal.save(job))
        self.now(self.journal.forget([job.id]))
        self.assertIsNotNone(self.first())


class MemoryOutboxTests(_OutboxSuite, SynchronousTestCase):
    def make(self, announce: Any) -> MemoryJournal:
        return MemoryJournal(announce)


class SqliteOutboxTests(_OutboxSuite, SynchronousTestCase):
    def make(self, announce: Any, path: str = "") -> SqliteJournal:
        self.path = path or self.mktemp()
        journal = SqliteJournal(self.path, SynchronousThreads(), announce)
        journal.start()
        self.addCleanup(journal.stop)
        return journal

    def test_survives(self) -> None:
        self.now(self.journal.save(ended()))
        delivery = self.first()
        self.journal.stop()
        self.journal = self.make(announcements(A).of, self.path)
        self.assertEqual(delivery, self.first())

    def test_an_end_that_could_not_be_saved_is_told_with_the_next_save(self) -> None:
        job = ended()
        self.journal.stop()
        self.failureResultOf(self.journal.save(job), StorageFailure)
        self.journal.start()
        self.assertIsNone(self.first())
        self.now(self.journal.save(job))
        self.assertIsNotNone(self.first())


class FakePost:
    """A receiver that answers when the test says so."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Mapping[str, str], bytes]] = []
        self.waiting: list[Deferred[None]] = []

    async def __call__(self, url: str, headers: Mapping[str, str], body: bytes) -> None:
        self.asked.append((url, headers, body))
        self.waiting.append(Deferred())
        await self.waiting[-1]

    def answer(self, error: TransfersError | None = None, number: int = 0) -> None:
        waiting = self.waiting.pop(number)
        if error is None:
            waiting.callback(None)
        else:
            waiting.errback(error)


class WebhookTests(SynchronousTestCase):
    random = 1.0

    def setUp(self) -> None:
        self.clock = Clock()
        self.post = FakePost()
        self.journal = MemoryJournal(announcements(A).of)
        self.hooks = self.start(A)

    def start(self, *urls: str) -> Webhooks:
        hooks = Webhooks(
            self.clock,
            self.journal.outbox,
            [WebhookSettings(url, SECRET) for url in urls],
            self.post,
            lambda: NOW + 2 + self.clock.seconds(),
            lambda: self.random,
        )
        self.successResultOf(Deferred.fromCoroutine(hooks.start()))
        self.addCleanup(lambda: self.stop(hooks))
        return hooks

    def stop(self, hooks: Webhooks) -> None:
        self.successResultOf(Deferred.fromCoroutine(hooks.stop()))
        self.assertEqual([], self.clock.getDelayedCalls())

    def end_a_job(self, number: int = 1) -> None:
        self.successResultOf(self.journal.save(ended(number)))

    def waits(self) -> bool:
        return self.successResultOf(self.journal.outbox.first(A)) is not None

    def test_sent_at_once_and_once(self) -> None:
        self.assertEqual([], self.post.asked)
        self.end_a_job()
        ((url, headers, body),) = self.post.asked
        self.assertEqual(A, url)
        self.assertEqual(headers["Webhook-Id"], json.loads(body)["ID"])
        self.assertEqual(str(int(NOW + 2)), headers["Webhook-Timestamp"])
        self.assertTrue(self.waits())
        self.post.answer()
        self.assertFalse(self.waits())
        self.clock.advance(LONGEST_DELAY_S)
        self.assertEqual(1, len(self.post.asked))

    def test_one_at_a_time(self) -> None:
        for number in range(3):
            self.end_a_job(number)
        self.assertEqual(1, len(self.post.asked))
        self.post.answer()
        self.assertEqual(2, len(self.post.asked))
        self.post.answer()
        self.post.answer()
        self.assertFalse(self.waits())

    def test_a_receiver_that_fails_is_asked_later_and_later(self) -> None:
        self.end_a_job()
        for delay in (1, 2, 4, 8, 16, 32, 64, 128):
            asked = len(self.post.asked)
            self.post.answer(PeerUnreachable("refused"))
            self.clock.advance(delay * FIRST_DELAY_S - 0.01)
            self.assertEqual(asked, len(self.post.asked), delay)
            self.clock.advance(0.01)
            self.assertEqual(asked + 1, len(self.post.asked), delay)
        bodies = {body for _url, _headers, body in self.post.asked}
        self.assertEqual(1, len(bodies))
        moments = [headers["Webhook-Timestamp"] for _url, headers, _body in self.post.asked]
        self.assertEqual(len(moments), len(set(moments)), "each try is signed anew")
        self.post.answer()
        self.assertFalse(self.waits())

    def test_at_most_an_hour_and_a_random_half_less(self) -> None:
        self.random = 0.0
        self.end_a_job()
        for _ in range(20):
            self.post.answer(PeerRefused("it answered 500", 500))
            self.clock.advance(LONGEST_DELAY_S / 2)
        self.assertEqual(21, len(self.post.asked))

    def test_one_that_is_refused_again_and_again_lets_others_pass(self) -> None:
        self.end_a_job(1)
        self.end_a_job(2)
        first = self.post.asked[0][2]
        for _ in range(4):
            self.post.answer(PeerRefused("it answered 400", 400))
            self.clock.advance(LONGEST_HOLD_S)
        self.assertTrue(any(body != first for _url, _headers, body in self.post.asked))

    def test_given_up_after_days(self) -> None:
        self.end_a_job()
        self.post.answer(PeerUnreachable("refused"))
        self.clock.advance(KEPT_S + LONGEST_DELAY_S)
        self.post.answer(PeerUnreachable("refused"))
        self.assertFalse(self.waits())

    def test_one_receiver_does_not_hold_up_another(self) -> None:
        self.stop(self.hooks)
        self.journal = MemoryJournal(announcements(A, B).of)
        self.start(A, B)
        self.end_a_job(1)
        self.end_a_job(2)
        self.assertEqual([A, B], [url for url, _headers, _body in self.post.asked])
        self.post.answer(number=1)
        self.post.answer(number=1)
        self.assertEqual([A, B, B], [url for url, _headers, _body in self.post.asked])

    def test_what_is_under_way_at_the_stop_is_sent_in_the_next_life(self) -> None:
        self.end_a_job()
        self.stop(self.hooks)
        self.assertTrue(self.waits())
        self.start(A)
        self.assertEqual(2, len(self.post.asked))
        self.assertEqual(self.post.asked[0][2], self.post.asked[1][2])

    def test_a_url_that_is_gone(self) -> None:
        self.end_a_job()
        self.stop(self.hooks)
        self.start(B)
        self.assertFalse(self.waits())

    def test_an_outbox_that_fails_is_asked_again(self) -> None:
        outbox: Any = self.journal.outbox
        done = outbox.done

        def fail(_delivery: Delivery) -> Any:
            outbox.done = done
            raise StorageFailure("the disk")

        outbox.done = fail
        self.end_a_job()
        self.post.answer()
        self.clock.advance(LONGEST_HOLD_S)
        self.post.answer()
        self.assertFalse(self.waits())
        self.assertEqual(2, len(self.post.asked), "at least once")
