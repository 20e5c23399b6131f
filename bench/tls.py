"""Measures what TLS costs: ``python -m bench.tls [--quick]``, on loopback, without compression.

Two pairs of daemons, one by http and one by TLS 1.3, move the same instances in turns; what counts
is the ratio of the two in the same round. The seconds of a core that each daemon took are told,
too: where all cores are busy, they are what decides. Beside that, what OpenSSL does by itself.
"""

import argparse
import contextlib
import os
import re
import shutil
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import attrs
import trustme
from rich.console import Console
from rich.table import Table

from demo import dataset, moves
from demo.daemon import HOST, Daemon, DaemonError, pair

FOLDER = Path(".demo")
MEGABYTE = 1024 * 1024
POLL_SECONDS = 0.02
REPEATS = 3
GOAL = 0.60
"""The rate of TLS to that of plain HTTP that is wanted."""

Write = Callable[[Path], list[Path]]
Pair = tuple[Daemon, Daemon]


@attrs.frozen
class Round:
    """One transfer: its time, and the seconds of a core that sender and receiver took."""

    seconds: float
    sender: float
    receiver: float


@attrs.frozen
class Row:
    """A kind of transfer, by plain HTTP and by TLS."""

    name: str
    size: int
    plain: list[Round]
    secure: list[Round]

    @property
    def ratio(self) -> float:
        """The rate of TLS to that of plain HTTP: the median of the rounds."""
        pairs = zip(self.plain, self.secure, strict=True)
        return median(plain.seconds / secure.seconds for plain, secure in pairs)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; return 0 when the goal was reached."""
    parser = argparse.ArgumentParser(prog="bench.tls", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the data, each once")
    arguments = parser.parse_args(argv)
    part, repeats = (10, 1) if arguments.quick else (1, REPEATS)
    count, megabytes = 500 // part, 512 // part
    loads: dict[str, Write] = {
        f"{count} instances of 512 KB": lambda f: dataset.ct_series(f, count, 512, 1),
        f"one of {megabytes} MB": lambda f: [dataset.multiframe(f / "x.dcm", megabytes, 1)],
    }
    console = Console(width=None if sys.stdout.isatty() else 140)
    FOLDER.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="tls-", dir=FOLDER)).resolve()
    rows: list[Row] = []
    try:
        for number, (name, write) in enumerate(loads.items()):
            place = folder / str(number)
            (place / "files").mkdir(parents=True)
            rows += _measure(console, place, name, write(place / "files"), repeats)
            shutil.rmtree(place)
    except DaemonError as error:
        console.print(str(error), markup=False)
        for note in getattr(error, "__notes__", []):
            console.print(note, markup=False, highlight=False)
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    console.print(_table(rows))
    console.print(f"AES-128-GCM of one core, by openssl speed: {_openssl_speed()}")
    return 0 if all(row.ratio >= GOAL for row in rows) else 1


def _measure(
    console: Console, folder: Path, name: str, paths: list[Path], repeats: int
) -> list[Row]:
    with contextlib.ExitStack() as stack:
        plain = stack.enter_context(pair(folder / "plain"))
        context, settings = _certified(folder)
        secure = stack.enter_context(pair(folder / "secure", context, **settings))
        cargos = [moves.upload(each[0].client, paths, lambda _: None) for each in (plain, secure)]
        rows = [Row(f"{name}, {mode}", cargos[0].size, [], []) for mode in ("push", "pull")]
        for _ in range(repeats):
            for row, mode in zip(rows, ("push", "pull"), strict=True):
                row.plain.append(_once(plain, cargos[0], mode))
                row.secure.append(_once(secure, cargos[1], mode))
                console.print(f"{row.name}: {_told(row)}", highlight=False)
    return rows


def _told(row: Row) -> str:
    plain, secure = row.plain[-1].seconds, row.secure[-1].seconds
    return f"{plain:.2f} s plain, {secure:.2f} s by TLS: {plain / secure:.2f}"


def _certified(folder: Path) -> tuple[ssl.SSLContext, dict[str, Any]]:
    """How to ask daemons by TLS, and their settings."""
    ca = trustme.CA()
    ca_file, server = folder / "ca.pem", folder / "server.pem"
    ca.cert_pem.write_to_path(str(ca_file))
    ca.issue_cert(HOST).private_key_and_cert_chain_pem.write_to_path(str(server))
    settings = {
        "SslEnabled": True,
        "SslCertificate": str(server),
        "SslMinimumProtocolVersion": 5,
        "HttpsCACertificates": str(ca_file),
    }
    return ssl.create_default_context(cafile=str(ca_file)), settings


def _once(daemons: Pair, cargo: moves.Cargo, mode: str) -> Round:
    sender, receiver = daemons
    moves.delete(receiver, cargo)
    if not moves.is_absent(receiver, cargo):
        raise DaemonError("the receiver still holds what was deleted")
    before = [_core_seconds(daemon) for daemon in daemons]
    seconds = moves.move(
        mode, sender, receiver, cargo.resources, compression="none", interval=POLL_SECONDS
    )
    used = [_core_seconds(daemon) - then for daemon, then in zip(daemons, before, strict=True)]
    if trouble := moves.verify((receiver,), cargo):
        raise DaemonError(trouble)
    return Round(seconds, *used)


def _core_seconds(daemon: Daemon) -> float:
    """User and system time of a daemon, all its threads."""
    fields = Path(f"/proc/{daemon.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _openssl_speed() -> str:
    command = ("openssl", "speed", "-seconds", "1", "-bytes", "16384", "-evp", "aes-128-gcm")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.findall(r"^AES-128-GCM\s+([\d.]+)k", done.stdout, re.MULTILINE)
    return f"{float(found[0]) / 1000:.0f} MB/s" if found else "unknown"


def _table(rows: list[Row]) -> Table:
    table = Table(title=f"TLS 1.3 and plain HTTP (medians; goal: {GOAL:.2f} of the plain rate)")
    table.add_column("measure")
    for name in ("plain MB/s", "TLS MB/s", "ratio", "core s, plain", "core s, TLS"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(row.name, *_cells(row))
    return table


def _cells(row: Row) -> Iterator[str]:
    for rounds in (row.plain, row.secure):
        yield f"{row.size / MEGABYTE / median(each.seconds for each in rounds):.0f}"
    yield f"{row.ratio:.2f}"
    for rounds in (row.plain, row.secure):
        sender = median(each.sender for each in rounds)
        receiver = median(each.receiver for each in rounds)
        yield f"{sender:.2f} + {receiver:.2f}"


if __name__ == "__main__":
    sys.exit(main())
