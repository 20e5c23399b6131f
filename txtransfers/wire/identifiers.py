"""DICOM identifiers -> Orthanc identifiers (protocol, section 1), and what one looks like.

Whoever takes an identifier from outside checks it here before using it for anything else.
"""

import re
from hashlib import sha1

import attrs

_IDENTIFIER = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{8}){4}\Z")
_PADDING = " \0"
_GROUP = 8


@attrs.frozen
class DicomIdentifiers:
    """The four identifiers of one instance, decoded and without the padding at their ends.

    :ivar patient_id: PatientID (0010,0020); empty where the file has none.
    """

    patient_id: str
    study: str
    series: str
    instance: str


@attrs.frozen
class ResourceIdentifiers:
    """The Orthanc identifiers of an instance and of its three parents."""

    patient: str
    study: str
    series: str
    instance: str


def is_identifier(text: str) -> bool:
    """Whether ``text`` has the form of an Orthanc identifier."""
    return _IDENTIFIER.match(text) is not None


def strip_padding(text: str) -> str:
    """Remove the padding (spaces, NUL) at the end of a DICOM value; Orthanc keeps leading ones."""
    return text.rstrip(_PADDING)


def hash_identifiers(dicom: DicomIdentifiers) -> ResourceIdentifiers:
    """Compute the Orthanc identifiers of an instance and of its parents."""
    parts = (dicom.patient_id, dicom.study, dicom.series, dicom.instance)
    return ResourceIdentifiers(*(_hash("|".join(parts[: n + 1])) for n in range(len(parts))))


def _hash(text: str) -> str:
    digest = sha1(text.encode("utf-8", "surrogateescape"), usedforsecurity=False).hexdigest()
    return "-".join(digest[i : i + _GROUP] for i in range(0, len(digest), _GROUP))
