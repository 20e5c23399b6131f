"""Pushes whose requests, threads and broken connections come in any order: none ever hangs.

A round is made from its seed. Senders open, send, ask, commit and delete as they like, on
connections that break where it hurts; threads begin and end in any order; the disk fails. Then all
is calm: each request that is whole is answered, and each push comes to its end, and leaves nothing.
``TXTRANSFERS_ORDER_SEEDS=FIRST-LAST`` in the environment plays other rounds.
"""

import gzip
import os
import time
from random import Random
from typing import Any
from uuid import UUID

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http import HTTPChannel

from tests.shuffled_threads import ShuffledThreads
from tests.web.harness import Answer, Connection, House, make_dicom
from tests.web.test_hostile import chunk, instance, opening
from tests.web.test_push_status import extended, id_of
from txtransfers.errors import StorageFailure, StorageFull
from txtransfers.store import reception
from txtransfers.store.embedded import EmbeddedStore
from txtransfers.store.space import Space
from txtransfers.transfer import streams
from txtransfers.transfer.incoming import IDLE_BEFORE_PARKING_S
from txtransfers.transfer.received_push import AWAITED_S
from txtransfers.web import server
from txtransfers.wire.pushes import commit_json

SEEDS = "1-100"
ROUNDS_EACH = 25
"""Rounds that one daemon lives."""

STEPS = (20, 60, 200)
SLICE = 300
"""Bytes, in place of what :mod:`.streams` has: small files are large then."""

PATIENCE = 10_000
"""Steps of threads after which they have no end."""

TICK_S = 0.5
ANSWER_S = 5.0
"""Of the clock: a limit of bandwidth takes a second or two for a bucket."""

TRIES = 20
"""Of a sender when all is calm."""


class _Line(Connection):
    """A connection whose end is noticed as that of a real one: by who reads from it."""

    def __init__(self, house: House) -> None:
        super().__init__(house, "127.0.0.1")
        self.is_cut = False
        self.asked: list[str] = []
        self._rest = b""

    def ask(self, method: str, target: str, body: bytes | None, size: int) -> None:
        """Begin a request. :param size: bytes of the body that are sent now."""
        headers = {"Content-Length": str(len(body))} if body is not None else {}
        self.asked.append(f"{method} {target}")
        self._rest = body[size:] if body is not None else b""
        self.request(method, target, body[:size] if body is not None else None, headers)

    def go_on(self, size: int) -> None:
        """Send the next bytes of the body."""
        part, self._rest = self._rest[:size], self._rest[size:]
        self.send(part)

    @property
    def is_sending(self) -> bool:
        """Whether a body is not whole yet."""
        return bool(self._rest) and not self.is_cut

    @property
    def is_usable(self) -> bool:
        """Whether another request can follow."""
        return self.is_open and not self.is_cut and not self._rest

    @property
    def unanswered(self) -> list[str]:
        """Requests without an answer, where one can still come."""
        return self.asked[len(self.answers()) :] if self.is_open else []

    def cut(self) -> None:
        """The client is gone; a server that does not read learns it later."""
        self.is_cut = True
        self.pass_on()

    def pass_on(self) -> None:
        """Let the server have what it can: bytes, or the end."""
        if not self.is_cut:
            self.flush()
        elif self.is_read:
            self.wire.lost(Failure(ConnectionLost()))


