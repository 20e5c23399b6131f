"""A transfer, something that goes wrong, and what must be so all the same: one round, and many.

A round is made from ``Random(f"{seed}-{number}")``, so that one that failed can be played alone:
``TXTRANSFERS_FAULT_ROUND=SEED-NUMBER`` in the environment of this test. Whatever happens, a
receiver has all of a transfer or nothing of it, and what failed succeeds once the fault is over.
"""

import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import attrs

from demo import dataset
from demo.daemon import AnswerError
from tests.functional.fault_line import Mark, Plan, Rule
from tests.functional.faults import Pair
from tests.functional.live import md5, wait_until

SEED = 1
ROUNDS = 360
FULL_ROUNDS = 32
LANES = 4
"""Pairs of daemons side by side: most of a round is waiting."""
KINDS = (
    "none",
    "kill-sender",
    "kill-receiver",
    "kill-both",
    "stop",
    "cut",
    "delay",
    "stall",
    "corrupt-request",
    "corrupt-answer",
    "truncate",
    "shorten",
    "refuse",
    "gateway",
    "lose",
    "storm",
    "pause",
    "cancel",
)
FULL = "full"
DAMAGES = frozenset({"corrupt-request", "corrupt-answer", "truncate", "shorten", "cancel", FULL})
"""After these a job may end as a failure; after all others it must find its way by itself."""
CLEAN = frozenset({"none", "pause", "cancel"})
"""Kinds whose line does nothing wrong: nothing may be left behind at all."""
MODES = ("push", "pull", "send")
LOOKUP, COMMIT = "POST /transfers/lookup", "POST /transfers/push/.*/commit"
PUT, CHUNKS = "PUT ", "GET /transfers/chunks"
ROUTES = {
    "push": (
        "",
        PUT,
        PUT,
        "POST /transfers/push$",
        COMMIT,
        COMMIT,
        "GET /transfers/push",
        "DELETE ",
    ),
    "pull": ("", CHUNKS, CHUNKS, LOOKUP),
    "send": ("", CHUNKS, CHUNKS, LOOKUP, "POST /transfers/pull"),
}
"""What travels in each mode."""
WITH_BODY = ("", PUT, PUT, "POST ")
ENDED = ("Success", "Failure")
SOON = (0, 0, 0.001, 0.003, 0.01, 0.03)
"""Seconds after a request: a commit of these sizes takes about as long."""
END_S = 120.0
FAULTY_S = 4.0
"""How long a line may be faulty at most."""
INJECTED = (
    *("cut", "stall", "delay", "corrupt-request", "corrupt-answer", "truncate", "shorten"),
    *("refuse", "gateway", "lose", "call"),
)
"""What the line must have done."""
NOTICED = ("kill-sender", "kill-receiver", "kill-both", "stop", "pause", "cancel")
"""Kinds of which enough must come in the middle of a transfer."""
BODY = Random(0).randbytes(100_000)
TMPFS_MB = 112
"""Of the disk that fills: 64 of it are never used."""
NO_ANSWER = (OSError, http.client.HTTPException, AnswerError)

Told = dict[str, tuple[str, int]]


@attrs.frozen
class Cargo:
    """A patient at A: the files, and how all of them are asked for."""

    files: Mapping[str, Path]
    told: Told
    resources: Sequence[Any]

    @property
    def size(self) -> int:
        """Bytes of all."""
        return sum(size for _md5, size in self.told.values())


