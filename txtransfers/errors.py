"""Every error of the domain, each with the facts that a person needs to act on it.

Raised by every room below ``web``; no HTTP words here: ``web/resource.py`` alone maps these to
statuses. ``str(error)`` is a sentence (or several) for a person: it names the key, the peer, the
instance, the two numbers that differ, and what to do.
"""


class TransfersError(Exception):
    """Base of everything below."""


class ConfigurationError(TransfersError):
    """The configuration cannot be used; the text names the file, the key's path and the remedy."""


class BadMessage(TransfersError):
    """A message is no JSON, has a wrong type, or lacks a mandatory member (protocol, section 4)."""


class OutOfRange(TransfersError):
    """A well-formed value outside what is known or allowed: Level, Compression, bucket number."""


class BadParameter(TransfersError):
    """A URL argument that is not a non-negative decimal number."""


class UnknownResource(TransfersError):
    """Nothing here has that identifier: a resource, an instance, a peer, a transaction, a route."""


class UnknownJob(TransfersError):
    """No job has that identifier."""


class JobActionRefused(TransfersError):
    """The job's state does not allow the action."""


class WrongLength(TransfersError):
    """A bucket's body is shorter or longer than what the transaction declares for it."""


class BadCompression(TransfersError):
    """A body is not the single, complete gzip member that was announced."""


class CorruptedInstances(TransfersError):
    """Instances of a transfer are incomplete, or their MD5 differs from the declared one.

    :ivar instances: the identifiers concerned, in order.
    """

    def __init__(self, message: str, instances: tuple[str, ...]) -> None:
        super().__init__(message)
        self.instances = instances


class Forbidden(TransfersError):
    """Whoever asks is known, and may not do this; or a page of somebody else asks."""


class BadDicom(TransfersError):
    """Bytes that are no usable DICOM file; the text says why."""


class BadState(TransfersError):
    """The request comes at a time when it cannot be served, such as a bucket during a commit."""


class TooBusy(TransfersError):
    """No room for one more at the moment.

    :ivar retry_after: seconds after which it is worth trying again.
    """

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ForeignOrigin(TransfersError):
    """A page of another site asks for this, in the browser of somebody who is let in here."""


class UrlTooLong(TransfersError):
    """A request's URL is longer than this route takes."""


class BodyTooLarge(TransfersError):
    """A request's body exceeds what this route takes."""


class StorageFull(TransfersError):
    """The storage has no room for the bytes."""


class StorageFailure(TransfersError):
    """The storage could not be read or written; the text names the file and the system's reason."""


class StoreUnavailable(StorageFailure):
    """The Orthanc that holds the instances cannot be used for now: no answer, or it is busy."""


class PeerError(TransfersError):
    """A peer could not be used. The text names the peer, says what happened and what to check."""


class PeerUnreachable(PeerError):
    """No answer from the peer: refused, unresolved, reset, or silent for too long."""


class PeerUntrusted(PeerError):
    """TLS with the peer is not possible: its certificate, or ours, is not what it must be."""


_NOT_FOUND = 404


class PeerRefused(PeerError):
    """The peer answered, with an error.

    :ivar status: the HTTP status of its answer.
    :ivar retry_after: seconds after which it asks to be tried again, where it says so.
    """

    def __init__(self, message: str, status: int, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after

    @property
    def is_unknown(self) -> bool:
        """Whether the peer does not know what was asked for (404)."""
        return self.status == _NOT_FOUND


class PeerNonsense(PeerError):
    """The peer answered something that this protocol does not know; it may not be a peer at all."""


class PeerIncomplete(PeerError):
    """A peer is known by Orthanc's configuration only, which does not tell all that is needed."""


class RemoteJobFailed(PeerError):
    """A job at a peer, which was to do something for us, has failed there."""


class OrthancUnreachable(TransfersError):
    """The Orthanc behind us gave no answer; the text has its address and what to check."""


class OrthancSilent(OrthancUnreachable):
    """It is there, but says nothing for too long."""


class WrongOriginator(PeerError):
    """``RemoteSelf`` leads to another daemon than the one that asked for the pull."""


class SourceChanged(TransfersError):
    """What is transferred was deleted or replaced at its source; the text names an instance."""


class DaemonError(TransfersError):
    """The daemon that a client talks to could not be used; the text names it and what to check."""


class DaemonUnreachable(DaemonError):
    """No answer from the daemon."""


class DaemonRefused(DaemonError):
    """The daemon answered, with an error; the text has its words.

    :ivar status: the HTTP status of its answer.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class AccessDenied(DaemonRefused):
    """The daemon lets in only others: no user, a wrong password, another host (401, 403)."""


class DaemonNonsense(DaemonError):
    """The daemon answered something that is not its protocol: another server may be there."""


class Ambiguous(TransfersError):
    """A name means several things.

    :ivar candidates: a line for each.
    """

    def __init__(self, message: str, candidates: tuple[str, ...]) -> None:
        super().__init__(message)
        self.candidates = candidates