class _Sender:
    """Who sends one push, in no order at all."""

    def __init__(self, play: "_Round", name: str) -> None:
        self._play = play
        self._random = random = play.random
        self._files = [
            make_dicom(random.randint(600, 1500), f"1.2.3.{name}.{n}")
            for n in range(random.randint(1, 4))
        ]
        self._compression = random.choice(("none", "gzip"))
        key = str(UUID(int=random.getrandbits(128)))
        self._path = f"/transfers/push/{key}"
        self._buckets = self._cut()
        self._opening = extended(self._plan(), key, delta=random.random() < 0.5)

    def _cut(self) -> list[list[tuple[int, int, int]]]:
        """The buckets: file, offset and size of each chunk."""
        size = self._random.choice((200, 500, 2000))
        pieces = [
            (n, offset, min(size, len(data) - offset))
            for n, data in enumerate(self._files)
            for offset in range(0, len(data), size)
        ]
        step = self._random.randint(1, 3)
        return [pieces[n : n + step] for n in range(0, len(pieces), step)]

    def _plan(self) -> bytes:
        ids = [id_of(data) for data in self._files]
        instances = [instance(id_, data) for id_, data in zip(ids, self._files, strict=True)]
        buckets = [[chunk(ids[n], offset, size) for n, offset, size in b] for b in self._buckets]
        return opening(instances, buckets, self._compression)

    def _bucket(self, number: int) -> bytes:
        data = b"".join(self._files[n][at : at + size] for n, at, size in self._buckets[number])
        return gzip.compress(data, 1, mtime=0) if self._compression == "gzip" else data

    def open(self) -> None:
        """Ask for it to be opened."""
        self._begin("POST", "/transfers/push", self._opening)

    def do_something(self) -> None:
        """Begin one of the requests that belong to a push, whatever was answered before."""
        numbers = range(len(self._buckets))
        what = ("open", "put", "status", "verify", "commit", "after", "delete")
        match self._random.choices(what, (2, 8, 2, 2, 1, 1, 0.3))[0]:
            case "open":
                self.open()
            case "put":
                number = self._random.choice(numbers)
                early = self._random.choice(("", "", "?early=1"))
                self._begin("PUT", f"{self._path}/{number}{early}", self._bucket(number))
            case "status":
                self._begin("GET", self._path)
            case "verify":
                self._begin("GET", f"{self._path}?verify=1")
            case "commit":
                self._begin("POST", f"{self._path}/commit", b"")
            case "after":
                some = self._random.sample(numbers, self._random.randint(0, len(numbers)))
                self._begin("POST", f"{self._path}/commit", commit_json(sorted(some)))
            case "delete":
                self._begin("DELETE", self._path)

    def _begin(self, method: str, target: str, body: bytes | None = None) -> None:
        usable = [line for line in self._play.lines if line.is_usable]
        behind = usable and self._random.random() < 0.5
        line = self._random.choice(usable) if behind else self._play.connect()
        size = len(body or b"")
        line.ask(method, target, body, self._random.choice((size, self._random.randint(0, size))))

    def finish(self) -> None:
        """Go on as our own senders do after trouble, up to the commit."""
        for _ in range(TRIES):
            if self._try():
                return
        raise AssertionError("no success, though all is calm")

    def _try(self) -> bool:
        ask = self._play.ask
        answer = ask("GET", self._path + self._random.choice(("", "?verify=1")))
        if answer.status == 404:
            answer = ask("POST", "/transfers/push", self._opening)
        if answer.status == 503:  # no room: the others are to give way
            self._play.house.clock.advance(IDLE_BEFORE_PARKING_S)
        if answer.status != 200:
            return False
        told = answer.json()
        for first, last in told.get("Missing", ()):
            for number in range(first, last + 1):
                ask("PUT", f"{self._path}/{number}", self._bucket(number))
        is_whole = told.get("State") == "Receiving"
        committed = is_whole and ask("POST", f"{self._path}/commit", b"").status == 200
        return committed or told.get("State") == "Committed"


