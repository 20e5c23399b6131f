"""What a log claims of staged files, compared with what is on the disk. Blocking."""

import hashlib
import threading
from collections.abc import Callable, Iterable

import attrs
from isal import isal_zlib

from ..disk import disk_error
from .places import Place
from .staging_log import Claim, Contents

_BLOCK = 2**20


@attrs.define
class Found:
    """What the log claims of an instance; looked at by one thread, once."""

    claims: list[Claim]
    has_row: bool
    lock: threading.Lock = attrs.Factory(threading.Lock)
    checked: bool = False


def claims_by_instance(contents: Contents) -> dict[int, Found]:
    """What the log claims, by the positions of the instances."""
    found: dict[int, Found] = {n: Found([], has_row=True) for n in contents.rows}
    for claim in contents.claims:
        found.setdefault(claim.position, Found([], has_row=False)).claims.append(claim)
    return found


class StoppedError(Exception):
    """Nobody wants to know any more."""


def md5_of(place: Place, size: int, is_stopped: Callable[[], bool]) -> str | None:
    """Of what is at a place; None if it is not there.

    :raises StoppedError: as soon as ``is_stopped``.
    """
    digest = hashlib.md5(usedforsecurity=False)
    try:
        with place.open(size) as file:
            while block := file.read(_BLOCK):
                _stop_if(is_stopped)
                digest.update(block)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise disk_error(error, place.path) from error
    return digest.hexdigest()


def _stop_if(is_stopped: Callable[[], bool]) -> None:
    if is_stopped():
        raise StoppedError


def right_ranges(
    place: Place, claims: Iterable[Claim], is_stopped: Callable[[], bool]
) -> list[tuple[int, int]]:
    """The ranges of an instance that are still what was written there.

    :raises StoppedError: as soon as ``is_stopped``.
    """
    last = {(claim.offset, claim.size): claim.crc for claim in claims}
    ranges = []
    try:
        for (offset, size), crc in last.items():
            _stop_if(is_stopped)
            block = place.read(offset, size)
            if len(block) == size and isal_zlib.crc32(block) == crc:
                ranges.append((offset, offset + size))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise disk_error(error, place.path) from error
    return ranges
