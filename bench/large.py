"""One push of 100,000 instances: killed when half is there, gone on with, committed among others.

``python -m bench.large [--instances N]`` prints how long the daemon takes until it answers after
kill -9, and until it knows what is missing; the most memory it had; and, while the large
transaction commits, how long ``GET /system`` and small transfers take, beside what they take when
nothing else happens.
"""

import argparse
import hashlib
import http.client
import json
import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median
from typing import Any
from uuid import uuid4

from pydicom import dcmread
from rich.console import Console
from rich.table import Table

from demo import dataset
from demo.daemon import HOST, Daemon, free_ports

MEGABYTE = 2**20
BUCKET = 4 * MEGABYTE
FILE_KB = 4
SMALL = 5
"""Instances of each small transfer that runs beside the large one."""
_DIGITS = 12


class Push:
    """A push of many instances that differ in their UID only, made in memory as they are sent."""

    def __init__(self, template: bytes, uid: str, first: int, count: int) -> None:
        """:param first: the number of the first instance; numbers are used once."""
        self._template = template
        self._uid = uid.encode()
        start = self._uid[:-_DIGITS]
        self._names = [start + b"%0*d" % (_DIGITS, first + n) for n in range(count)]
        self.key = str(uuid4())

    def data(self, number: int) -> bytes:
        """The file of an instance."""
        return self._template.replace(self._uid, self._names[number])

    def opening(self) -> tuple[bytes, list[list[int]]]:
        """The body that opens it, and which instances each bucket has."""
        instances, buckets, current, size = [], [], [], 0
        for number, name in enumerate(self._names):
            data = self.data(number)
            digest = hashlib.sha1(name).hexdigest()
            id_ = "-".join(digest[n : n + 8] for n in range(0, 40, 8))
            md5 = hashlib.md5(data).hexdigest()
            instances.append({"ID": id_, "Size": str(len(data)), "MD5": md5})
            current.append(number)
            size += len(data)
            if size >= BUCKET:
                buckets.append(current)
                current, size = [], 0
        if current:
            buckets.append(current)
        declared = [
            [{"ID": instances[n]["ID"], "Offset": "0", "Size": instances[n]["Size"]} for n in b]
            for b in buckets
        ]
        body = {
            "Instances": instances,
            "Buckets": declared,
            "Compression": "none",
            "TxTransfers": {"Key": self.key, "Delta": False},
        }
        return json.dumps(body).encode(), buckets


class Link:
    """One kept connection to the daemon."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection(HOST, port, timeout=300)

    def ask(self, method: str, path: str, body: bytes = b"") -> Any:
        """The JSON of a 200 answer."""
        self._connection.request(method, path, body)
        answer = self._connection.getresponse()
        data = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{method} {path}: {answer.status} {data[:300]!r}")
        return json.loads(data)

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


def high_water(pid: int) -> float:
    """The most memory that a process had, in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmHWM")


def transfer(port: int, push: Push) -> None:
    """Send a whole small push."""
    link = Link(port)
    body, buckets = push.opening()
    path = link.ask("POST", "/transfers/push", body)["Path"]
    for number, bucket in enumerate(buckets):
        link.ask("PUT", f"{path}/{number}", b"".join(map(push.data, bucket)))
    link.ask("POST", f"{path}/commit")
    link.close()


class Bystander:
    """Asks for /system, and makes small transfers, until told to stop; keeps their times."""

    def __init__(self, port: int, template: bytes, uid: str) -> None:
        self._port = port
        self._template = template
        self._uid = uid
        self._stop = threading.Event()
        self._next = 10**9
        self.system: list[float] = []
        self.transfers: list[float] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> "Bystander":
        self.system, self.transfers = [], []
        self._stop.clear()
        self._threads = [
            threading.Thread(target=work) for work in (self._ask_system, self._transfer)
        ]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask_system(self) -> None:
        link = Link(self._port)
        while not self._stop.wait(0.02):
            started = time.perf_counter()
            link.ask("GET", "/system")
            self.system.append(time.perf_counter() - started)

    def _transfer(self) -> None:
        while not self._stop.wait(0.1):
            push = Push(self._template, self._uid, self._next, SMALL)
            self._next += SMALL
            started = time.perf_counter()
            transfer(self._port, push)
            self.transfers.append(time.perf_counter() - started)


def milliseconds(times: list[float]) -> str:
    """Median and longest."""
    if not times:
        return "none"
    return f"{median(times) * 1000:.1f} / {max(times) * 1000:.1f} ms ({len(times)})"


def measure(folder: Path, count: int, console: Console) -> None:
    """Do it all, and print the table."""
    (sample,) = dataset.ct_series(folder, 1, FILE_KB, 1)
    template = sample.read_bytes()
    uid = str(dcmread(sample, stop_before_pixels=True).SOPInstanceUID)
    settings = {
        "StorageDirectory": str(folder / "store"),
        "Transfers": {"MaxPushTransactions": 9},
    }
    port = free_ports(1)[0]
    daemon = Daemon("first", folder, port, settings)
    daemon.start()
    table = Table("what", "figure")
    try:
        bystander = Bystander(daemon.port, template, uid)
        with bystander:
            threading.Event().wait(3)
        table.add_row("GET /system, idle: median / longest", milliseconds(bystander.system))
        table.add_row(f"transfer of {SMALL}, idle", milliseconds(bystander.transfers))
        push = Push(template, uid, 0, count)
        body, buckets = push.opening()
        link = Link(daemon.port)
        path = link.ask("POST", "/transfers/push", body)["Path"]
        half = len(buckets) // 2
        for number in range(half):
            link.ask("PUT", f"{path}/{number}", b"".join(map(push.data, buckets[number])))
        link.close()
        table.add_row("memory, half received", f"{high_water(daemon.pid):.0f} MB")
        os.kill(daemon.pid, signal.SIGKILL)
        os.waitpid(daemon.pid, 0)
        started = time.perf_counter()
        daemon = Daemon("second", folder, port, settings)
        daemon.start()
        table.add_row("kill -9, until it answers", f"{time.perf_counter() - started:.2f} s")
        link = Link(daemon.port)
        started = time.perf_counter()
        while (status := link.ask("GET", path))["State"] == "Verifying":
            pass
        assert status["Missing"] == [[half, len(buckets) - 1]], status
        table.add_row("until it knows what is missing", f"{time.perf_counter() - started:.2f} s")
        table.add_row("memory then", f"{high_water(daemon.pid):.0f} MB")
        started = time.perf_counter()
        for number in range(half, len(buckets)):
            link.ask("PUT", f"{path}/{number}", b"".join(map(push.data, buckets[number])))
        table.add_row("the other half", f"{time.perf_counter() - started:.2f} s")
        with bystander:
            started = time.perf_counter()
            link.ask("POST", f"{path}/commit")
            table.add_row("its commit", f"{time.perf_counter() - started:.2f} s")
        table.add_row("GET /system, meanwhile", milliseconds(bystander.system))
        table.add_row(f"transfer of {SMALL}, meanwhile", milliseconds(bystander.transfers))
        table.add_row("memory at the end", f"{high_water(daemon.pid):.0f} MB")
        link.close()
    finally:
        daemon.stop()
    console.print(table)


def main() -> None:
    """Read the arguments, measure in a folder of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instances", type=int, default=100_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-", dir=".") as folder:
        measure(Path(folder).resolve(), arguments.instances, Console())


if __name__ == "__main__":
    sys.exit(main())
