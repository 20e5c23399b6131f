"""Headers: what pydicom reads, we read; what is broken is refused, never another error."""

import random
import struct
import tracemalloc
import warnings
import zlib
from io import BytesIO
from pathlib import Path

import pydicom
import pydicom.data
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from twisted.trial.unittest import SynchronousTestCase

from demo import dataset
from tests.dicom_files import make, rewritten, with_elements
from txtransfers.errors import BadDicom
from txtransfers.store import dicom
from txtransfers.store.dicom import Header, read_header
from txtransfers.store.elements import LONGEST_HEADER
from txtransfers.wire.messages import Level

SYNTAXES = (
    *(ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian),
    DeflatedExplicitVRLittleEndian,
)

NOT_GUESSED = ("ExplVR_BigEndNoMeta.dcm",)
"""Big endian, and nothing in the file says so: refused."""

ITEM = b"\xfe\xff\x00\xe0"
OPEN_ITEM = ITEM + b"\xff\xff\xff\xff"
END_OF_ITEM = b"\xfe\xff\x0d\xe0\0\0\0\0"
END = b"\xfe\xff\xdd\xe0\0\0\0\0"


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

    def test_everything_that_pydicom_brings_is_read_alike_or_refused(self) -> None:
        alike, refused = 0, 0
        for path in sorted(Path(pydicom.data.__file__).parent.rglob("*")):
            if not path.is_file() or path.suffix in (".py", ".pyc", ".json", ".md"):
                continue
            uids, patient = [""] * 3, ""
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    wanted = pydicom.dcmread(path, force=True, stop_before_pixels=True)
                    uids = [
                        str(wanted.get(name) or "")
                        for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
                    ]
                    patient = str(wanted.get("PatientID") or "").rstrip(" \0")
            except Exception:  # broken on purpose
                uids = [""] * 3
            data = path.read_bytes()
            if not all(uids) or path.name in NOT_GUESSED:
                self.assertRaises(BadDicom, read, data)
                refused += 1
                continue
            found = read(data).dicom
            self.assertEqual([found.study, found.series, found.instance], uids, path)
            self.assertEqual(found.patient_id, patient, path)
            alike += 1
        self.assertGreater(alike, 100)
        self.assertGreater(refused, 5)

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
            data = make(patient=patient, SpecificCharacterSet=charset.split("\\"))
            for syntax in SYNTAXES:
                header = read(rewritten(data, syntax))
                self.assertEqual(header.dicom.patient_id, patient)
                self.assertEqual(header.tags[Level.PATIENT]["PatientID"], patient)

    def test_a_character_set_that_nobody_knows(self) -> None:
        data = make(patient="Muller").replace(b"Muller", b"M\xfcller")
        for name in (b"ISO_IR 999", b"", b"\\\\", b"UTF-8 "):
            element = b"\x08\x00\x05\x00CS" + struct.pack("<H", len(name)) + name
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                header = read(with_elements(data, element))
            self.assertTrue(header.dicom.patient_id.startswith("M"), name)

    def test_what_is_no_character_set_is_not_remembered(self) -> None:
        """Neither as a warning, nor as a name that was looked for in vain: hostile files end."""
        data = make(patient="Muller").replace(b"Muller", b"M\xfcller")

        def read_some(first: int) -> None:
            for number in range(first, first + 300):
                name = b"%01000d" % number
                element = b"\x08\x00\x05\x00CS" + struct.pack("<H", len(name)) + name
                self.assertEqual("Müller", read(with_elements(data, element)).dicom.patient_id)

        # As trial hears all warnings, and keeps them.
        with warnings.catch_warnings():
            dicom.ignore_warnings()
            read_some(0)
            tracemalloc.start()
            self.addCleanup(tracemalloc.stop)
            before = tracemalloc.get_traced_memory()[0]
            read_some(1000)
            self.assertLess(tracemalloc.get_traced_memory()[0] - before, 100_000)

    def test_a_codec_of_python_s_is_no_character_set(self) -> None:
        data = make(patient="abc-xyz")
        for name in (b"rot13 ", b"punycode", b"utf-16", b"unicode_escape"):
            element = b"\x08\x00\x05\x00CS" + struct.pack("<H", len(name)) + name
            value = b"Ma\xf1ana-bc".ljust(7)[:7]
            header = read(with_elements(data.replace(b"abc-xyz", value), element))
            self.assertEqual("Mañana-", header.dicom.patient_id, name)

    def test_a_misspelt_character_set_is_put_right(self) -> None:
        for name in ("ISO IR 192", "ISO-IR 192"):
            data = make(patient="Ŝt", SpecificCharacterSet="ISO_IR 192")
            header = read(data.replace(b"ISO_IR 192", name.encode()))
            self.assertEqual("Ŝt", header.dicom.patient_id)

    def test_an_empty_value_is_left_out(self) -> None:
        data = make(patient="abc").replace(b"abc ", b"\x1b$B ")
        data = data.replace(b"abc", b"\0\0\0")
        header = read(data)
        self.assertNotIn("", header.tags[Level.PATIENT].values())

    def test_encodings(self) -> None:
        wanted = read(make())
        for syntax in SYNTAXES:
            for preamble in (True, False):
                found = read(rewritten(make(), syntax, preamble))
                self.assertEqual((found.ids, found.tags), (wanted.ids, wanted.tags), syntax)
                self.assertEqual(found.transfer_syntax, syntax)

    def test_without_a_meta_header(self) -> None:
        for syntax in (ImplicitVRLittleEndian, ExplicitVRLittleEndian):
            data = rewritten(make(), syntax)
            found = read(data[data.index(b"\x08\x00\x16\x00") :])
            self.assertEqual(found.ids, read(make()).ids)
            self.assertEqual(found.transfer_syntax, "")

    def test_padding_is_no_part_of_an_identifier(self) -> None:
        wanted = read(make(patient="P"))
        for patient in ("P ", "P\0", "P \0 \0"):
            self.assertEqual(read(make(patient=patient)).ids, wanted.ids, repr(patient))
        self.assertEqual(read(make(patient=" P")).dicom.patient_id, " P")

    def test_no_patient_is_the_empty_one(self) -> None:
        data = make()
        start, end = data.index(b"\x10\x00\x20\x00LO"), data.index(b"\x20\x00\x0d\x00UI")
        absent = data[:start] + data[end:]
        for same in (absent, make(patient="  ")):
            self.assertEqual(read(same).ids, read(make(patient="")).ids)

    def test_refusals_say_why(self) -> None:
        def refused(data: bytes) -> str:
            return str(self.assertRaises(BadDicom, read, data))

        self.assertIn("empty", refused(b""))
        self.assertIn("5 bytes", refused(b"hello"))
        self.assertIn("200 bytes", refused(bytes(200)))
        self.assertIn("StudyInstanceUID", refused(make(StudyInstanceUID="")))
        self.assertIn("SOPInstanceUID", refused(make(SOPInstanceUID="")))
        both = refused(make(StudyInstanceUID="", SeriesInstanceUID=" "))
        self.assertIn("no StudyInstanceUID and no SeriesInstanceUID", both)
        self.assertNotIn("SOPInstanceUID", both)

    def test_what_stands_before_the_identifiers_is_passed_over(self) -> None:
        data, wanted = make(), read(make()).ids
        decoy = b"\x20\x00\x0d\x00UI\x04\x001.9\0"
        implicit_decoy = b"\x20\x00\x0d\x00\x04\0\0\x001.9\0"
        short_item = ITEM + struct.pack("<L", len(decoy)) + decoy
        tag = b"\x09\x00\x01\x10"
        undefined = b"SQ\0\0\xff\xff\xff\xff"
        nested = OPEN_ITEM + tag + undefined + OPEN_ITEM + decoy + END_OF_ITEM + END + END_OF_ITEM
        large = LONGEST_HEADER + 2
        for name, value in (
            ("large", b"OB\0\0" + struct.pack("<L", large) + bytes(large)),
            ("length", b"SQ\0\0" + struct.pack("<L", len(short_item)) + short_item),
            ("undefined", undefined + OPEN_ITEM + decoy + END_OF_ITEM + END),
            ("items with a length", undefined + short_item * 2 + END),
            ("nested", undefined + nested * 2 + END),
            (
                "implicit within unknown",
                b"UN\0\0\xff\xff\xff\xff" + OPEN_ITEM + implicit_decoy + END_OF_ITEM + END,
            ),
            ("fragments", b"OB\0\0\xff\xff\xff\xff" + ITEM + b"\x04\0\0\0abcd" + END),
            ("a VR that nobody knows", b"ZZ\x04\x00abcd"),
        ):
            for times in (1, 3):
                hidden = with_elements(data, (tag + value) * times, b"\x10\x00\x10\x00PN")
                self.assertEqual(read(hidden).ids, wanted, name)

    def test_a_hostile_header_costs_little_memory(self) -> None:
        data = make()
        start = b"\x08\x00\x05\x11SQ\0\0\xff\xff\xff\xff"
        bomb = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        packed = b"".join(bomb.compress(bytes(2**20)) for _ in range(100)) + bomb.flush()
        meta = rewritten(data, DeflatedExplicitVRLittleEndian)
        meta = meta[: meta.index(DeflatedExplicitVRLittleEndian.encode()) + 22]
        for hostile, most in (
            (with_elements(data, start * 20_000), 2**20),
            (with_elements(data, start + (ITEM + bytes(4)) * 40_000), 2**19),
            (meta + packed, 3 * LONGEST_HEADER),
        ):
            tracemalloc.start()
            try:
                self.assertRaises(BadDicom, read, hostile)
                self.assertLess(tracemalloc.get_traced_memory()[1], most)
            finally:
                tracemalloc.stop()

    def test_pixels_are_not_read(self) -> None:
        reached = [0]

        class Watched(BytesIO):
            def read(self, size: int | None = -1, /) -> bytes:
                result = super().read(size)
                reached.append(self.tell())
                return result

        data = make(filler=100_000)
        read_header(Watched(data), len(data))
        self.assertLess(max(reached), len(data) - 99_000)

    def test_cut_anywhere(self) -> None:
        for syntax in SYNTAXES:
            data = rewritten(make(filler=10), syntax)
            whole, refused = read(data), 0
            for size in range(len(data)):
                try:
                    found = read(data[:size])
                except BadDicom:
                    refused += 1
                else:
                    self.assertEqual(found.ids, whole.ids, f"{syntax} cut at {size}")
            self.assertGreater(refused, 300)

    @given(st.binary(max_size=300), st.integers(0, 2))
    def test_noise_is_refused(self, noise: bytes, kind: int) -> None:
        start = (b"", bytes(128) + b"DICM", b"\x08\x00\x05\x00CS")[kind]
        self.assertRaises(BadDicom, read, start + noise)

    @given(st.integers(0, 2**32), st.integers(1, 30), st.sampled_from(SYNTAXES))
    def test_damage_is_refused_or_read(self, seed: int, count: int, syntax: str) -> None:
        text = make(patient="Å", filler=10, SpecificCharacterSet="ISO_IR 100")
        data = bytearray(rewritten(text, syntax))
        noise = random.Random(seed)
        for _ in range(count):
            data[noise.randrange(128, len(data))] = noise.randrange(256)
        try:
            read(bytes(data))
        except BadDicom as error:
            self.assertTrue(str(error))


