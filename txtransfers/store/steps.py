"""The instants at which a crash leaves something half done: named, so that tests can die at each.

What must be true after each: the instances of a transaction are all shown or none, and what was
staged can be gone on with, or is gone.
"""

from enum import Enum


class Step(Enum):
    """An instant, just passed; the value says what has been done."""

    FOLDER_MADE = "a staging folder is made, its log is not"
    LOG_MADE = "the log of a staging area is on the disk"
    BYTES_WRITTEN = "bytes are in a staged file, the log does not know"
    BYTES_LOGGED = "the log knows of bytes"
    ALL_VERIFIED = "a commit has verified all"
    ALL_SYNCED = "a commit has synced all"
    BATCH_BEGUN = "a hidden batch is begun"
    BATCH_ADDED = "some rows of a hidden batch are in the index"
    DECIDING = "the transaction that shows all is written, not committed"
    SHOWN = "all are shown, the log is still there"
    LOG_DROPPED = "all are shown, files that are not needed are still there"
    SWEPT = "files that are not needed are gone, replaced ones are still there"
    GARBAGE_UNLINKED = "a file that no row names is gone, the list of them still has it"
    DISCARD_BEGUN = "the log of a discarded staging area is gone, its folder is not"
    DISCARD_UNLINKED = "the folder of a discarded staging area is gone, the index knows it"
    START_PURGED = "at the start: hidden batches are undone"
    START_LOGS_READ = "at the start: logs that nobody can go on with are gone"
    START_ORPHAN_REMOVED = "at the start: a file that no row names is gone"
    REOPENED = "a staging area was opened again"
    RECOVERED = "what is staged of an instance was compared with the log"


def ignore(_step: Step) -> None:
    """Outside of tests nothing happens at a step."""
