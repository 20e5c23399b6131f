"""Simulated links, for deciding without a network how many buckets should be in flight.

One step is one round trip. A connection's window doubles until it loses a packet, then grows by
one packet a round trip, and becomes 0.7 times itself with each loss, as with ``cubic`` on short
time scales; with ``bbr`` a random loss means nothing to it. A queue of one bandwidth-delay product
stands before the link; what comes on top is lost.
"""

import random
from collections.abc import Callable

import attrs

from txtransfers.transfer.concurrency import Concurrency

SEGMENT = 1448
"""Bytes of a packet."""


@attrs.define
class Simulated:
    """A link, and what happens on it.

    :ivar rate: bytes a second. :ivar round_trip: seconds. :ivar loss: of a packet, from 0 to 1.
    :ivar others: connections of others.
    """

    rate: float
    round_trip: float
    loss: float = 0.0
    others: int = 0
    bbr: bool = False
    seed: int = 1


@attrs.define
class _Connection:
    window: float = 10.0
    threshold: float = float("inf")


def run(
    link: Simulated,
    decide: Concurrency,
    seconds: float,
    each: Callable[[float], None] = lambda _time: None,
) -> tuple[float, list[int]]:
    """Send for so many seconds; gives the goodput of the second half, and the limit over time.

    :param each: called before each round trip, with the time.
    """
    chance = random.Random(link.seed)
    others = [_Connection() for _ in range(link.others)]
    own: list[_Connection] = []
    time, late_size, late_time, limits = 0.0, 0.0, 0.0, []
    while time < seconds:
        each(time)
        own += [_Connection() for _ in range(decide.limit - len(own))]
        del own[decide.limit :]
        offered = sum(c.window for c in own + others)
        product = link.rate * link.round_trip / SEGMENT
        took = link.round_trip * max(1.0, offered / product)
        size = sum(c.window for c in own) * SEGMENT
        decide.sample(took, size, link.round_trip, full=True, queued=offered > 1.4 * product)
        time += took
        limits.append(decide.limit)
        if time > seconds / 2:
            late_size, late_time = late_size + size, late_time + took
        for connection in own + others:
            _grow(connection, link, offered, product, chance)
    return late_size / late_time, limits


def _grow(
    connection: _Connection, link: Simulated, offered: float, product: float, chance: random.Random
) -> None:
    overflows = offered > 2 * product and chance.random() < connection.window / offered * 8
    if link.bbr:
        connection.window *= 0.8 if offered > 2 * product else 2 if offered < product else 1
        return
    lost = chance.random() > (1 - link.loss) ** connection.window
    if lost or overflows:
        connection.threshold = connection.window = max(2.0, connection.window * 0.7)
    elif connection.window < connection.threshold:
        connection.window *= 2
    else:
        connection.window += 1
