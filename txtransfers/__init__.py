"""Moves DICOM studies between Orthanc-style peers over HTTP: fast, verified, all or nothing."""

__version__ = "0.1.0"
