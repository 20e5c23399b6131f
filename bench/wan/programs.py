"""Runs programs on the hosts of a link: each is ended by its own process group, in any case."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.wan.link import Host

START_SECONDS = 20
"""How long a server may take until it listens."""
STOP_SECONDS = 10
"""How long a program may take to end after SIGTERM."""
_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin"])
_LISTENS = "0A"
"""The state of a listening socket in /proc/net/tcp."""


class ProgramError(Exception):
    """A program did not do what it was started for."""


class TooLongError(Exception):
    """Something took longer than anyone waits."""

    speeds: Sequence[float] = ()
    """Mbit/s that arrived until then, for each interval of the samples."""


def find(program: str) -> str | None:
    """Return the path of a program, or None where it is not installed."""
    return shutil.which(program, path=_PATH)


def path_of(program: str) -> str:
    """Return the path of a program that must be there."""
    found = find(program)
    if found is None:
        raise ProgramError(f"{program} is not installed")
    return found


def run(host: Host, command: Sequence[str], log: Path, limit: float) -> bytes:
    """Run a command on a host until it ends well; return what it said."""
    with _started(host, command, log) as process:
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            raise TooLongError from None
    if code:
        tail = log.read_text(errors="replace")[-500:].strip()
        raise ProgramError(f"{_name(command)} ended with exit code {code}: {tail}")
    return log.read_bytes()


@contextlib.contextmanager
def serving(host: Host, command: Sequence[str], log: Path, port: int) -> Iterator[None]:
    """Have a server run on a host while the block runs."""
    with _started(host, command, log) as process:
        deadline = time.monotonic() + START_SECONDS
        while not _listens(process.pid, port):
            if process.poll() is not None or time.monotonic() > deadline:
                tail = log.read_text(errors="replace")[-500:].strip()
                raise ProgramError(f"{_name(command)} does not serve: {tail}")
            time.sleep(0.02)
        yield


@contextlib.contextmanager
def _started(host: Host, command: Sequence[str], log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*host.prefix, *command],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            # Ctrl-C is for us alone, and what the program starts can be ended with it.
            start_new_session=True,
        )
    try:
        yield process
    finally:
        _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    for number, seconds in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, None)):
        if process.poll() is None:
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
            return


def _name(command: Sequence[str]) -> str:
    """Return the program's name, behind env and what env sets."""
    names = (Path(word).name for word in command if "=" not in word)
    return next(name for name in names if name != "env")


def _listens(process: int, port: int) -> bool:
    """Tell whether somebody listens at a port, without a connection, in a process's namespace."""
    suffix = f":{port:04X}"
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{process}/net/{name}").read_text().splitlines()[1:]:
                fields = line.split()
                if fields[1].endswith(suffix) and fields[3] == _LISTENS:
                    return True
    return False
