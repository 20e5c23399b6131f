"""Headers: what pydicom reads, we read; what is broken is refused, never another error."""

import random
import warnings
from io import BytesIO

import pydicom
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian
from twisted.trial.unittest import SynchronousTestCase

from demo import dataset
from tests.dicom_files import make
from txtransfers.errors import BadDicom
from txtransfers.store.dicom import Header, read_header
from txtransfers.wire.messages import Level


def read(data: bytes) -> Header:
    return read_header(BytesIO(data), len(data))


class HeaderTests(SynchronousTestCase):
    def test_as_pydicom_reads_its_own_files(self) -> None:
        compared = 0
        for path in dataset.shipped(None):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                wanted = pydicom.dcmread(path, force=True, stop_before_pixels=True)
            found = read(path.read_bytes()).dicom
            self.assertEqual(found.instance, wanted.SOPInstanceUID, path)
            self.assertEqual(found.series, wanted.SeriesInstanceUID, path)
            self.assertEqual(found.study, wanted.StudyInstanceUID, path)
            compared += 1
        self.assertGreater(compared, 100)

    def test_main_tags_by_level(self) -> None:
        header = read(make(7, AccessionNumber="ACC", SeriesDescription="Axial"))
        self.assertEqual(header.tags[Level.PATIENT]["PatientName"], "Test^Patient")
        self.assertEqual(header.tags[Level.STUDY]["AccessionNumber"], "ACC")
        self.assertEqual(header.tags[Level.SERIES]["SeriesDescription"], "Axial")
        self.assertEqual(header.tags[Level.INSTANCE]["InstanceNumber"], "7")
        self.assertEqual(header.transfer_syntax, "1.2.840.10008.1.2.1")

    def test_text_in_its_character_set(self) -> None:
        for charset, patient in (
            ("ISO_IR 100", "Müller"),
            ("ISO_IR 192", "Ŝtefan"),
            ("ISO_IR 144", "Люкceмбypг"),  # noqa: RUF001
            ("\\ISO 2022 IR 87", "山田"),
        ):
            header = read(make(patient=patient, SpecificCharacterSet=charset.split("\\")))
            self.assertEqual(header.dicom.patient_id, patient)

    def rewritten(self, syntax: str, preamble: bool = True) -> bytes:
        source = pydicom.dcmread(BytesIO(make()))
        source.file_meta.TransferSyntaxUID = syntax
        out = BytesIO()
        source.save_as(
            out,
            implicit_vr=syntax == ImplicitVRLittleEndian,
            little_endian=True,
            enforce_file_format=True,
        )
        return out.getvalue() if preamble else out.getvalue()[132:]

    def test_encodings(self) -> None:
        wanted = read(make()).ids
        self.assertEqual(read(self.rewritten(ImplicitVRLittleEndian)).ids, wanted)
        self.assertEqual(read(self.rewritten(DeflatedExplicitVRLittleEndian)).ids, wanted)
        self.assertEqual(read(self.rewritten(ImplicitVRLittleEndian, False)).ids, wanted)

    def test_refusals_say_why(self) -> None:
        def refused(data: bytes) -> str:
            return str(self.assertRaises(BadDicom, read, data))

        self.assertIn("empty", refused(b""))
        self.assertIn("5 bytes", refused(b"hello"))
        self.assertIn("200 bytes", refused(bytes(200)))
        self.assertIn("StudyInstanceUID", refused(make(StudyInstanceUID="")))
        self.assertIn("SOPInstanceUID", refused(make(SOPInstanceUID="")))

    def test_cut_anywhere(self) -> None:
        data = make(filler=10)
        whole = read(data)
        for size in range(0, len(data), 7):
            try:
                self.assertEqual(read(data[:size]).ids.series, whole.ids.series)
            except BadDicom:
                continue

    @given(st.integers(0, 2**32), st.integers(1, 30))
    def test_damage_is_refused_or_read(self, seed: int, count: int) -> None:
        data = bytearray(make(filler=10))
        noise = random.Random(seed)
        for _ in range(count):
            data[noise.randrange(128, len(data))] = noise.randrange(256)
        try:
            read(bytes(data))
        except BadDicom as error:
            self.assertTrue(str(error))
