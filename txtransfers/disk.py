"""The disk: what brings files to it, and our words for what it says. Blocking."""

import errno
import os

from .errors import StorageFailure, StorageFull


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
