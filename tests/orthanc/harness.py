"""A store in front of a fake Orthanc, and what tests do with it."""

import os
from collections.abc import Awaitable, Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.orthanc.fake_orthanc import FakeOrthanc, md5, settings
from txtransfers.orthanc.connection import Agents
from txtransfers.orthanc.rest import OrthancRest
from txtransfers.orthanc.store import OrthancStore
from txtransfers.store.interfaces import CommitReport, Outcome, Piece
from txtransfers.threads import SynchronousThreads
from txtransfers.wire.plan import Chunk, Instance

PATIENCE_S = 600
"""Seconds of the clock after which everything has been given up."""


class StoreTestCase(SynchronousTestCase):
    """One store after the other, in the same folder, in front of one Orthanc."""

    def setUp(self) -> None:
        self.orthanc = FakeOrthanc()
        self.clock = Clock()
        self.folder = os.path.abspath(self.mktemp())
        self.steps: list[str] = []
        self.on_step: Callable[[str], None] = lambda _what: None
        self.store = self.new_store()

    def step(self, what: str) -> None:
        self.steps.append(what)
        self.on_step(what)

    def new_store(self, **more: Any) -> OrthancStore:
        """A store that has started."""
        threads = SynchronousThreads()
        rest = OrthancRest(
            self.clock, threads, Agents(self.orthanc, self.orthanc), settings(), 60.0
        )
        values: dict[str, Any] = {"commit_threads": 2, "import_step": self.step} | more
        store = OrthancStore(self.folder, rest, threads, self.clock, 2**30, **values)
        store.start()
        self.addCleanup(store.stop)
        return store

    def restart(self, **more: Any) -> None:
        """The daemon was killed, and is there again."""
        self.store._unfinished.stop()
        self.store._stopped = True
        self.store.stop()
        self.clock = Clock()
        self.on_step = lambda _what: None
        self.store = self.new_store(**more)
        self.store.begin()
        self.wait()

    def wait(self) -> None:
        """Let time pass, until nothing is to be expected any more."""
        for _ in range(PATIENCE_S):
            self.clock.advance(1)

    def now(self, result: Awaitable[Any]) -> Any:
        """The result of a Deferred, whatever time it takes."""
        assert isinstance(result, Deferred)
        fired: list[None] = []
        result.addBoth(lambda value: fired.append(None) or value)
        for _ in range(PATIENCE_S):
            if fired:
                break
            self.clock.advance(1)
        return self.successResultOf(result)

    def fails(self, result: Any, *types: type[BaseException]) -> Any:
        """The error of a Deferred, whatever time it takes."""
        fired: list[None] = []
        result.addBoth(lambda value: fired.append(None) or value)
        for _ in range(PATIENCE_S):
            if fired:
                break
            self.clock.advance(1)
        return self.failureResultOf(result, *types).value

    def receive(self, *files: bytes, name: str = "one", ids: tuple[str, ...] = ()) -> Any:
        """A staging area in which all bytes are."""
        declared = [
            Instance(id_, len(data), md5(data))
            for id_, data in zip(ids or map(self.stand_in, range(99)), files, strict=False)
        ]
        incoming = self.now(self.store.receive(declared, name))
        pieces = [Piece(i.id, 0, data) for i, data in zip(declared, files, strict=True)]
        self.now(incoming.write(pieces))
        return incoming

    def stand_in(self, number: int) -> str:
        return "-".join([f"{number:08x}"] * 5)

    def commit(self, *files: bytes, name: str = "one") -> tuple[Outcome, ...]:
        """Transfer files; gives what became of them."""
        report: CommitReport = self.now(self.receive(*files, name=name).commit())
        return report.outcomes

    def read(self, id_: str, size: int, limit: int = 2**20) -> bytes:
        """An instance, by way of a reader."""
        reader = self.store.open([Chunk(id_, 0, size)])
        parts = []
        while data := self.now(reader.read(limit)):
            parts.append(data)
        reader.close()
        return b"".join(parts)

    def left(self) -> list[str]:
        """What is on the disk of staging areas."""
        own = os.path.join(self.folder, "gateway")
        return [
            *os.listdir(os.path.join(own, "instances")),
            *os.listdir(os.path.join(own, "staging")),
        ]
