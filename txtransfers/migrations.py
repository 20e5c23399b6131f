"""Databases of older releases, brought to the version of this one; a copy is made first.

``PRAGMA user_version`` is the number of steps that a file has had. Each step is one transaction
with the new number in it, so that whoever dies in between goes on from there. A copy of the file as
it was stands beside it as ``NAME.before-vN`` before anything is changed. Blocking; called by
:mod:`.sqlite` before anybody else uses the file.
"""

import glob
import os
import shutil
import sqlite3
from collections.abc import Sequence

from twisted.logger import Logger

from .disk import sync_file
from .errors import StorageFailure, StorageFull

_COPIES = 2
"""How many copies of earlier versions are kept of a file."""

_ROOM = 4
"""Of the size of a file, what may be needed: its copy; for a step that writes everything anew, the
write-ahead log, and a file that grows to twice its size."""

_PARTIAL = ".partial"

log = Logger()


def bring_up(db: sqlite3.Connection, path: str, steps: Sequence[str]) -> None:
    """Bring the file at ``path``, on which ``db`` is open, to the newest version.

    :param steps: SQL scripts; number N brings a file from version N to N + 1. A step that once was
        on somebody's disk is never changed: what is to be different is another step.
    :raises StorageFailure: a newer release made it, or a copy cannot be made; nothing is changed.
    """
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version > len(steps):
        raise StorageFailure(
            f"The database {path} has version {version}, made by a newer release; this one knows"
            f" up to {len(steps)}. Install that release again, or bring back what was there before"
            f" it: {path}.before-v{version}, or a backup"
        )
    if version == len(steps):
        return
    if version > 0:
        copy = _copy(db, path, len(steps))
        log.info(
            "{path} is brought from version {old} to {new}; as it was: {copy}",
            path=path,
            old=version,
            new=len(steps),
            copy=copy,
        )
    for number in range(version, len(steps)):
        db.executescript(f"BEGIN;\n{steps[number]};\nPRAGMA user_version={number + 1};\nCOMMIT;")
    _prune(path)


def _copy(db: sqlite3.Connection, path: str, target: int) -> str:
    """Copy the file as it is; whole and on the disk, or not there."""
    copy, partial = f"{path}.before-v{target}", f"{path}.before-v{target}{_PARTIAL}"
    _check_room(db, path)
    try:
        if os.path.exists(partial):
            os.unlink(partial)
        db.execute("VACUUM INTO ?", (partial,))
        sync_file(partial)
        os.replace(partial, copy)
        sync_file(os.path.dirname(path) or ".")
    except (OSError, sqlite3.Error, StorageFailure, StorageFull) as error:
        raise StorageFailure(
            f"The database {path} must be brought to version {target}, and a copy of it cannot be"
            f" made before: {error}. Nothing was changed"
        ) from error
    return copy


def _check_room(db: sqlite3.Connection, path: str) -> None:
    (pages,), (page,) = (db.execute(f"PRAGMA page_{what}").fetchone() for what in ("count", "size"))
    needed, free = _ROOM * pages * page, shutil.disk_usage(os.path.dirname(path) or ".").free
    if free < needed:
        raise StorageFull(
            f"The database {path} must be copied and brought to a new version: that takes up to"
            f" {needed} bytes, and {free} are free. Make room; nothing was changed"
        )


def _prune(path: str) -> None:
    """Remove the oldest copies, and what is left of one that was not completed."""
    marker = f"{path}.before-v"
    found: list[tuple[int, str]] = []
    for name in glob.glob(f"{glob.escape(marker)}*"):
        number = name.removeprefix(marker)
        if number.isdecimal():
            found.append((int(number), name))
        elif number.endswith(_PARTIAL):
            os.unlink(name)
    for _number, name in sorted(found)[:-_COPIES]:
        os.unlink(name)
