"""The command, run as people and scripts run it."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs

from demo.daemon import Daemon
from tests.functional.live import WAIT_S, LiveTestCase, environment
from tests.functional.terminal import Terminal

COMMAND = (sys.executable, "-c", "from txtransfers.cli import main; main()")


@attrs.frozen
class Done:
    """What a command said."""

    status: int
    out: str
    err: str


class CommandCase(LiveTestCase):
    """Runs commands, beside daemons."""

    def run_command(self, *words: str | Path, at: Daemon | None = None, **variables: str) -> Done:
        """Run a command without a terminal until it ends."""
        with self.begin_command(*words, at=at, **variables) as process:
            out, err = process.communicate(timeout=WAIT_S)
        self.assertNotIn("Traceback", err)
        return Done(process.returncode, out, err)

    def begin_command(
        self, *words: str | Path, at: Daemon | None = None, **variables: str
    ) -> "subprocess.Popen[str]":
        """Start a command without a terminal."""
        return subprocess.Popen(
            [*COMMAND, *words],
            cwd=self.folder,
            env=self.variables(at, variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def at_terminal(self, *words: str | Path, at: Daemon, columns: int = 120) -> Terminal:
        """Start a command at a terminal."""
        terminal = Terminal([*COMMAND, *words], self.folder, self.variables(at, {}), columns)
        self.addCleanup(terminal.close)
        return terminal

    def variables(self, at: Daemon | None, more: dict[str, str]) -> dict[str, str]:
        """The environment of a command: nothing of ours but its daemon."""
        kept = {k: v for k, v in environment().items() if not k.startswith("TXTRANSFERS_")}
        return kept | ({"TXTRANSFERS_URL": at.url} if at is not None else {}) | more

    def status(self, *words: str | Path, at: Daemon | None = None, **variables: str) -> int:
        """How a command ends."""
        return self.run_command(*words, at=at, **variables).status

    def succeeds(self, *words: str | Path, at: Daemon | None = None, **variables: str) -> str:
        """What a command that ends well says."""
        done = self.run_command(*words, at=at, **variables)
        self.assertEqual(0, done.status, done.err)
        return done.out

    def fails(
        self, status: int, *words: str | Path, at: Daemon | None = None, **variables: str
    ) -> str:
        """What a command that does not end well says to people."""
        done = self.run_command(*words, at=at, **variables)
        self.assertEqual(status, done.status, done)
        return done.err

    def only_job(self, daemon: Daemon) -> Any:
        """The job that a daemon has."""
        (job,) = daemon.client.get("/jobs?expand")
        return job
