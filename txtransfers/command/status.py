"""How the command ends: its exit statuses, and the errors that lead to them."""

from ..errors import (
    Ambiguous,
    ConfigurationError,
    DaemonError,
    DaemonRefused,
    TransfersError,
    UnknownJob,
    UnknownResource,
)

SUCCESS = 0
FAILED = 1
USAGE = 2
UNUSABLE = 3
UNKNOWN = 4
OPEN = 5
INTERRUPTED = 130

MEANINGS = {
    SUCCESS: "All is well. Of a transfer: it ended in Success, every byte is verified and stored.",
    FAILED: "The transfer failed or was cancelled; the action was refused; a file could not be"
    " imported; a check found something wrong.",
    USAGE: "The command line, the configuration or the credentials cannot be used.",
    UNUSABLE: "The daemon does not answer, lets us not in, or is none.",
    UNKNOWN: "Nothing has that name, or several have: a study, a peer, a job.",
    OPEN: "The transfer was left running, or runs where it cannot be followed: its end is not"
    " known here.",
    INTERRUPTED: "Ctrl-C, where no transfer was under way.",
}
"""What the documentation says of each."""


class LeftRunning(TransfersError):
    """A transfer goes on without us; the text says how to see it again."""


def status_of(error: TransfersError) -> int:
    """The exit status for an error."""
    if isinstance(error, LeftRunning):
        return OPEN
    if isinstance(error, Ambiguous | UnknownJob | UnknownResource):
        return UNKNOWN
    if isinstance(error, ConfigurationError):
        return USAGE
    if isinstance(error, DaemonRefused) and error.status in (400, 409, 502, 503, 507):
        return FAILED
    return UNUSABLE if isinstance(error, DaemonError) else FAILED