class PatientIdTests(SynchronousTestCase):
    """What Debian's Orthanc 1.10.1 reads, which its identifiers are made of, right or wrong."""

    KANJI = b"\x1b$B;3ED\x1b(B"

    def patient_id(self, value: bytes, names: bytes) -> str:
        value += b" " * (len(value) % 2)
        names += b" " * (len(names) % 2)
        data = make(patient="X" * len(value)).replace(b"X" * len(value), value)
        element = b"\x08\x00\x05\x00CS" + len(names).to_bytes(2, "little") + names
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return read(with_elements(data, element)).dicom.patient_id

    def test_by_the_first_character_set_that_is_named(self) -> None:
        for names, value, expected in (
            (rb"\ISO 2022 IR 87", self.KANJI + b":1", "\u5c71\u7530:1"),
            (rb"\ISO 2022 IR 87\ISO 2022 IR 159", self.KANJI, "\u5c71\u7530"),
            (rb"ISO 2022 IR 13\ISO 2022 IR 87", b"\x1b$B;3ED\x1b(JBO:1", ";3EDBO:1"),
            (rb"ISO 2022 IR 100\ISO 2022 IR 87", self.KANJI + b"\xe9", ";3ED\xe9"),
            (rb"ISO 2022 IR 6\ISO 2022 IR 87", self.KANJI + b":1", "$B;3ED(B:1"),
            (rb"\ISO 2022 IR 149", b"\x1b$)C\xb1\xe812", "\uae4012"),
            (rb"\ISO 2022 IR 58", b"\x1b$)A\xcd\xf512", "\u738b12"),
            (b"ISO_IR 13", b"\xd4\xcf\xc0\xde12", "\uff94\uff8f\uff80\uff9e12"),
            (b"ISO_IR 6", b"\xc1\xf512", "12"),
            (b"ISO_IR 101", b"\xc1\xf512", "\xc1\u015112"),
            (b"GB18030", b"\xc1\xf512", "\u521812"),
        ):
            self.assertEqual(self.patient_id(value, names), expected, names)

    def test_what_is_ascii_is_what_it_says(self) -> None:
        for names in (rb"ISO 2022 IR 13\ISO 2022 IR 87", b"ISO_IR 6", b"nonsense"):
            self.assertEqual(self.patient_id(b"P 12-3", names), "P 12-3")
