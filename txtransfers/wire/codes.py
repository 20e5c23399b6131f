"""Error -> Orthanc's code and its standard text, as they travel in answers and in jobs."""

from .. import errors

SUCCESS = (0, "Success")
CANCELLED = (37, "This job was canceled")
INTERNAL = (-1, "Internal error")

_TABLE: tuple[tuple[type[Exception], int, str], ...] = (
    (errors.BadMessage, 15, "Bad file format"),
    (errors.BadDicom, 15, "Bad file format"),
    (errors.BadCompression, 15, "Bad file format"),
    (errors.OutOfRange, 3, "Parameter out of range"),
    (errors.BadParameter, 5, "Bad type for a parameter"),
    (errors.UnknownResource, 17, "Unknown resource"),
    (errors.UnknownJob, 17, "Unknown resource"),
    (errors.Forbidden, 45, "Access to a resource is forbidden"),
    (errors.WrongLength, 9, "Error in the network protocol"),
    (errors.CorruptedInstances, 20, "Corrupted file (e.g. inconsistent MD5 hash)"),
    (errors.JobActionRefused, 6, "Bad sequence of calls"),
    (errors.BadState, 6, "Bad sequence of calls"),
    (errors.TooBusy, 6, "Bad sequence of calls"),
    (errors.BodyTooLarge, 15, "Bad file format"),
    (errors.UrlTooLong, 8, "Bad request"),
    (errors.ForeignOrigin, 8, "Bad request"),
    (errors.StorageFull, 19, "The file storage is full"),
    (errors.StoreUnavailable, 9, "Error in the network protocol"),
    (errors.StorageFailure, 14, "Cannot write to file"),
    (errors.SourceChanged, 6, "Bad sequence of calls"),
    (errors.OrthancUnreachable, 9, "Error in the network protocol"),
    (errors.PeerError, 9, "Error in the network protocol"),
)


def code_of(error: BaseException) -> tuple[int, str]:
    """Orthanc's code for ``error``, and its standard text."""
    for type_, code, text in _TABLE:
        if isinstance(error, type_):
            return code, text
    return INTERNAL
