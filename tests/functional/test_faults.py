"""Hundreds of transfers, each with something that goes wrong; see ``fault_rounds.py``."""

import contextlib
import http.client
import os
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from typing import Any

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.functional.fault_line import Line, Mark, Plan, Rule
from tests.functional.fault_rounds import (
    BODY,
    FULL,
    FULL_ROUNDS,
    INJECTED,
    NOTICED,
    ROUNDS,
    SEED,
    Loop,
    NoDiskError,
    small_disk,
)
from tests.functional.live import Answer, ask, md5
from tests.real_parts import REQUIRE_ALL, need


class FaultTests(SynchronousTestCase):
    def assert_no_violation(self, loop: Loop) -> None:
        told = "\n\n".join(
            f"seed {loop.seed}, round {result.round.number}: {result.violation}"
            for result in loop.violations
        )
        self.assertEqual(len(loop.violations), 0, told)

    def test_all_or_nothing_whatever_goes_wrong(self) -> None:
        seed, _dash, number = os.environ.get("TXTRANSFERS_FAULT_ROUND", f"{SEED}").partition("-")
        loop = Loop(int(seed))
        loop.run([int(number)] if number else range(ROUNDS))
        self.assert_no_violation(loop)
        if number:
            return
        self.assertEqual(len(loop.results), ROUNDS)
        touched = Counter(result.round.kind for result in loop.results if result.touched)
        for kind in NOTICED:
            self.assertGreater(touched[kind], 3, f"{kind} happened too late: {touched}")
        for kind in INJECTED:
            self.assertGreater(loop.injected[kind], 9, f"{kind}: {loop.injected}")

    def test_a_disk_that_fills(self) -> None:
        need(self, "mount")
        folder = Path(self.mktemp()).absolute()
        loop = Loop(SEED)
        loop.kinds = (FULL,)
        try:
            with small_disk(folder) as loop.store_b:
                loop.run(range(FULL_ROUNDS))
        except NoDiskError as error:
            if os.environ.get(REQUIRE_ALL) == "1":
                raise
            raise SkipTest(f"no tmpfs can be mounted: {error}") from None
        self.assert_no_violation(loop)
        ends = Counter(result.ended for result in loop.results)
        self.assertGreater(FULL_ROUNDS - ends["success"], 3, ends)


class _Backend(BaseHTTPRequestHandler):
    """Answers PUT with the MD5 of the body, GET with a body: in chunks below /chunked."""

    protocol_version = "HTTP/1.1"
    server: Any

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked += 1
        self.send_response(200)
        answer = md5(body).encode()
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def do_GET(self) -> None:
        self.server.asked += 1
        self.send_response(200)
        if self.path != "/chunked":
            self.send_header("Content-Length", str(len(BODY)))
            self.end_headers()
            self.wfile.write(BODY)
            return
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for part in (BODY[:70_000], BODY[70_000:], b""):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Tell nobody."""


class LineTests(SynchronousTestCase):
    """The line itself: what it is asked to break, it breaks, and nothing else."""

    def setUp(self) -> None:
        self.backend: Any = ThreadingHTTPServer(("127.0.0.1", 0), _Backend)
        self.backend.daemon_threads = True
        self.backend.asked = 0
        threading.Thread(target=self.backend.serve_forever, args=(0.05,), daemon=True).start()
        self.addCleanup(self.backend.server_close)
        self.addCleanup(self.backend.shutdown)
        self.line = Line(("B",))
        self.addCleanup(self.line.close)
        self.line.targets["B"] = self.backend.server_address[1]

    def ask(self, method: str = "GET", path: str = "/", body: bytes | None = None) -> Answer:
        return ask(self.line.ports["B"], method, path, body)

    def rule(self, kind: str, **more: Any) -> Rule:
        rule = Rule(kind, Random(1), **more)
        self.line.set(Plan(rules=[rule]))
        return rule

    def assert_right(self) -> None:
        self.assertEqual(self.ask().body, BODY)

    def test_what_is_whole_passes(self) -> None:
        self.assertEqual(self.ask("PUT", "/x", BODY).body.decode(), md5(BODY))
        self.assertEqual(self.ask(path="/chunked").body, BODY)
        self.assert_right()
        self.assertGreater(self.line.passed, 3 * len(BODY))
        self.assertEqual(self.line.injected, {})

    def test_answers_of_its_own(self) -> None:
        self.rule("refuse", routes="PUT ", status=502, retry_after=1)
        self.assert_right()
        refused = self.ask("PUT", "/x", BODY)
        self.assertEqual((refused.status, refused.headers["retry-after"]), (502, "1"))
        self.assertEqual(self.backend.asked, 1)
        self.rule("gateway", status=504)
        self.assertEqual((self.ask().status, self.backend.asked), (504, 2))
        self.rule("lose")
        self.assertRaises((ConnectionError, http.client.HTTPException), self.ask)
        self.assertEqual(self.backend.asked, 3)
        self.assert_right()

    def test_damage(self) -> None:
        self.rule("corrupt-request", times=2)
        self.assert_right()
        self.assertNotEqual(self.ask("PUT", "/x", BODY).body.decode(), md5(BODY))
        for path in ("/", "/chunked"):
            self.rule("corrupt-answer")
            damaged = self.ask(path=path).body
            self.assertEqual(len(damaged), len(BODY))
            self.assertNotEqual(damaged, BODY)
        self.rule("truncate")
        self.assertRaises(http.client.IncompleteRead, self.ask)
        self.rule("shorten")
        self.assertLess(len(self.ask().body), len(BODY))
        self.assert_right()

    def test_counts_of_bytes(self) -> None:
        self.line.set(Plan([Mark(120_000, "cut"), Mark(50_000, "cut")]))
        for passed in (50_000, 120_000):
            with contextlib.suppress(ConnectionError, http.client.HTTPException):
                self.ask()
                self.fail("not cut")
            self.assertEqual(self.line.passed, passed)
        self.assert_right()
        called = threading.Event()
        self.line.set(Plan([Mark(1000, "stall", 0.2), Mark(2000, "call", call=called.set)]))
        started = time.monotonic()
        self.assert_right()
        self.assertGreater(time.monotonic() - started, 0.19)
        self.assertTrue(called.is_set())
        self.assertEqual(self.line.injected, {"cut": 2, "stall": 1, "call": 1})
