"""One daemon at a time has the storage directory."""

import os
import signal
import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase

from txtransfers.daemon.place import take_storage
from txtransfers.errors import ConfigurationError

HOLD = """
import sys
from txtransfers.daemon.place import take_storage
take_storage(sys.argv[1])
print("held", flush=True)
sys.stdin.read()
"""


class LockTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = os.path.abspath(self.mktemp())

    def refused(self) -> str:
        return str(self.assertRaises(ConfigurationError, take_storage, self.folder))

    def test_until_it_is_given_back(self) -> None:
        descriptor = take_storage(self.folder)
        self.assertIn(f"{self.folder} is used by another daemon", self.refused())
        os.close(descriptor)
        os.close(take_storage(self.folder))

    def test_against_another_process_that_is_killed(self) -> None:
        other = subprocess.Popen(
            [sys.executable, "-c", HOLD, self.folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))),
        )
        try:
            assert other.stdout is not None
            self.assertEqual(other.stdout.readline(), b"held\n")
            self.assertIn("another daemon", self.refused())
            other.send_signal(signal.SIGKILL)
            other.wait(30)
            os.close(take_storage(self.folder))
        finally:
            other.kill()
            other.communicate()

    def test_a_refusal_leaks_no_descriptor(self) -> None:
        descriptor = take_storage(self.folder)
        self.addCleanup(os.close, descriptor)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(10):
            self.refused()
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)

    def test_a_folder_that_cannot_be_made(self) -> None:
        with open(self.folder, "wb"):
            pass
        self.folder = os.path.join(self.folder, "storage")
        self.assertRegex(self.refused(), rf"{self.folder} cannot be written: \w+")
