"""Who may run, and when."""

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from txtransfers.transfer.slots import Slots, run_all


class SlotsTests(SynchronousTestCase):
    def test_the_highest_priority_first_then_the_longest_waiting(self) -> None:
        slots, order = Slots(1), []
        self.successResultOf(slots.acquire())
        for name, priority in (("a", 0), ("b", 5), ("c", 0), ("d", 5)):
            slots.acquire(priority).addCallback(lambda _r, n=name: order.append(n))
        for _ in range(4):
            slots.release()
        self.assertEqual(order, ["b", "d", "a", "c"])

    def test_a_cancelled_waiter_takes_no_slot(self) -> None:
        slots = Slots(1)
        self.successResultOf(slots.acquire())
        waiting = slots.acquire()
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        slots.release()
        self.assertEqual(slots.held, 0)
        self.successResultOf(slots.acquire())

    def test_resize(self) -> None:
        slots = Slots(1)
        self.successResultOf(slots.acquire())
        second, third = slots.acquire(), slots.acquire()
        slots.resize(2)
        self.successResultOf(second)
        slots.resize(1)
        slots.release()
        self.assertNoResult(third)
        slots.release()
        self.successResultOf(third)

    def test_a_slot_is_given_back_whatever_happens(self) -> None:
        slots = Slots(1)

        async def fail() -> None:
            async with slots.slot():
                raise ValueError

        self.failureResultOf(Deferred.fromCoroutine(fail()), ValueError)
        self.assertEqual(slots.held, 0)

    def test_owners_of_one_priority_share_alike(self) -> None:
        slots, order = Slots(4), []
        for owner in "aaaaaabbbb":
            slots.acquire(owner=owner).addCallback(lambda _r, o=owner: order.append(o))
        self.assertEqual(order, ["a"] * 4)
        for owner in "aaaa":
            slots.release(owner=owner)
        self.assertEqual("".join(order[4:]), "bbaa")

    def test_costs(self) -> None:
        slots = Slots(10)
        first, large, small = slots.acquire(cost=6), slots.acquire(cost=7), slots.acquire(cost=1)
        self.successResultOf(first)
        self.assertNoResult(small)  # nobody overtakes the large one for ever
        slots.release(6)
        self.successResultOf(large)
        self.successResultOf(small)
        slots.release(7)
        slots.release(1)
        self.assertEqual((slots.held, slots.contended), (0, False))

    def test_one_that_is_larger_than_all_is_alone(self) -> None:
        slots = Slots(10)
        self.successResultOf(slots.acquire(cost=1))
        large = slots.acquire(cost=99)
        self.assertNoResult(large)
        self.assertTrue(slots.contended)
        slots.release(1)
        self.successResultOf(large)

    def test_given_back_early(self) -> None:
        slots = Slots(1)

        async def use() -> None:
            async with slots.slot() as release:
                release()
                release()
                self.assertEqual(slots.held, 0)
                await slots.acquire()

        self.successResultOf(Deferred.fromCoroutine(use()))
        self.assertEqual(slots.held, 1)

    def test_thousands_that_end_at_once(self) -> None:
        slots, ended = Slots(1), []
        self.successResultOf(slots.acquire())

        async def end(number: int) -> None:
            async with slots.slot():
                ended.append(number)

        waiting = [Deferred.fromCoroutine(end(number)) for number in range(3000)]
        slots.release()
        for deferred in waiting:
            self.successResultOf(deferred)
        self.assertEqual((ended, slots.held), (list(range(3000)), 0))

    def test_one_that_asks_again_waits_behind_the_others(self) -> None:
        slots, order = Slots(1), []
        self.successResultOf(slots.acquire())

        async def twice(name: str) -> None:
            for _ in range(2):
                async with slots.slot():
                    order.append(name)

        both = [Deferred.fromCoroutine(twice(name)) for name in "ab"]
        slots.release()
        for deferred in both:
            self.successResultOf(deferred)
        self.assertEqual(order, ["a", "b", "a", "b"])


class RunAllTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.started: list[int] = []
        self.waiting: dict[int, Deferred[None]] = {}
        self.cancelled: list[int] = []

    def task(self, number: int) -> Any:
        async def run() -> None:
            self.started.append(number)
            self.waiting[number] = Deferred()
            try:
                await self.waiting[number]
            except CancelledError:
                self.cancelled.append(number)
                raise

        return run

    def run_tasks(self, count: int, at_once: int) -> "Deferred[None]":
        return Deferred.fromCoroutine(run_all((self.task(n) for n in range(count)), at_once))

    def test_no_more_than_allowed_in_order(self) -> None:
        all_done = self.run_tasks(4, 2)
        self.assertEqual(self.started, [0, 1])
        self.waiting[1].callback(None)
        self.assertEqual(self.started, [0, 1, 2])
        for number in (0, 2, 3):
            self.waiting[number].callback(None)
        self.successResultOf(all_done)

    def test_a_failure_ends_the_others(self) -> None:
        all_done = self.run_tasks(9, 3)
        self.waiting[1].errback(ValueError("x"))
        self.failureResultOf(all_done, ValueError)
        self.assertEqual((self.started, self.cancelled), ([0, 1, 2], [0, 2]))

    def test_cancelling_ends_all(self) -> None:
        all_done = self.run_tasks(9, 3)
        all_done.cancel()
        self.failureResultOf(all_done, CancelledError)
        self.assertEqual(self.cancelled, [0, 1, 2])

    def test_who_is_cancelled_gives_its_place_to_none_of_them(self) -> None:
        slots = Slots(1)

        def placed(number: int) -> Any:
            async def run() -> None:
                async with slots.slot():
                    await self.task(number)()

            return run

        all_done = Deferred.fromCoroutine(run_all(map(placed, range(9)), 3, (slots,)))
        stranger = slots.acquire()
        all_done.cancel()
        self.failureResultOf(all_done, CancelledError)
        self.assertEqual(self.started, [0])
        self.successResultOf(stranger)

    def test_a_task_that_makes_another_fail_while_it_is_at_work(self) -> None:
        """The first, ending, gives its slot to one that fails on the spot."""
        slots, ended = Slots(1), []
        held: Deferred[None] = Deferred()

        async def first() -> None:
            async with slots.slot():
                await held
            ended.append("first")

        async def second() -> None:
            async with slots.slot():
                raise ValueError

        all_done = Deferred.fromCoroutine(run_all([first, second, first], 2))
        held.callback(None)
        self.failureResultOf(all_done, ValueError)
        self.assertEqual(ended, ["first"])

    def test_nothing_to_do(self) -> None:
        self.successResultOf(self.run_tasks(0, 3))