@attrs.frozen
class Round:
    """What is tried; all but the instants comes from the seed and the number."""

    seed: int
    number: int
    kind: str
    mode: str
    compression: str
    delta: bool | None
    cargo: int
    before: str
    """What B has already: ``nothing``, ``part`` or ``all``."""

    @classmethod
    def of(cls, seed: int, number: int, kinds: Sequence[str] = KINDS) -> "Round":
        """The round of that number; neighbours in a lane have different kinds."""
        random = Random(f"{seed}-{number}")
        return cls(
            seed,
            number,
            kinds[number // LANES % len(kinds)],
            random.choice(MODES),
            random.choice(("none", "gzip")),
            random.choice((None, True, False)),
            random.randrange(len(SHAPES)),
            random.choice(("nothing", "nothing", "nothing", "part", "all")),
        )

    def random(self) -> Random:
        """For all that is decided while it is played."""
        return Random(f"{self.seed}-{self.number}-play")


@attrs.define
class Result:
    """How a round ended.

    :ivar touched: whether its jobs noticed something: they failed, or took more than one try.
    :ivar left: abandoned pushes that were still at B.
    """

    round: Round
    ended: str = ""
    touched: bool = False
    left: int = 0
    seconds: float = 0.0
    violation: str = ""


SHAPES: tuple[Callable[[Path, str], list[Path]], ...] = (
    lambda folder, who: dataset.ct_series(folder, 40, 32, 1, patient_id=who),
    lambda folder, who: dataset.ct_series(folder, 8, 300, 2, patient_id=who),
    lambda folder, who: dataset.ct_series(folder, 120, 10, 3, patient_id=who),
    lambda folder, who: [dataset.multiframe(folder / "large.dcm", 4, 4, patient_id=who)],
    lambda folder, who: [
        *dataset.ct_series(folder, 12, 48, 5, patient_id=who),
        dataset.multiframe(folder / "large.dcm", 2, 5, patient_id=who),
    ],
)


class Stage:
    """A pair with its cargoes, on which one round after the other is played."""

    def __init__(
        self, folder: Path, files: Sequence[Sequence[Path]], lane: int, store_b: Path | None = None
    ) -> None:
        """:param lane: pairs of different lanes differ in their settings."""
        transfers = {
            "BucketSize": (64, 128, 256, 96)[lane % 4],
            "MaxHttpRetries": (1, 2, 0, 3)[lane % 4],
            "Threads": (4, 2, 6, 1)[lane % 4],
            "JobRetryDelays": [0.2, 0.5, 1, 1, 2, 2],
            "PeerCommitTimeout": 10,
        }
        settings = {"HttpTimeout": 2, "JobsHistorySize": 50, "Transfers": transfers}
        self.pair = Pair(folder, settings, {"B": store_b} if store_b else None)
        self.cargoes = [self._upload(paths) for paths in files]

    def _upload(self, paths: Sequence[Path]) -> Cargo:
        client = self.pair["A"].client
        told = {answer["ID"]: (path, answer) for path in paths for answer in [client.upload(path)]}
        files = {id_: path for id_, (path, _answer) in told.items()}
        datas = {id_: path.read_bytes() for id_, path in files.items()}
        patient = {answer["ParentPatient"] for _path, answer in told.values()}
        return Cargo(
            files,
            {id_: (md5(data), len(data)) for id_, data in datas.items()},
            [{"Level": "Patient", "ID": id_} for id_ in patient],
        )

    def play(self, wanted: Round) -> Result:
        """Play one round; what must not be is told as the result's ``violation``."""
        started = time.monotonic()
        play = _Play(self.pair, wanted, self.cargoes[wanted.cargo])
        try:
            play.run()
        except Exception as error:
            play.result.violation = f"{type(error).__name__}: {error}\n{play.story()}"
        play.result.seconds = time.monotonic() - started
        return play.result


class _Play:
    """A round that is being played."""

    def __init__(self, pair: Pair, wanted: Round, cargo: Cargo) -> None:
        self.pair = pair
        self.round = wanted
        self.cargo = cargo
        self.random = wanted.random()
        self.result = Result(wanted)
        self.reached = threading.Event()
        self.armed = False
        self.owner = "A" if wanted.mode == "push" else "B"
        both = self.random.sample(("A", "B"), 2)
        victims = {"kill-sender": ["A"], "kill-receiver": ["B"], "kill-both": both}
        self.victims = victims.get(wanted.kind, both[:1] if wanted.kind == "stop" else [])
        self.signal = signal.SIGTERM if wanted.kind == "stop" else signal.SIGKILL
        self.known: dict[str, set[str]] = {}
        self.job: str | None = None
        self.before: Told = {}

    def run(self) -> None:
        self._prepare()
        self._arm()
        self.job = self._submit(patiently=False)
        self._disturb()
        self.pair.line.calm()
        self.pair.revive()
        self._settle()
        self._judge()
        if not self._has_succeeded():
            self._recover()
        self._check_left()
        self._check_store()
        self._check_logs()

    def story(self) -> str:
        """For whoever looks for the reason: the round, its jobs, the logs."""
        self.pair.line.calm()
        try:
            jobs = json.dumps(self._jobs(), indent=1)
        except NO_ANSWER as error:
            jobs = f"no answer: {error}"
        return f"{self.round}\nowner {self.owner}, job {self.job}\n{jobs}\n{self.pair.log_tails()}"

    # Before

    def _prepare(self) -> None:
        self.pair.line.calm()
        client = self.pair["B"].client
        for patient in client.get("/patients"):
            client.request("DELETE", f"/patients/{patient}")
        ids = sorted(self.cargo.files)
        part = {"nothing": [], "all": ids, "part": self.random.sample(ids, len(ids) // 2)}
        for id_ in part[self.round.before]:
            client.upload(self.cargo.files[id_])
            self.before[id_] = self.cargo.told[id_]
        for name in ("A", "B"):
            self.known[name] = set(self.pair[name].client.get("/jobs"))

    def _arm(self) -> None:
        random, kind = self.random, self.round.kind
        plan = Plan()
        if kind == "storm":
            plan.delay = random.choice((0, 0, 0.05))
            plan.marks = self._marks("cut", 3) + self._marks("stall", 1, (0.3, 0.8))
            plan.rules = [self._rule(each) for each in ("refuse", "gateway", "lose")]
        if kind == "cut":
            plan.marks = self._marks(kind, random.randint(1, 4))
        elif kind == "stall":
            plan.marks = self._marks(kind, random.randint(1, 2), (0.3, 0.8, 2.5))
        elif kind == "delay":
            plan.delay = random.choice((0.02, 0.1, 0.3))
        elif kind in ("corrupt-request", "corrupt-answer", "truncate", "shorten"):
            plan.rules = [self._rule(kind) for _ in range(random.randint(1, 3))]
        elif kind in ("refuse", "gateway", "lose"):
            plan.rules = [self._rule(kind) for _ in range(random.randint(1, 4))]
        elif kind != "none":
            self._arm_instant(plan)
        self.armed = plan.instants
        self.pair.line.set(plan)

    def _arm_instant(self, plan: Plan) -> None:
        """Somebody does something at a count of bytes, at a request, or simply some time."""
        how = self.random.random()
        if how < 0.5:
            plan.marks = self._marks("call", 1)
            plan.marks[0].call = self._reach
        elif how < 0.8:
            rule = self._rule("call")
            rule.times, rule.call, rule.seconds = 1, self._reach, self.random.choice(SOON)
            plan.rules = [rule]

    def _marks(self, kind: str, number: int, seconds: Sequence[float] = (0.0,)) -> list[Mark]:
        """At counts of bytes, some of them shortly before the end."""
        half = self.round.compression == "gzip"
        held = {} if self.round.delta is False else self.before
        size = (self.cargo.size - sum(n for _md5, n in held.values())) / (2 if half else 1)
        return [
            Mark(
                int(size * self.random.uniform(self.random.choice((0, 0, 0, 0.95)), 1.02))
                + self.random.randint(0, 4000),
                kind,
                self.random.choice(seconds),
            )
            for _ in range(number)
        ]

    def _rule(self, kind: str) -> Rule:
        random = self.random
        return Rule(
            kind,
            random,
            random.randint(1, 3),
            random.choice((0.1, 0.3, 1.0)),
            random.choice(WITH_BODY if kind == "corrupt-request" else ROUTES[self.round.mode]),
            random.choice((500, 502, 503, 504)),
            random.choice((None, None, 0, 1)),
        )

    def _reach(self) -> None:
        """The instant has come: whom it concerns is ended on the spot."""
        if self.victims:
            self.pair.end(self.victims[0], self.signal)
        self.reached.set()

    # The transfer, and what disturbs it

    def _submit(self, patiently: bool = True) -> str | None:
        """Ask for the transfer; gives its job, or None where only others may know it."""
        wanted: dict[str, Any] = {
            "Resources": self.cargo.resources,
            "Compression": self.round.compression,
            "Peer": {"push": "B", "pull": "A", "send": "B-pulls"}[self.round.mode],
        }
        if self.round.delta is not None:
            wanted["Delta"] = self.round.delta
        asked = "B" if self.round.mode == "pull" else "A"
        route = "pull" if self.round.mode == "pull" else "send"
        try:
            answer = self.pair[asked].client.post(f"/transfers/{route}", wanted)
        except NO_ANSWER:
            if patiently:
                raise
            self.pair[asked].client.close()
            return None
        return str(answer["RemoteJob"] if self.round.mode == "send" else answer["ID"])

    def _disturb(self) -> None:
        kind = self.round.kind
        if self.victims:
            self._wait_for_the_instant()
            self._end_some()
        elif kind in ("pause", "cancel"):
            self._wait_for_the_instant()
            self._steer(kind)
        elif kind == FULL:
            self._wait_for_the_instant()
            self._fill()
        else:
            with contextlib.suppress(AssertionError):
                wait_until(self._have_ended, "the end of the jobs", FAULTY_S)

    def _wait_for_the_instant(self) -> None:
        if not self.armed:
            self.reached.wait(self.random.uniform(0, 0.3))
            return
        with contextlib.suppress(AssertionError):
            wait_until(lambda: self.reached.is_set() or self._have_ended(), "instant", FAULTY_S)

    def _end_some(self) -> None:
        """Once or twice; whom the instant has ended is not ended again."""
        pause = threading.Event()
        for last in range(self.random.randint(0, 1), 2):
            for name in self.victims:
                self.pair.end(name, self.signal)
                pause.wait(self.random.choice((0, 0, 0.1, 0.5)))
            if last == 0:
                self.pair.revive()
                pause.wait(self.random.uniform(0, 0.7))

    def _steer(self, kind: str) -> None:
        if self.job is None:
            return
        client = self.pair[self.owner].client
        client.request("POST", f"/jobs/{self.job}/{kind}", b"")
        if kind == "pause":
            state = client.get(f"/jobs/{self.job}")["State"]
            assert state in ("Paused", *ENDED), f"{state} after a pause"
            if state == "Paused" and self.random.random() < 0.4:
                self.pair.end(self.random.choice("AB"))
                self.pair.revive()
                client = self.pair[self.owner].client
                now = client.get(f"/jobs/{self.job}")["State"]
                assert now == "Paused", f"{now}, having been paused before kill -9"
            threading.Event().wait(self.random.choice((0, 0.2)))
            if state == "Paused":
                client.request("POST", f"/jobs/{self.job}/resume", b"")

    def _fill(self) -> None:
        """Fill B's disk for a moment, up to a few bytes."""
        ballast = self.pair.store_of("B") / "ballast"
        left = self.random.choice((0, 0, 4096, 50_000, 400_000, 40 * 2**20))
        with ballast.open("wb") as file:
            while (free := _free(ballast.parent)) > left:
                with contextlib.suppress(OSError):  # B has taken some meanwhile
                    os.posix_fallocate(file.fileno(), file.tell(), free - left)
                    file.seek(0, os.SEEK_END)
        with contextlib.suppress(AssertionError):
            wait_until(self._have_ended, "the end of the jobs", self.random.uniform(0.2, 2))
        ballast.unlink()

    # After

    def _jobs(self) -> list[Any]:
        """The jobs of this round at both daemons, oldest first."""
        return [
            job
            for name in ("A", "B")
            for job in self.pair[name].client.get("/jobs?expand")
            if job["ID"] not in self.known[name]
        ]

    def _have_ended(self) -> bool:
        try:
            jobs = self._jobs()
        except NO_ANSWER:
            return False
        return bool(jobs) and all(job["State"] in ENDED for job in jobs)

    def _settle(self) -> None:
        jobs = self._jobs()
        if self.round.kind == "corrupt-answer" and self.job not in {job["ID"] for job in jobs}:
            self.job = None  # it was the job's name that was damaged on its way to us
        if self.job is not None:
            assert self.job in {job["ID"] for job in jobs}, f"job {self.job} is lost"
        if jobs:
            wait_until(self._have_ended, "the end of the jobs", END_S)

    def _there(self) -> Told:
        try:
            return self.pair["B"].client.lookup(self.cargo.resources)
        except AnswerError as error:
            if "status 404" not in str(error):
                raise
            return {}

    def _judge(self) -> None:
        jobs, there = self._jobs(), self._there()
        self.result.touched = any(_was_touched(job) for job in jobs) or not jobs
        states = {job["State"] for job in jobs}
        full = there == self.cargo.told
        assert full or there == self.before, f"B has {len(there)} of {len(self.cargo.told)}"
        if "Success" in states:
            assert full, "a job says Success, and not all is there"
            self.result.ended = "success"
            return
        cancelled = any(job["ErrorCode"] == 37 for job in jobs)
        self.result.ended = "cancelled" if cancelled else "failure" if jobs else "no job"
        if full and there != self.before:
            assert self.round.kind not in CLEAN, "all is there, and no job says Success"
            self.result.ended += ", all there"
        may_fail = self.round.kind in DAMAGES or self._was_asked_by_another_life()
        assert may_fail or self.job is None, f"no success after {self.round.kind}"

    def _recover(self) -> None:
        """What failed is submitted again, or cancelled and asked for anew, and must succeed."""
        way = self.random.choice(("resubmit", "resubmit", "cancel"))
        failed = self._jobs()
        for job in failed:
            client = self.pair["A" if job["Type"] == "PushTransfer" else "B"].client
            client.request("POST", f"/jobs/{job['ID']}/{way}", b"")
        if failed:
            wait_until(self._have_ended, "the end of what was resubmitted", END_S)
        if way == "cancel":
            self._check_left()
        if way == "cancel" or not self._has_succeeded():
            may_fail = self.round.kind == "corrupt-request" or self._was_asked_by_another_life()
            allowed = way == "cancel" or not failed or may_fail
            assert allowed, "resubmitted over a clean line, and no success"
            self._send_anew()
            way = "cancelled and sent anew" if way == "cancel" and failed else "sent anew"
        way = "resubmitted" if way == "resubmit" else way
        self.result.ended += f", {way}"
        assert self._there() == self.cargo.told, "a job says Success, and not all is there"

    def _send_anew(self) -> None:
        job = self._submit()
        wait_until(self._have_ended, "the end of what was sent anew", END_S)
        state = self.pair[self.owner].client.get(f"/jobs/{job}")["State"]
        assert state == "Success", f"{state} of what was sent anew over a clean line"

    def _has_succeeded(self) -> bool:
        return any(job["State"] == "Success" for job in self._jobs())

    def _was_asked_by_another_life(self) -> bool:
        """B had not looked up at A yet when A was started anew: that fails for good."""
        details = [job["ErrorDetails"] for job in self._jobs()]
        return self.round.mode == "send" and any("RemoteSelf" in each for each in details)

    def _staging(self, name: str) -> list[str]:
        return os.listdir(self.pair.store_of(name) / "staging")

    def _check_left(self) -> None:
        """Nothing is staged; but a sender that could not reach B may have left a push there."""
        with contextlib.suppress(AssertionError):
            wait_until(lambda: not self._staging("A") + self._staging("B"), "no staging", 2)
        left = self._staging("B")
        self.result.left += len(left)
        for name in left:
            assert self.round.kind not in CLEAN, f"left behind over a clean line: {name}"
            prefix, _dot, id_ = name.partition(".")
            assert prefix == "push", f"left behind by a job that has ended: {name}"
            self.pair["B"].client.request("DELETE", f"/transfers/push/{id_}")
        for name in ("A", "B"):
            assert not self._staging(name), f"staging of {name}: {self._staging(name)}"

    def _check_store(self) -> None:
        """What is shown is right, and nothing else is on the disk."""
        client = self.pair["B"].client
        for id_ in self.random.sample(sorted(self.cargo.told), min(3, len(self.cargo.told))):
            data = client.request("GET", f"/transfers/chunks/{id_}")
            assert data == self.cargo.files[id_].read_bytes(), f"instance {id_} is another"
        for name in ("A", "B"):
            shown = self.pair[name].client.get("/statistics")["CountInstances"]
            wait_until(lambda: len(self._files(name)) == shown, f"{shown} files at {name}", 5)  # noqa: B023
        digests = sorted(md5(path.read_bytes()) for path in self._files("B"))
        assert digests == sorted(it[0] for it in self.cargo.told.values()), "other bytes at B"
        for job in self._jobs():
            self._check_receipt(job)

    def _files(self, name: str) -> list[Path]:
        return list((self.pair.store_of(name) / "instances").glob("*/*"))

    def _check_receipt(self, job: Any) -> None:
        name = "A" if job["Type"] == "PushTransfer" else "B"
        receipt = self.pair[name].client.get(f"/jobs/{job['ID']}/receipt")
        assert receipt["State"] == job["State"], receipt
        if job["State"] == "Success":
            named = {each["ID"]: each["MD5"] for each in receipt["Instances"]}
            assert named == {id_: it[0] for id_, it in self.cargo.told.items()}, receipt

    def _check_logs(self) -> None:
        bad = self.pair.bad_words()
        assert not bad, "\n".join(bad)


def _was_touched(job: Any) -> bool:
    failed = job["State"] == "Failure"
    return failed or len(job["History"]) > 3 or bool(job["Content"].get("Retries"))


def _free(folder: Path) -> int:
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize


class Loop:
    """Plays rounds in lanes side by side; see :meth:`run`."""

    def __init__(self, seed: int, most_violations: int = 5) -> None:
        self.seed = seed
        self.most_violations = most_violations
        self.results: list[Result] = []
        self.injected: Counter[str] = Counter()
        self.store_b: Path | None = None
        self.kinds = KINDS
        self._folder = Path()
        self._files: list[list[Path]] = []

    @property
    def violations(self) -> list[Result]:
        """Rounds in which something was that must not be."""
        return [result for result in self.results if result.violation]

    def run(self, numbers: Iterable[int], told: Callable[[Result], None] = lambda _: None) -> None:
        """Play the rounds of these numbers, until there are too many violations."""
        lanes: dict[int, list[int]] = {}
        for number in numbers:
            lanes.setdefault(number % LANES if self.store_b is None else 0, []).append(number)
        with tempfile.TemporaryDirectory(prefix="txtransfers-faults-") as folder:
            self._folder = Path(folder)
            self._files = [
                shape(self._folder / f"files-{n}", f"PATIENT{n}") for n, shape in enumerate(SHAPES)
            ]
            threads = [
                threading.Thread(target=self._lane, args=(*item, told)) for item in lanes.items()
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    def _lane(self, lane: int, numbers: list[int], told: Callable[[Result], None]) -> None:
        stage: Stage | None = None
        for number in numbers:
            if len(self.violations) >= self.most_violations:
                break
            wanted = Round.of(self.seed, number, self.kinds)
            try:
                if stage is None:
                    folder = self._folder / f"lane-{lane}-{number}"
                    stage = Stage(folder, self._files, lane, self.store_b)
                result = stage.play(wanted)
            except Exception as error:
                result = Result(wanted, violation=f"the pair did not start: {error}")
            self.results.append(result)
            told(result)
            if result.violation:
                self._end(stage)
                stage = None
        error = self._end(stage)
        if error:
            self.results.append(Result(wanted, violation=f"the pair did not stop: {error}"))

    def _end(self, stage: Stage | None) -> Exception | None:
        if stage is None:
            return None
        self.injected.update(stage.pair.line.injected)
        try:
            stage.pair.close()
        except Exception as error:
            return error
        finally:
            if self.store_b is not None:
                for each in self.store_b.iterdir():
                    shutil.rmtree(each) if each.is_dir() else each.unlink()
        return None


class NoDiskError(Exception):
    """No file system can be mounted here."""


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int = TMPFS_MB) -> Iterator[Path]:
    """A file system of its own, in memory.

    :raises NoDiskError: that is not allowed.
    """
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    mounted = subprocess.run(["mount", *options], check=False, capture_output=True, text=True)
    if mounted.returncode:
        raise NoDiskError(mounted.stderr.strip())
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)
