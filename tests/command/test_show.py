"""What people see: no control characters, figures that can be read."""

import io
import json
from typing import Any

from rich.console import Console
from twisted.trial.unittest import SynchronousTestCase

from txtransfers.client import Job
from txtransfers.client.values import read_job
from txtransfers.command.show import (
    Pace,
    Screen,
    duration_text,
    make_table,
    plain,
    rate_text,
    size_text,
    summary,
)


def job(state: str = "Running", **more: Any) -> Job:
    content = {
        "Peer": "B",
        "TotalInstances": 40,
        "TotalSize": "100000000",
        "UploadedSize": "25000000",
        **more.pop("content", {}),
    }
    value = {"ID": "abcdefgh-1", "Type": "PushTransfer", "State": state, "Progress": 25}
    return read_job(value | {"Content": content} | more)


class TextTests(SynchronousTestCase):
    def test_plain(self) -> None:
        for hostile in (
            "\x1b[2J",
            "a\nb",
            "a\rb",
            "\x9b31m",
            "\u202eabc",
            "\u2028",
            "\x00",
            "\x7f",
        ):
            self.assertNotIn(hostile, plain(hostile))
            self.assertIn("\N{REPLACEMENT CHARACTER}", plain(hostile))
        self.assertEqual("Müller^Ŝtefan 山田 [red]", plain("Müller^Ŝtefan 山田 [red]"))

    def test_figures(self) -> None:
        self.assertEqual("0 B", size_text(0))
        self.assertEqual("999 B", size_text(999))
        self.assertEqual("1.5 kB", size_text(1500))
        self.assertEqual("21.0 MB", size_text(21_019_408))
        self.assertEqual("3.2 TB", size_text(3.2e12))
        self.assertEqual("", rate_text(None))
        self.assertEqual("0 B/s", rate_text(0.0))
        self.assertEqual(("0:05", "1:05", "1:01:05"), tuple(map(duration_text, (5, 65, 3665))))
        self.assertEqual(("", ""), (duration_text(None), duration_text(1e9)))


class PaceTests(SynchronousTestCase):
    def test_a_job_that_runs(self) -> None:
        pace = Pace(job())
        pace.saw(job(content={"UploadedSize": "0"}), 0.0)
        pace.saw(job(), 5.0)
        self.assertEqual(
            "abcdefgh  Running  25 %  25.0 MB of 100.0 MB  5.0 MB/s  0:15 left", pace.line()
        )

    def test_what_was_there_counts_as_done(self) -> None:
        pace = Pace(job(content={"SkippedSize": "50000000"}))
        self.assertEqual(("75 %", "75.0 MB of 100.0 MB"), (pace.percent, pace.amount))

    def test_never_all_before_the_end(self) -> None:
        self.assertEqual("99 %", Pace(job(content={"UploadedSize": "100000000"})).percent)
        self.assertEqual("100 %", Pace(job("Success")).percent)

    def test_before_the_plan(self) -> None:
        value = {"ID": "abcdefgh", "Type": "PullTransfer", "State": "Pending", "Content": {}}
        self.assertEqual("abcdefgh  Pending  0 %", Pace(read_job(value)).line())

    def test_one_that_waits_for_another_try(self) -> None:
        line = Pace(
            job("Retry", ErrorCode=9, ErrorDetails="it\nis gone", NextTryTime="20261127T093012.5")
        ).line()
        self.assertIn("Retry", line)
        self.assertIn("next try at 09:30:12 UTC: it\N{REPLACEMENT CHARACTER}is gone", line)


class SummaryTests(SynchronousTestCase):
    def test_success(self) -> None:
        text = summary(job("Success", EffectiveRuntime=2.0, content={"SkippedInstances": 3}))
        self.assertEqual(
            "Success: 40 instances, 100.0 MB, in 2.0 s (50.0 MB/s); 3 were there before", text
        )

    def test_of_an_orthanc(self) -> None:
        value = {"ID": "x", "Type": "T", "State": "Success"}
        self.assertEqual("Success", summary(read_job(value)))

    def test_failure(self) -> None:
        text = summary(job("Failure", ErrorCode=9, ErrorDescription="Bad", ErrorDetails=""))
        self.assertEqual("Failure: Bad", text)


class TableTests(SynchronousTestCase):
    def shown(self, width: int) -> str:
        out = io.StringIO()
        console = Console(file=out, width=width, highlight=False)
        console.print(make_table(["Job", "Note"], [("abcdefgh", "[red]x[/] \x1b[2J " + "y" * 90)]))
        return out.getvalue()

    def test_nothing_is_markup_and_nothing_is_cut(self) -> None:
        text = self.shown(1000)
        self.assertIn("[red]x[/]", text)
        self.assertNotIn("\x1b", text)

    def test_narrow(self) -> None:
        text = self.shown(40)
        self.assertIn("abcdefgh", text)
        self.assertEqual(90, text.count("y"))


class ScreenTests(SynchronousTestCase):
    def test_json_is_ascii_whatever_is_in_it(self) -> None:
        from contextlib import redirect_stdout  # noqa: PLC0415

        out = io.StringIO()
        with redirect_stdout(out):
            Screen(True).json({"Name": "ü\x1b\u2028"}, is_line=True)
            Screen(True).say("nothing")
        self.assertTrue(out.getvalue().isascii())
        self.assertNotIn("\x1b", out.getvalue())
        self.assertEqual({"Name": "ü\x1b\u2028"}, json.loads(out.getvalue()))
        self.assertEqual(1, out.getvalue().count("\n"))
