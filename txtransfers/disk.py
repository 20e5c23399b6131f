"""The disk: what brings files to it, and our words for what it says. Blocking."""

import ctypes
import errno
import os
from typing import Any

from .errors import StorageFailure, StorageFull

_SYNC_FILE_RANGE_WRITE = 2
"""linux/fs.h"""


def disk_error(error: OSError, path: str) -> StorageFull | StorageFailure:
    """The domain's word for what the system says of a file."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFull(f"No room left on the disk of {os.path.dirname(path)}")
    return StorageFailure(f"Cannot use {path}: {error.strerror}")


def sync_file(path: str) -> None:
    """Bring a file's bytes, or a folder's names, to the disk; blocking.

    :raises StorageFull, StorageFailure: the system could not. It says so once: of bytes that it
        could not write, a second call would seem to succeed.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise disk_error(error, path) from error


def begin_sync(path: str) -> None:
    """Have the system begin to write a file's bytes to the disk, and do not wait for it: less is
    left to :func:`sync_file`. Nothing happens where the system cannot do that.
    """
    if _sync_file_range is None:
        return
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return  # sync_file will say it
    try:
        # It tells nothing that is lost then: what the disk refuses is told to sync_file.
        _sync_file_range(descriptor, 0, 0, _SYNC_FILE_RANGE_WRITE)
    finally:
        os.close(descriptor)


def _find_sync_file_range() -> Any:
    """The system's function, where it has it; without the lock of Python while it works."""
    function = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if function is not None:
        function.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return function


_sync_file_range = _find_sync_file_range()
