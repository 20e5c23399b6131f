"""The congestion control of real sockets on this machine."""

import socket
from contextlib import closing

from twisted.trial.unittest import SynchronousTestCase

from txtransfers.errors import ConfigurationError
from txtransfers.transfer import congestion
from txtransfers.transfer.tcp import tune


def used_by(connection: socket.socket) -> str:
    name = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
    return name.rstrip(b"\0").decode()


class CongestionTests(SynchronousTestCase):
    def test_the_systems_own_is_always_to_be_had(self) -> None:
        name = congestion.current()
        self.assertTrue(name)
        self.assertEqual(congestion.choose(name), name)

    def test_one_that_is_not_to_be_had(self) -> None:
        for bad in ("no-such-control", "x" * 100, "é", ""):
            error = self.assertRaises(ConfigurationError, congestion.choose, bad)
            self.assertIn("Transfers.CongestionControl", str(error))
            self.assertIn("tcp_allowed_congestion_control", str(error))

    def test_auto_takes_the_preferred_one_or_leaves_all_as_it_is(self) -> None:
        self.assertIn(congestion.choose("auto"), (None, congestion.PREFERRED))
        self.patch(congestion, "PREFERRED", "no-such-control")
        self.assertIsNone(congestion.choose("auto"))

    def test_what_is_accepted_inherits_it(self) -> None:
        name = congestion.choose("reno")
        with closing(socket.socket()) as listener, closing(socket.socket()) as near:
            tune(listener, name)
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            near.connect(listener.getsockname())
            tune(near, name)
            far, _address = listener.accept()
            with closing(far):
                self.assertEqual((used_by(near), used_by(far)), ("reno", "reno"))

    def test_one_that_is_forbidden_meanwhile_or_none_changes_nothing(self) -> None:
        with closing(socket.socket()) as connection:
            before = used_by(connection)
            for name in (None, "no-such-control"):
                tune(connection, name)
            self.assertEqual(used_by(connection), before)
