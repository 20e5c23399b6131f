"""Which words are the daemon's and which the client's; what all commands have."""

import subprocess
import sys

import click
from click.testing import CliRunner
from twisted.trial.unittest import SynchronousTestCase

from tests.functional.live import environment
from txtransfers.cli import _VALUED, COMMANDS, is_for_client
from txtransfers.command.archive import make_queries
from txtransfers.command.main import all_commands
from txtransfers.command.status import (
    FAILED,
    MEANINGS,
    OPEN,
    UNKNOWN,
    UNUSABLE,
    USAGE,
    LeftRunning,
    status_of,
)
from txtransfers.errors import (
    AccessDenied,
    Ambiguous,
    ConfigurationError,
    DaemonNonsense,
    DaemonRefused,
    DaemonUnreachable,
    UnknownJob,
    UnknownResource,
)


class WordTests(SynchronousTestCase):
    def test_the_daemon(self) -> None:
        for words in (
            [],
            ["-c", "config.json"],
            ["--config", "send"],
            ["--config=send"],
            ["--no-jobs"],
            ["--version"],
            ["-c", "config.json", "--no-jobs"],
            ["--spew", "x"],
        ):
            self.assertFalse(is_for_client(words, {}), words)

    def test_the_client(self) -> None:
        for words in (
            ["send"],
            ["-c", "config.json", "send", "x"],
            ["--url", "http://a/", "jobs"],
            ["--json", "jobs"],
            ["--help"],
            ["-h"],
            ["sned"],
        ):
            self.assertTrue(is_for_client(words, {}), words)
        self.assertTrue(is_for_client([], {"_TXTRANSFERS_COMPLETE": "bash_source"}))

    def test_the_words_are_those_of_click(self) -> None:
        self.assertEqual(set(COMMANDS), set(all_commands().commands))
        valued = {
            name
            for option in all_commands().params
            if isinstance(option, click.Option) and not option.is_flag
            for name in option.opts
        }
        self.assertEqual(valued, set(_VALUED))


class HelpTests(SynchronousTestCase):
    def test_each_command_has_help_and_the_same_options(self) -> None:
        runner = CliRunner()
        for name in sorted(COMMANDS):
            result = runner.invoke(all_commands(), [name, "--help"], prog_name="txtransfers")
            self.assertEqual(0, result.exit_code, name)
            self.assertIn(f"txtransfers {name}", result.output)
            if name != "config":
                for option in ("--url", "--config", "--credentials", "--authorities", "--json"):
                    self.assertIn(option, result.output, name)

    def test_a_slip(self) -> None:
        result = CliRunner().invoke(all_commands(), ["sned"])
        self.assertEqual(USAGE, result.exit_code)
        self.assertIn("send", result.output)


class RefusalTests(SynchronousTestCase):
    def test_what_cannot_be_meant(self) -> None:
        for words in (
            ["send", "X"],
            ["send", "--to", "B"],
            ["send", "X", "--to", "B", "--compression", "zip"],
            ["receive", "X"],
            ["pause"],
            ["import", "absent"],
            ["find", "X", "--limit", "-1"],
            ["jobs", "--url", "nowhere"],
            ["jobs", "--url", "http://alice:geheim@127.0.0.1/"],
            ["--url", "nowhere", "jobs"],
            ["jobs", "-c", "absent.json"],
            ["jobs", "--credentials", "absent"],
            ["jobs", "--authorities", "absent"],
            ["config"],
        ):
            result = CliRunner().invoke(all_commands(), words, prog_name="txtransfers")
            self.assertEqual(USAGE, result.exit_code, (words, result.output))
            self.assertNotIn("geheim", result.output)
            self.assertNotIn("Traceback", result.output)


class DaemonWithoutTests(SynchronousTestCase):
    """The daemon needs nothing of the command's."""

    def run_python(self, code: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-c", code],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def test_neither_click_nor_rich(self) -> None:
        done = self.run_python(
            "import sys, txtransfers.cli, txtransfers.service\n"
            "print(sorted({'click', 'rich'} & set(sys.modules)))"
        )
        self.assertEqual("[]\n", done.stdout, done.stderr)

    def test_a_command_without_click_says_so(self) -> None:
        done = self.run_python(
            "import sys; sys.modules['click'] = None; sys.argv[1:] = ['jobs']\n"
            "from txtransfers.cli import main; main()"
        )
        self.assertEqual(1, done.returncode)
        self.assertIn("pip install click rich", done.stderr)
        self.assertNotIn("Traceback", done.stderr)


class StatusTests(SynchronousTestCase):
    def test_errors(self) -> None:
        for error, status in (
            (ConfigurationError("x"), USAGE),
            (DaemonUnreachable("x"), UNUSABLE),
            (DaemonNonsense("x"), UNUSABLE),
            (AccessDenied("x", 401), UNUSABLE),
            (DaemonRefused("x", 404), UNUSABLE),
            (DaemonRefused("x", 400), FAILED),
            (DaemonRefused("x", 502), FAILED),
            (Ambiguous("x", ()), UNKNOWN),
            (UnknownJob("x"), UNKNOWN),
            (UnknownResource("x"), UNKNOWN),
            (LeftRunning("x"), OPEN),
        ):
            self.assertEqual(status, status_of(error), error)
            self.assertIn(status, MEANINGS)


class QueryTests(SynchronousTestCase):
    def test_a_part_of_anything(self) -> None:
        queries = make_queries(["doe"])
        self.assertIn({"PatientName": "*doe*"}, queries)
        self.assertIn({"AccessionNumber": "*doe*"}, queries)

    def test_a_tag(self) -> None:
        self.assertEqual([{"StudyDate": "20260101-"}], make_queries(["StudyDate=20260101-"]))
        self.assertEqual([{"0010,0020": "x=y"}], make_queries(["0010,0020=x=y"]))

    def test_several_must_all_match(self) -> None:
        queries = make_queries(["doe", "StudyDate=2026*", "head"])
        self.assertIn(
            {"PatientName": "*doe*", "StudyDate": "2026*", "StudyDescription": "*head*"}, queries
        )
        self.assertTrue(all(len(query) == 3 for query in queries))

    def test_the_same_tag_twice(self) -> None:
        self.assertRaises(ConfigurationError, make_queries, ["PatientID=a", "PatientID=b"])
