"""Orthanc identifiers are SHA-1 of the DICOM identifiers, as Orthanc computes them."""

from hashlib import sha1

from twisted.trial.unittest import SynchronousTestCase

from txtransfers.wire.identifiers import DicomIdentifiers, hash_identifiers, is_identifier


class IdentifierTests(SynchronousTestCase):
    def test_values_that_orthanc_gave(self) -> None:
        """CT_small.dcm of pydicom, stored in a real Orthanc."""
        ids = hash_identifiers(
            DicomIdentifiers(
                "1CT1",
                "1.3.6.1.4.1.5962.1.2.1.20040119072730.12322",
                "1.3.6.1.4.1.5962.1.3.1.1.20040119072730.12322",
                "1.3.6.1.4.1.5962.1.1.1.1.1.20040119072730.12322",
            )
        )
        self.assertEqual(ids.patient, "fa558bce-587a86d3-ad0da9b3-9d043d9d-4f5c5718")
        self.assertEqual(ids.instance, "f689ddd2-662f8fe1-8b18180d-ec2a2cee-937917af")

    def test_parts_are_joined_by_bars_and_hashed_as_utf_8(self) -> None:
        ids = hash_identifiers(DicomIdentifiers("Müller", "1", "2", "3"))
        digest = sha1("Müller|1|2".encode()).hexdigest()
        self.assertEqual(ids.series.replace("-", ""), digest)

    def test_an_absent_patient_id_counts_as_empty(self) -> None:
        ids = hash_identifiers(DicomIdentifiers("", "1", "2", "3"))
        self.assertEqual(ids.patient, "da39a3ee-5e6b4b0d-3255bfef-95601890-afd80709")

    def test_form(self) -> None:
        self.assertTrue(is_identifier("da39a3ee-5e6b4b0d-3255bfef-95601890-afd80709"))
        for bad in (
            "",
            "DA39A3EE-5e6b4b0d-3255bfef-95601890-afd80709",
            "da39a3ee-5e6b4b0d-3255bfef-95601890-afd80709\n",
            "../../../../../../../../../../../etc/passwd",
            "da39a3ee5e6b4b0d3255bfef95601890afd80709",
        ):
            self.assertFalse(is_identifier(bad), bad)
