"""A pair of real daemons with a faulty line between them."""

import contextlib
import os
import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from demo.daemon import Daemon, DaemonError, free_ports
from tests.functional.fault_line import Line
from tests.functional.live import STOP_S, has_ended, peer_url, wait_until

BAD_WORDS = ("Traceback", "Incident", "Unhandled", "defect")
"""What no log may have."""


class Pair:
    """Daemons A and B, each other's peers over a :class:`Line`; killed and started at will.

    As peers: ``B`` is pushed to, ``B-pulls`` has a RemoteSelf, ``A`` is pulled from.
    """

    def __init__(
        self, folder: Path, settings: Mapping[str, Any], stores: Mapping[str, Path] | None = None
    ) -> None:
        """:param stores: storage directories that are elsewhere than in ``folder``."""
        self.line = Line()
        self._folder = folder
        self._stores = dict(stores or {})
        self._lives = 0
        self._read: dict[Path, int] = {}
        self._logs: list[Path] = []
        self._dead: set[str] = set()
        self._lock = threading.Lock()
        self._daemons: dict[str, Daemon] = {}
        url_a, url_b = (peer_url(self.line.ports[name]) for name in ("A", "B"))
        peers = {
            "A": {"B": [url_b], "B-pulls": {"Url": url_b, "RemoteSelf": "A"}},
            "B": {"A": [url_a]},
        }
        self._settings = {name: {**settings, "OrthancPeers": peers[name]} for name in peers}
        self.line.targets = dict(zip(peers, free_ports(2), strict=True))
        for name in peers:
            self._start(name)

    def __getitem__(self, name: str) -> Daemon:
        return self._daemons[name]

    def store_of(self, name: str) -> Path:
        """The storage directory of a daemon."""
        return self._stores.get(name, self._folder / f"store-{name}")

    def _start(self, name: str) -> None:
        self._lives += 1
        life = self._folder / f"life-{self._lives}"
        settings = {**self._settings[name], "StorageDirectory": str(self.store_of(name))}
        daemon = Daemon(name, life, self.line.targets[name], settings)
        self._logs.append(life / name / "daemon.log")
        self._daemons[name] = daemon
        daemon.start()

    def end(self, name: str, how: signal.Signals = signal.SIGKILL) -> None:
        """End a daemon, from any thread; at most once until :meth:`revive`."""
        with self._lock:
            if name not in self._dead:
                self._dead.add(name)
                os.kill(self._daemons[name].pid, how)

    def revive(self) -> None:
        """Start what was ended. Fails where a daemon has ended by itself."""
        with self._lock:
            dead, self._dead = sorted(self._dead), set()
        for name in dead:
            self._bury(name)
            self._start(name)
        for name, daemon in self._daemons.items():
            if has_ended(daemon.pid):
                raise AssertionError(f"daemon {name} has ended by itself\n{daemon.log_tail()}")

    def _bury(self, name: str) -> None:
        pid = self._daemons[name].pid
        wait_until(lambda: has_ended(pid), f"the end of {name} after a signal", STOP_S)
        with contextlib.suppress(DaemonError):
            self._daemons[name].stop()

    def bad_words(self) -> list[str]:
        """Lines of the logs since the last call that no log may have, with what follows them."""
        found = []
        for log in self._logs:
            text = log.read_text(errors="replace")[self._read.get(log, 0) :]
            self._read[log] = self._read.get(log, 0) + len(text)
            places = [place for word in BAD_WORDS if (place := text.find(word)) >= 0]
            if places:
                start = max(0, min(places) - 400)
                found.append(f"{log.parent.name}: ...{text[start : start + 3000]}")
        return found

    def log_tails(self) -> str:
        """The ends of both present logs."""
        return "\n".join(f"--- {n}\n{daemon.log_tail(60)}" for n, daemon in self._daemons.items())

    def close(self) -> None:
        """Stop all; fails where a daemon does not stop in order."""
        errors = []
        for name in list(self._daemons):
            if name in self._dead:
                self._bury(name)
                continue
            try:
                self._daemons[name].stop()
            except DaemonError as error:
                errors.append(error)
        self.line.close()
        if errors:
            raise errors[0]
