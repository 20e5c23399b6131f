"""Logins that fail make the next ones from the same address wait, one after the other.

Nobody is locked out, and who is known already (see ``access.py``) does not wait. Addresses of IPv6
count by network (/64), since one guest has all of it.
"""

from collections import OrderedDict
from ipaddress import IPv6Address, ip_address

import attrs
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from ..errors import TooBusy

FIRST_S = 0.25
"""Seconds between two tries after the first failure; each further one doubles them."""

LONGEST_S = 8.0
FORGET_S = 900.0
"""Seconds after the last failure when an address begins anew."""

MOST_WAITING = 16
"""Tries of one address that may be under way at once."""

_MOST_ADDRESSES = 10_000


@attrs.define
class _Entry:
    failures: int = 0
    last: float = 0.0
    next_turn: float = 0.0
    waiting: int = 0


class Slowdown:
    """See the module."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._entries: OrderedDict[str, _Entry] = OrderedDict()

    async def turn(self, address: str) -> None:
        """Wait until a password from there may be looked at; :meth:`done` must follow.

        :raises TooBusy: too many wait already.
        """
        entry = self._entry(address)
        if entry.waiting >= MOST_WAITING:
            raise TooBusy(
                "Too many logins from this address are being looked at, after some that failed",
                max(1, round(entry.next_turn - self._clock.seconds())),
            )
        entry.waiting += 1
        now = self._clock.seconds()
        mine = max(now, entry.next_turn)
        entry.next_turn = mine + _pause(entry.failures)
        if mine > now:
            try:
                await deferLater(self._clock, mine - now)
            except BaseException:
                entry.waiting -= 1
                raise

    def done(self, address: str, right: bool) -> int:
        """A password was looked at; tells how many failed lately, with this one."""
        entry = self._entry(address)
        entry.waiting -= 1
        if not right:
            now = self._clock.seconds()
            entry.failures += 1
            entry.last = now
            entry.next_turn = max(entry.next_turn, now + _pause(entry.failures))
        return entry.failures

    def _entry(self, address: str) -> _Entry:
        key = network_of(address)
        entry = self._entries.pop(key, None) or _Entry()
        if entry.failures and self._clock.seconds() - entry.last > FORGET_S:
            entry.failures = 0
        self._entries[key] = entry  # the last one to be dropped
        while len(self._entries) > _MOST_ADDRESSES:
            idle = next((k for k, e in self._entries.items() if not e.waiting), None)
            if idle is None:
                break
            del self._entries[idle]
        return entry


def _pause(failures: int) -> float:
    return min(LONGEST_S, FIRST_S * 2 ** min(failures - 1, 10)) if failures else 0.0


def network_of(address: str) -> str:
    """What counts as one address: of IPv6, the network."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, IPv6Address) and found.ipv4_mapped is None:
        return found.exploded[:19]
    return address
