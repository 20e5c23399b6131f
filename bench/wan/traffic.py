"""What arrives at a host over time, from the counters of its network interface."""

import contextlib
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from bench.wan.link import Host, enter

INTERVAL = 0.2
"""Seconds between two samples."""
_COUNTERS = Path("/proc/thread-self/net/dev")
"""A thread's own: those of the process are of the namespace where it began."""
_RECEIVED = re.compile(r"^\s*wan0:\s*(\d+)", re.MULTILINE)


class Sampler:
    """A thread on a host that notes the bytes received, from its start until it is stopped."""

    def __init__(self, host: Host) -> None:
        self._namespace = host.namespace
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._marks: list[tuple[float, int]] = []

    def start(self) -> None:
        """Begin, and return when the first sample is there."""
        self._thread.start()
        while not self._marks and self._thread.is_alive():
            time.sleep(0.001)

    def stop(self) -> None:
        """Take the last sample."""
        self._ended.set()
        self._thread.join()

    def speeds(self) -> list[float]:
        """Return Mbit/s of IP packets, one for each INTERVAL; the last may be of a shorter time."""
        pairs = zip(self._marks, self._marks[1:], strict=False)
        return [
            (after - before) * 8e-6 / (later - now)
            for (now, before), (later, after) in pairs
            if later > now
        ]

    def _run(self) -> None:
        enter(self._namespace)
        started = time.perf_counter()
        while not self._ended.wait(max(0, started + len(self._marks) * INTERVAL - _now())):
            self._mark()
        self._mark()

    def _mark(self) -> None:
        found = _RECEIVED.search(_COUNTERS.read_text())
        self._marks.append((_now(), int(found[1]) if found else 0))


def _now() -> float:
    return time.perf_counter()


@contextlib.contextmanager
def sampled(host: Host) -> Iterator[Sampler]:
    """Sample what arrives at a host while the block runs."""
    sampler = Sampler(host)
    sampler.start()
    try:
        yield sampler
    finally:
        sampler.stop()
