"""The watchdog hears that all is well only as long as it is."""

import os
import sqlite3
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.slow_threads import SlowThreads
from txtransfers.daemon.supervision import Supervision
from txtransfers.jobs.model import State
from txtransfers.store.embedded import EmbeddedStore
from txtransfers.systemd import Notifier


@attrs.define
class Ear(Notifier):
    """Keeps what is told."""

    watchdog_s: float = 6.0
    is_heard: bool = True
    heard: list[str] = attrs.Factory(list)

    def _tell(self, *lines: str) -> None:
        self.heard.append("|".join(lines))


class SupervisionTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.threads = SlowThreads()
        self.store = EmbeddedStore(os.path.abspath(self.mktemp()), self.threads)
        self.store.start()
        self.addCleanup(self.store.stop)
        self.clock, self.ear, self.reloads = Clock(), Ear(), list[Deferred[None]]()
        jobs = [SimpleNamespace(state=state) for state in (State.RUNNING, State.PENDING)]
        made: Any = SimpleNamespace(
            threads=self.threads,
            store=self.store,
            jobs=SimpleNamespace(jobs=lambda: jobs),
            certificates=SimpleNamespace(look=self.look),
        )
        self.supervision = Supervision(self.clock, made, self.ear)

    def look(self, everything: bool) -> "Deferred[None]":
        self.assertTrue(everything)
        self.reloads.append(Deferred())
        return self.reloads[-1]

    def alive(self) -> int:
        return sum("WATCHDOG=1" in told for told in self.ear.heard)

    def start(self) -> None:
        self.supervision.start("http://here/")

    def test_it_is_told_thrice_within_its_time(self) -> None:
        self.start()
        self.assertEqual(
            "READY=1|STATUS=Listens on http://here/; jobs that run: 1", self.ear.heard[0]
        )
        self.clock.pump([2.0] * 3)
        self.assertEqual(4, self.alive())

    def test_a_thread_that_does_not_come_back(self) -> None:
        self.threads.is_slow = True
        self.start()
        self.clock.pump([2.0] * 5)
        self.assertEqual((0, 1), (self.alive(), len(self.threads.waiting)))
        self.threads.go_on()
        self.clock.advance(2.0)
        self.assertGreater(self.alive(), 0)

    def test_an_index_that_cannot_be_read(self) -> None:
        self.start()
        good, before = self.store.database.read, self.alive()

        def broken(_function: Callable[[sqlite3.Connection], Any]) -> None:
            raise sqlite3.OperationalError("disk I/O error")

        self.store.database.read = broken  # type: ignore[method-assign,assignment]
        self.clock.advance(2.0)
        self.assertEqual(before, self.alive())
        self.assertIn("disk I/O error", self.ear.heard[-1])
        self.store.database.read = good  # type: ignore[method-assign]
        self.clock.advance(2.0)
        self.assertEqual(before + 1, self.alive(), "and it is asked again")

    def test_a_reload(self) -> None:
        self.start()
        self.supervision.reload()
        self.assertIn("RELOADING=1", self.ear.heard[-1])
        self.reloads.pop().callback(None)
        self.assertIn("READY=1", self.ear.heard[-1])

    def test_a_stop(self) -> None:
        self.start()
        self.supervision.stop()
        self.supervision.stop()
        told = len(self.ear.heard)
        self.clock.pump([2.0] * 5)
        self.assertEqual(told, len(self.ear.heard))
        self.assertIn("STOPPING=1", self.ear.heard[-1])

    def test_nobody_listens(self) -> None:
        self.ear.is_heard = False
        self.start()
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_without_a_watchdog_it_is_told_seldom(self) -> None:
        self.ear.watchdog_s = 0.0
        self.start()
        self.clock.advance(29.0)
        told = len(self.ear.heard)
        self.clock.advance(1.0)
        self.assertEqual(told + 1, len(self.ear.heard))
