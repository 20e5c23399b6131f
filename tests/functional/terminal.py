"""A program at a terminal, as a person sees and uses it."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

WAIT_S = 60.0

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]|\r")


class Terminal:
    """One program. Its standard input, output and error are the terminal's."""

    def __init__(
        self,
        command: Sequence[str | Path],
        folder: Path,
        environment: Mapping[str, str],
        columns: int = 120,
    ) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        # setsid makes the terminal that of the program, so that Ctrl-C becomes SIGINT.
        self._process = subprocess.Popen(
            ["setsid", "--ctty", *command],
            cwd=folder,
            env={**environment, "TERM": "xterm-256color"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
        )
        os.close(slave)
        self.raw = ""

    @property
    def text(self) -> str:
        """All that was shown so far, without what moves the cursor and gives colours."""
        return _ESCAPES.sub("", self.raw)

    def wait_for(self, pattern: str, after: int = 0) -> int:
        """Wait until the pattern is seen, from a place on; gives the place after it."""
        deadline = time.monotonic() + WAIT_S
        while not (match := re.compile(pattern).search(self.text, after)):
            if not self._read(deadline):
                raise AssertionError(f"no {pattern!r} in {self.text[-2000:]!r}")
        return match.end()

    def type(self, text: str) -> None:
        """Type; ``\\x03`` is Ctrl-C."""
        os.write(self._master, text.encode())

    def end(self) -> int:
        """Wait for the end; gives the exit status."""
        deadline = time.monotonic() + WAIT_S
        while self._read(deadline):
            pass
        return self._process.wait(WAIT_S)

    def close(self) -> None:
        """End the program, if it has not ended."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        os.close(self._master)

    def _read(self, deadline: float) -> bool:
        """Take what is shown next; false at the end."""
        ready, _, _ = select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise AssertionError(f"nothing more came after {self.text[-2000:]!r}")
        try:
            data = os.read(self._master, 65536)
        except OSError:  # the program has closed it
            return False
        self.raw += data.decode("utf-8", "replace")
        return bool(data)
