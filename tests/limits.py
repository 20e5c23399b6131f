"""Limits of bandwidth for tests: none, or figures that hold from a Monday morning on."""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

from twisted.internet.interfaces import IReactorTime

from txtransfers.config_bandwidth import BandwidthSettings, read_directions
from txtransfers.transfer.bandwidth import Bandwidth

MONDAY_NOON = datetime(2024, 1, 1, 12)


def settings(form: object) -> BandwidthSettings:
    """What a configuration with ``form`` holds."""
    problems: list[str] = []
    found = read_directions(form, "Bandwidth", problems)
    assert not problems, problems
    return BandwidthSettings(**found)


def local_time(clock: IReactorTime) -> Callable[[], datetime]:
    """A wall clock that goes with ``clock``, from :data:`MONDAY_NOON` on."""
    start = clock.seconds()
    return lambda: MONDAY_NOON + timedelta(seconds=clock.seconds() - start)


def bandwidth(clock: Any, form: object = "0", peers: Mapping[str, object] = {}) -> Bandwidth:
    """The limits of a configuration."""
    of_peers = {name: settings(of) for name, of in peers.items()}
    return Bandwidth(clock, local_time(clock), settings(form), of_peers)
