"""The congestion control of real sockets on this machine."""

import socket
from contextlib import closing

import attrs
from twisted.trial.unittest import SynchronousTestCase

from tests.transfer.test_link import connection
from txtransfers.errors import ConfigurationError
from txtransfers.transfer import congestion, tcp
from txtransfers.transfer.congestion import Congestion, Sight, used_by
from txtransfers.transfer.tcp import TcpInfo, tune

EMPTY = TcpInfo(0.1, 0.1, 0, 0, 0, 0, 0)
"""What is told of a connection whose packets wait nowhere."""
MB = 2**20


class ChoiceTests(SynchronousTestCase):
    def test_the_systems_own_is_always_to_be_had(self) -> None:
        name = congestion.current()
        self.assertTrue(name)
        self.assertEqual(str(congestion.choose(name)), name)

    def test_one_that_is_not_to_be_had(self) -> None:
        for bad in ("no-such-control", "x" * 100, "é", ""):
            error = self.assertRaises(ConfigurationError, congestion.choose, bad)
            self.assertIn("Transfers.CongestionControl", str(error))
            self.assertIn("tcp_allowed_congestion_control", str(error))

    def test_auto_begins_with_the_systems_own(self) -> None:
        with closing(socket.socket()) as probe:
            congestion.choose("auto").tune(probe)
            self.assertEqual(used_by(probe), congestion.current())

    def test_where_nothing_is_better_auto_says_so(self) -> None:
        self.patch(congestion, "PREFERRED", "no-such-control")
        self.assertEqual(str(congestion.choose("auto")), congestion.current())
        self.patch(congestion, "PREFERRED", "reno")
        told = f"{congestion.current()}, reno where packets get lost"
        self.assertEqual(str(congestion.choose("auto")), told)

    def test_it_is_known_which_slow_down_at_each_loss(self) -> None:
        self.assertTrue(Congestion().is_loss_based)
        self.assertFalse(Congestion(congestion.PREFERRED).is_loss_based)

    def test_what_is_accepted_inherits_it(self) -> None:
        with closing(socket.socket()) as listener, closing(socket.socket()) as near:
            tune(listener, "reno")
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            near.connect(listener.getsockname())
            tune(near, "reno")
            far, _address = listener.accept()
            with closing(far):
                self.assertEqual((used_by(near), used_by(far)), ("reno", "reno"))

    def test_one_that_is_forbidden_meanwhile_or_none_changes_nothing(self) -> None:
        with closing(socket.socket()) as connection:
            before = used_by(connection)
            for name in (None, "no-such-control"):
                tune(connection, name)
            self.assertEqual(used_by(connection), before)


class LossTests(SynchronousTestCase):
    """Losses without a queue make the connections to a host change, whatever they are at."""

    def setUp(self) -> None:
        self.congestion = Congestion(when_lossy="reno")

    def look(self, sight: Sight, moved: int, resent: int, round_trip: float = 0.1) -> None:
        sight.look(attrs.evolve(EMPTY, moved=moved, resent=resent, round_trip=round_trip))

    def test_by_chance(self) -> None:
        with connection() as (near, _far), connection() as (other, _other):
            before = used_by(near)
            sight, second = self.congestion.tune(near), self.congestion.tune(other)
            self.look(sight, MB, 2)
            self.assertEqual(used_by(near), before, "two are no proof")
            self.look(sight, 2 * MB, 3)
            self.assertEqual((used_by(near), used_by(other)), ("reno", before))
            self.look(second, 100, 0)
            self.assertEqual(used_by(other), "reno", "it goes the same way")
            with connection() as (later, _later):
                self.congestion.tune(later)
                self.assertEqual(used_by(later), "reno")

    def test_on_the_way_to_us(self) -> None:
        """Each is seen by what comes before it, however much that is."""
        with connection() as (near, _far):
            before, sight = used_by(near), self.congestion.tune(near)
            for disordered in (40, 40, 41, 41):
                sight.look(attrs.evolve(EMPTY, moved=MB, disordered=disordered))
            self.assertEqual(used_by(near), before, "two are no proof")
            sight.look(attrs.evolve(EMPTY, moved=MB, disordered=80))
            self.assertEqual(used_by(near), "reno")

    def test_whom_they_slow_down(self) -> None:
        with connection() as (near, _far):
            fixed = Congestion("reno").tune(near)
            adapting = Congestion(when_lossy=congestion.PREFERRED).tune(near)
            for sight in (fixed, adapting):
                self.assertFalse(sight.is_slowed(False), "nothing was lost")
                self.look(sight, MB, 10)
            self.assertTrue(fixed.is_slowed(True))
            self.assertFalse(fixed.is_undaunted(True))
            self.assertFalse(adapting.is_slowed(True))
            self.assertTrue(adapting.is_undaunted(True))
            self.assertFalse(adapting.is_undaunted(False))
            self.assertTrue(adapting.is_slowed(False), "the peer sends as its system does")

    def test_in_a_full_queue(self) -> None:
        with connection() as (near, _far):
            before, sight = used_by(near), self.congestion.tune(near)
            self.look(sight, 10 * MB, 1000, round_trip=0.15)
            self.look(sight, 11 * MB, 1000)
            self.assertEqual(used_by(near), before)

    def test_rare_ones(self) -> None:
        with connection() as (near, _far):
            before, sight = used_by(near), self.congestion.tune(near)
            for number in range(1, 100):
                self.look(sight, number * 20 * MB, number)
            self.assertEqual(used_by(near), before)
            self.look(sight, 99 * 20 * MB + MB, 99 + 20)
            self.assertEqual(used_by(near), "reno", "what was long ago counts little")

    def test_none_where_one_is_configured(self) -> None:
        with connection() as (near, _far):
            fixed = Congestion("cubic")
            sight = fixed.tune(near)
            before = used_by(near)
            self.look(sight, MB, 1000)
            self.assertEqual(used_by(near), before)
        reno = Congestion("reno")
        with connection() as (near, _far), connection() as (later, _far):
            self.look(reno.tune(near), MB, 1000)
            reno.tune(later)
            self.assertEqual(used_by(later), "reno", "what is configured holds for later ones, too")

    def test_hosts_are_forgotten(self) -> None:
        self.patch(congestion, "_MOST_HOSTS", 2)
        for host in ("192.0.2.1", "192.0.2.2", "192.0.2.3"):
            self.congestion.note(host, 10, MB)
        lossy = [self.congestion.is_lossy(f"192.0.2.{n}") for n in (1, 2, 3)]
        self.assertEqual(lossy, [False, True, True])

    def test_a_socket_that_is_gone(self) -> None:
        with connection() as (near, _far):
            sight = self.congestion.tune(near)
            near.close()
            self.look(sight, MB, 10)
            self.assertIsNone(tcp.read(near))
