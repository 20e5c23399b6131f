"""Orthanc identifiers are SHA-1 of the DICOM identifiers, as Orthanc computes them."""

from hashlib import sha1

from twisted.trial.unittest import SynchronousTestCase

from txtransfers.wire.identifiers import (
    DicomIdentifiers,
    hash_identifiers,
    is_identifier,
    strip_padding,
)


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
        self.assertEqual(ids.study, "8a8cf898-ca27c490-d0c7058c-929d0581-2bbf104d")
        self.assertEqual(ids.series, "93034833-163e42c3-bc9a428b-194620cf-2c5799e5")
        self.assertEqual(ids.instance, "f689ddd2-662f8fe1-8b18180d-ec2a2cee-937917af")

    def test_parts_are_joined_by_bars_and_hashed_as_utf_8(self) -> None:
        ids = hash_identifiers(DicomIdentifiers("Müller", "1", "2", "3"))
        digest = sha1("Müller|1|2".encode()).hexdigest()
        self.assertEqual(ids.series.replace("-", ""), digest)

    def test_an_absent_patient_id_counts_as_empty(self) -> None:
        ids = hash_identifiers(DicomIdentifiers("", "1", "2", "3"))
        self.assertEqual(ids.patient, "da39a3ee-5e6b4b0d-3255bfef-95601890-afd80709")

    def test_a_bar_in_a_patient_id_is_a_bar(self) -> None:
        """Orthanc does not escape it: the identifiers below are those of another patient."""
        one = hash_identifiers(DicomIdentifiers("a|b", "1", "2", "3"))
        other = hash_identifiers(DicomIdentifiers("a", "b|1", "2", "3"))
        self.assertEqual(one.study, other.study)
        self.assertNotEqual(one.patient, other.patient)

    def test_text_that_is_no_unicode_is_hashed_as_the_bytes_that_it_was(self) -> None:
        ids = hash_identifiers(
            DicomIdentifiers(b"\xff".decode(errors="surrogateescape"), "", "", "")
        )
        self.assertEqual(ids.patient.replace("-", ""), sha1(b"\xff").hexdigest())

    def test_padding(self) -> None:
        for padded, text in (
            ("1CT1", "1CT1"),
            ("1CT1 ", "1CT1"),
            ("1.2\0", "1.2"),
            ("x \0 \0", "x"),
            (" \0", ""),
            (" x y ", " x y"),
            ("x\n", "x\n"),
        ):
            self.assertEqual(strip_padding(padded), text)

    def test_form(self) -> None:
        self.assertTrue(is_identifier("da39a3ee-5e6b4b0d-3255bfef-95601890-afd80709"))
        for bad in (
            "",
            "DA39A3EE-5e6b4b0d-3255bfef-95601890-afd80709",
            "da39a3ee-5e6b4b0d-3255bfef-95601890-afd80709\n",
            "../../../../../../../../../../../etc/passwd",
            "da39a3ee5e6b4b0d3255bfef95601890afd80709",
            "da39a3ee-5e6b4b0d-3255bfef-95601890-afd8070",
            "da39a3ee-5e6b4b0d-3255bfef-95601890-afd80709-afd80709",
            "da39a3ee-5e6b4b0d-3255bfef-95601890-afd8070\u0669",
            " da39a3ee-5e6b4b0d-3255bfef-95601890-afd80709",
        ):
            self.assertFalse(is_identifier(bad), bad)
