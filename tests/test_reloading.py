"""What is made from files follows them."""

import os
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from txtransfers.errors import ConfigurationError
from txtransfers.reloading import Reloadable, Reloading
from txtransfers.threads import SynchronousThreads


class ReloadingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.path.write_text("1")
        self.used: list[str] = []
        item = Reloadable("It", [str(self.path)], self.load, self.used.append)
        self.reloading = Reloading(SynchronousThreads(), [item])

    def load(self) -> str:
        text = self.path.read_text()
        if text == "bad":
            raise ConfigurationError("it is bad")
        return text

    def look(self, everything: bool = False) -> None:
        self.successResultOf(Deferred.fromCoroutine(self.reloading.look(everything)))

    def write(self, text: str) -> None:
        """As an editor, or a renewal, does: another file takes the place."""
        new = self.path.with_suffix(".new")
        new.write_text(text)
        os.replace(new, self.path)

    def test_nothing_changed(self) -> None:
        self.look()
        self.assertEqual([], self.used)

    def test_it_changed(self) -> None:
        self.write("2")
        self.look()
        self.look()
        self.assertEqual(["2"], self.used)

    def test_on_demand(self) -> None:
        self.look(everything=True)
        self.assertEqual(["1"], self.used)

    def test_what_cannot_be_used(self) -> None:
        self.write("bad")
        self.look()
        self.look()
        self.assertEqual([], self.used)
        self.write("3")
        self.look()
        self.assertEqual(["3"], self.used)

    def test_gone_and_back(self) -> None:
        self.path.unlink()
        item = Reloadable("It", [str(self.path)], lambda: "new", self.used.append)
        reloading = Reloading(SynchronousThreads(), [item])
        self.path.write_text("4")
        self.successResultOf(Deferred.fromCoroutine(reloading.look()))
        self.assertEqual(["new"], self.used)
