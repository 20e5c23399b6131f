"""docs/command.md says what the command is: its commands, options, variables and statuses."""

import re
from collections.abc import Iterator
from pathlib import Path

import click
from twisted.trial.unittest import SynchronousTestCase

from txtransfers.command.main import all_commands
from txtransfers.command.status import MEANINGS

PAGE = Path(__file__).parents[2] / "docs" / "command.md"


def options(command: click.Command) -> Iterator[click.Option]:
    """All options of a command, and of those below it."""
    yield from (each for each in command.params if isinstance(each, click.Option))
    for below in getattr(command, "commands", {}).values():
        yield from options(below)


class PageTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.text = PAGE.read_text(encoding="utf-8")

    def test_every_command_and_no_other(self) -> None:
        rows = re.findall(r"^\| (`[a-z].*?) \| ", self.text, re.MULTILINE)
        named = {word for row in rows for word in re.findall(r"`([a-z]+)", row)}
        self.assertEqual(set(all_commands().commands), named)

    def test_every_option_and_no_other(self) -> None:
        known = {name for option in options(all_commands()) for name in option.opts}
        named = set(re.findall(r"(?<![\w-])(--[a-z]+|-[a-z])\b(?!_)", self.text))
        self.assertEqual(set(), named - known - {"--help", "--no"})
        self.assertEqual(set(), known - named - {"--version"})

    def test_every_variable(self) -> None:
        known = {str(option.envvar) for option in options(all_commands()) if option.envvar}
        self.assertTrue(known)
        for name in known:
            self.assertIn(f"`{name}`", self.text)

    def test_every_exit_status(self) -> None:
        rows = re.findall(r"^\| (\d+) \| (.*) \|$", self.text, re.MULTILINE)
        self.assertEqual({str(n): text for n, text in MEANINGS.items()}, dict(rows))

    def test_every_option_has_help(self) -> None:
        for option in options(all_commands()):
            self.assertTrue(option.help, option.opts)
