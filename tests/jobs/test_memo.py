"""What a transfer remembers, in the journal."""

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from tests.jobs.test_model import job
from txtransfers.jobs.journal import Kind, MemoryJournal
from txtransfers.jobs.memo import JobMemo
from txtransfers.threads import SynchronousThreads
from txtransfers.wire.plan import Instance

INSTANCES = (Instance("a", 5, "md5 of a"), Instance("b", 2**40, ""))


class MemoTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.job = job()
        self.journal = MemoryJournal()
        self.memo = self.make()

    def make(self) -> JobMemo:
        return JobMemo(self.job, self.journal, SynchronousThreads(), lambda: 500.0)

    def do(self, coroutine: Any) -> Any:
        return self.successResultOf(Deferred.fromCoroutine(coroutine))

    def kept(self) -> Any:
        return self.successResultOf(self.journal.load())[0]

    def test_at_first(self) -> None:
        self.assertEqual((self.memo.id, self.memo.state), (self.job.id, {}))
        self.assertFalse(self.memo.anew)
        self.assertIsNone(self.do(self.memo.instances()))

    def test_state(self) -> None:
        state = {"path": "/x", "done": [[0, 7]]}
        self.do(self.memo.keep(state))
        self.assertEqual((self.kept().memo, self.make().state), (state, state))
        state["path"] = "/y"
        self.assertEqual(self.memo.state["path"], "/x", "it is a copy")

    def test_anew(self) -> None:
        self.job.anew = True
        self.assertTrue(self.memo.anew)
        self.memo.anew = False
        self.do(self.memo.keep({}))
        self.assertFalse(self.kept().anew)

    def test_instances(self) -> None:
        for instances in (INSTANCES, INSTANCES[:1], ()):
            self.do(self.memo.keep_instances(instances))
            self.assertEqual(self.do(self.make().instances()), instances)

    def test_instances_are_those_of_one_job(self) -> None:
        self.do(self.memo.keep_instances(INSTANCES))
        other = JobMemo(job(), self.journal, SynchronousThreads(), lambda: 500.0)
        self.assertIsNone(self.do(other.instances()))
        self.successResultOf(self.journal.forget([self.job.id]))
        self.assertIsNone(self.successResultOf(self.journal.attached(self.job.id, Kind.INSTANCES)))

    def test_what_people_read(self) -> None:
        self.memo.say("The peer has forgotten it")
        self.assertEqual(self.job.history[-1], (500.0, "The peer has forgotten it"))
