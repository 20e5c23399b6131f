"""Priorities in the log, as the journal reads them."""

import io
import os
from typing import Any

from twisted.logger import Logger, LogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from txtransfers.journal_log import is_journal, observer_to


class LogTests(SynchronousTestCase):
    def logged(self, say: Any) -> str:
        file = io.StringIO()
        say(Logger("here", observer=LogPublisher(observer_to(file))))
        return file.getvalue()

    def test_levels(self) -> None:
        for level, number in (
            ("debug", 7),
            ("info", 6),
            ("warn", 4),
            ("error", 3),
            ("critical", 2),
        ):
            said = self.logged(lambda log, level=level: getattr(log, level)("x"))
            self.assertEqual(f"<{number}>[here#{level}] x\n", said)

    def test_each_line_has_it(self) -> None:
        self.assertEqual(
            "<4>[here#warn] a\n<4>b\n<4>  c\n", self.logged(lambda log: log.warn("a\nb\n\n  c\n"))
        )

    def test_a_line_cannot_choose_its_own(self) -> None:
        said = self.logged(lambda log: log.info("{x}", x="a\n<0>b\r<0>c\x85<0>d"))
        self.assertEqual(["<6>"] * 4, [line[:3] for line in said.splitlines()])

    def test_a_traceback(self) -> None:
        try:
            raise ValueError("no")
        except ValueError:
            failure = Failure()
        lines = self.logged(lambda log: log.failure("It failed", failure)).splitlines()
        self.assertGreater(len(lines), 3)
        self.assertEqual({"<2>"}, {line[:3] for line in lines})

    def test_what_is_no_event_of_ours(self) -> None:
        file = io.StringIO()
        observer_to(file)({"log_format": "x"})
        observer_to(file)({})
        self.assertRegex(file.getvalue(), r"\A<6>\[.*\] x\n\Z")


class JournalTests(SynchronousTestCase):
    def test_whether_it_is_the_journal(self) -> None:
        reading, writing = os.pipe()
        self.addCleanup(os.close, reading)
        found = os.fstat(writing)
        stream = f"{found.st_dev}:{found.st_ino}"
        self.assertTrue(is_journal({"JOURNAL_STREAM": stream}, writing))
        self.assertFalse(is_journal({"JOURNAL_STREAM": "1:2"}, writing))
        self.assertFalse(is_journal({}, writing))
        os.close(writing)
        self.assertFalse(is_journal({"JOURNAL_STREAM": stream}, writing))