class _Round:
    """See the module."""

    def __init__(self, house: House, threads: ShuffledThreads, random: Random, seed: int) -> None:
        self.house = house
        self.random = random
        self.lines: list[_Line] = []
        self._threads = threads
        self._tidying: list[Deferred[None]] = []
        self._senders = [_Sender(self, f"{seed}.{n}") for n in range(random.randint(1, 3))]

    def connect(self) -> _Line:
        """A new connection."""
        self.lines.append(_Line(self.house))
        return self.lines[-1]

    def disturb(self) -> None:
        """Many things in any order."""
        self.house.transactions.bodies.resize(self.random.choice((1, 2, 8)))
        for sender in self._senders:
            self.random.choice((sender.open, sender.do_something))()
        for _ in range(self.random.choice(STEPS)):
            self._step()

    def _step(self) -> None:
        sending = [line for line in self.lines if line.is_sending]
        match self.random.random():
            case kind if kind < 0.25:
                self.random.choice(self._senders).do_something()
            case kind if kind < 0.4 and sending:
                self.random.choice(sending).go_on(self.random.choice((1, 50, 10_000)))
            case kind if 0.4 < kind < 0.46 and self.lines:
                self.random.choice(self.lines).cut()
            case kind if 0.46 < kind < 0.5:
                self.house.clock.advance(self.random.choice((0, 0.01, 0.5, 2, 2, 10, 40, 61)))
            case kind if 0.5 < kind < 0.51:
                timeout = self.random.choice((5, 100))
                expiring = self.house.transactions.expire(timeout, time.time())
                self._tidying.append(Deferred.fromCoroutine(expiring))
            case _:
                self._threads.step()
        self._pass_on()

    def _pass_on(self) -> None:
        for line in list(self.lines):
            line.pass_on()
            if not line.is_open:
                self.lines.remove(line)

    def _settle(self, seconds: float = 0.0) -> None:
        """Let all threads come to their end, and the time go on for so long."""
        left = seconds
        for _ in range(PATIENCE):
            self._pass_on()
            if self._threads.step():
                continue
            if left <= 0:
                return
            self.house.clock.advance(TICK_S)
            left -= TICK_S
        raise AssertionError("the threads have no end of work")

    def calm(self) -> None:
        """What was begun comes to its end; then the senders go on."""
        for line in self.lines:
            if line.is_sending:
                line.cut()
        self._settle()
        for _ in range(TRIES):  # those on one connection wait for each other
            if any(line.is_cut or line.unanswered for line in self.lines):
                self._settle(AWAITED_S)
        for line in self.lines:
            assert not line.unanswered, f"no answer to {line.unanswered}"
            assert not line.is_cut, f"a broken connection stays: {line.asked}"
            line.cut()
        self._settle()
        assert all(tidying.called for tidying in self._tidying), "expiring has no end"
        for sender in self._senders:
            sender.finish()

    def ask(self, method: str, target: str, body: bytes | None = None) -> Answer:
        """A request on a connection of its own, over which nothing goes wrong."""
        line = self.connect()
        line.ask(method, target, body, len(body or b""))
        self._settle(ANSWER_S)
        answers = line.answers()
        assert len(answers) == 1, f"{len(answers)} answers to {method} {target}"
        line.cut()
        return answers[0]

    def check_left(self) -> None:
        """Nothing is: no room, no memory, no file."""
        transactions, store = self.house.transactions, self.house.store
        held = transactions.open_count, transactions.bodies.held, self.house.site.load.uploads
        assert held == (0, 0, 0), f"pushes, bodies, uploads: {held}"
        assert not transactions._expected, "buckets wait for openings"
        staged = os.listdir(store.log_path("")), store.space.staged()
        assert staged == ([], (0, 0, 0)), staged


class OrderTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.failing = 0.0
        self.patch(streams, "SLICE", SLICE)
        self.patch(streams, "_HIGH_WATER", 2 * SLICE)
        self.patch(server, "_UNCLAIMED", SLICE)
        self.patch(HTTPChannel, "_optimisticEagerReadSize", SLICE)
        self.patch(reception, "sync_file", self.fail_at_times(reception.sync_file))
        self.patch(Space, "check_disk", self.fail_at_times(Space.check_disk))
        self.random = Random()

    def fail_at_times(self, function: Any) -> Any:
        def call(*args: Any) -> Any:
            if self.random.random() < self.failing:
                raise self.random.choice((StorageFull, StorageFailure))("The disk is bad")
            return function(*args)

        return call

    def begin(self) -> None:
        """Another daemon, which has nothing yet."""
        self.threads = ShuffledThreads(self.random)
        store = EmbeddedStore(os.path.abspath(self.mktemp()), self.threads, commit_threads=2)
        store.start()
        self.addCleanup(store.stop)
        bandwidth = self.random.choice(("0", "0", "40k"))
        transfers = {"MaxPushTransactions": 2, "Bandwidth": bandwidth}
        self.house = House({"Transfers": transfers}, store=store, threads=self.threads)

    def play(self, seed: int) -> None:
        each = _Round(self.house, self.threads, self.random, seed)
        self.failing = self.random.choice((0, 0, 0, 0.02, 0.2))
        each.disturb()
        self.failing = 0.0
        each.calm()
        each.check_left()

    def test_no_order_makes_a_push_hang(self) -> None:
        first, _dash, last = os.environ.get("TXTRANSFERS_ORDER_SEEDS", SEEDS).partition("-")
        for number, seed in enumerate(range(int(first), int(last or first) + 1)):
            self.random.seed(seed)
            if number % ROUNDS_EACH == 0:
                self.begin()
            try:
                self.play(seed)
            except Exception as error:
                first_of_daemon = seed - number % ROUNDS_EACH
                raise AssertionError(f"in the rounds {first_of_daemon}-{seed}") from error
