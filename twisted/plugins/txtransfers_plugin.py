"""Makes ``twistd txtransfers`` known; everything else is in the package."""

from twisted.application.service import ServiceMaker

txtransfers = ServiceMaker(
    "txtransfers",
    "txtransfers.service",
    "Moves DICOM studies between Orthanc-style peers over HTTP: fast, verified, all or nothing.",
    "txtransfers",
)
