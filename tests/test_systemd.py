"""What systemd hears, over real datagram sockets."""

import os
import re
import socket
import time
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from txtransfers.systemd import Notifier


class NotifierTests(SynchronousTestCase):
    def listen(self, address: str) -> socket.socket:
        ear = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(ear.close)
        ear.bind(address)
        ear.setblocking(False)
        return ear

    def test_each_word(self) -> None:
        ear = self.listen("\0txtransfers-test-words-" + str(os.getpid()))
        notifier = Notifier("@" + ear.getsockname()[1:].decode())
        for tell, heard in (
            (lambda: notifier.starting("a\nb  c"), "STATUS=a b c"),
            (lambda: notifier.ready("listens"), "READY=1\nSTATUS=listens"),
            (lambda: notifier.alive("fine"), "WATCHDOG=1\nSTATUS=fine"),
            (lambda: notifier.ailing("ill"), "STATUS=ill"),
            (notifier.stopping, "STOPPING=1\nSTATUS=Stops"),
        ):
            tell()
            self.assertEqual(heard, ear.recv(1000).decode())

    def test_a_reload_tells_the_time_as_systemd_counts_it(self) -> None:
        path = str(Path(self.mktemp()))
        ear, notifier = self.listen(path), Notifier(path)
        before = time.monotonic_ns() // 1000
        notifier.reloading()
        found = re.match(r"RELOADING=1\nMONOTONIC_USEC=(\d+)\n", ear.recv(1000).decode())
        assert found is not None
        self.assertTrue(before <= int(found[1]) <= time.monotonic_ns() // 1000)

    def test_nobody_who_listens_is_no_error(self) -> None:
        Notifier().ready("x")
        Notifier("/nowhere/at/all").ready("x")
        Notifier("@" + "x" * 500).ready("x")

    def test_an_ear_that_is_full_does_not_hold_us(self) -> None:
        path = str(Path(self.mktemp()))
        self.listen(path)
        for _ in range(2000):
            Notifier(path).alive("x" * 500)

    def test_the_environment(self) -> None:
        me = str(os.getpid())
        for environ, seconds in (
            ({"WATCHDOG_USEC": "1500000"}, 1.5),
            ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": me}, 1.5),
            ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": "1"}, 0.0),
            ({"WATCHDOG_USEC": "soon"}, 0.0),
            ({}, 0.0),
        ):
            self.assertEqual(seconds, Notifier.of(environ).watchdog_s, environ)
        self.assertFalse(Notifier.of({}).is_heard)
        self.assertTrue(Notifier.of({"NOTIFY_SOCKET": "/run/x"}).is_heard)
