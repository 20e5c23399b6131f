"""All tags of an instance: as pydicom reads them, in the memory that a header may take."""

import io
import struct
import tracemalloc
import warnings
import zlib
from pathlib import Path
from typing import Any

import pydicom
import pydicom.data
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian

from tests.dicom_files import make, rewritten, with_elements
from tests.store.test_archive import ArchiveCase
from txtransfers import errors
from txtransfers.wire.messages import Level

MEGABYTE = 2**20


def private(size: int) -> bytes:
    return b"\x21\x00\x01\x10OB\0\0" + struct.pack("<L", size) + bytes(size)


class TagsTests(ArchiveCase):
    def tags(self, data: bytes) -> Any:
        (stored,) = self.add(data)
        return self.now(self.archive.all_tags(stored.id))

    def test_sequences_private_tags_and_bytes(self) -> None:
        self.store.overwrite_instances = True
        source = pydicom.dcmread(io.BytesIO(make(ImageType=["DERIVED", "PRIMARY"])))
        inner, outer = Dataset(), Dataset()
        inner.CodeValue = "C1"
        outer.PurposeOfReferenceCodeSequence = [inner]
        outer.ReferencedSOPInstanceUID = "1.2.3"
        source.ReferencedImageSequence = [outer, Dataset()]
        source.add_new(0x00090010, "LO", "ACME")
        source.add_new(0x00091010, "LO", "mine")
        source.add_new(0x00091011, "OB", b"\1\2")
        source.PatientComments = ""
        for undefined in (False, True):
            source["ReferencedImageSequence"].is_undefined_length = undefined
            out = io.BytesIO()
            source.save_as(out)
            for syntax in (None, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian):
                data = rewritten(out.getvalue(), syntax) if syntax else out.getvalue()
                tags = self.tags(data)
                first = {
                    "PurposeOfReferenceCodeSequence": [{"CodeValue": "C1"}],
                    "ReferencedSOPInstanceUID": "1.2.3",
                }
                self.assertEqual(tags["ReferencedImageSequence"], [first, {}])
                self.assertEqual(tags["ImageType"], "DERIVED\\PRIMARY")
                self.assertEqual(tags["PatientComments"], "")
                self.assertIsNone(tags["(0009,1011)"])
                if syntax != ImplicitVRLittleEndian:  # there it has no VR
                    self.assertEqual(tags["(0009,1010)"], "mine")
                self.assertNotIn("PixelData", tags)

    def test_everything_that_pydicom_brings(self) -> None:
        compared = 0
        for path in sorted(Path(pydicom.data.__file__).parent.rglob("*.dcm")):
            result = self.upload(path.read_bytes())
            result.addErrback(lambda failure: failure.trap(errors.BadDicom) and None)
            stored = self.now(result)
            if stored is None or stored[1][0].already_stored:
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                wanted = pydicom.dcmread(path, force=True, stop_before_pixels=True)
                names = {one.keyword for one in wanted if one.keyword and one.tag.group != 0x7FE0}
            tags = self.now(self.archive.all_tags(stored[1][0].id))
            self.assertEqual(names - set(tags), set(), path)
            self.assertEqual(tags["SOPInstanceUID"], wanted.SOPInstanceUID)
            compared += 1
        self.assertGreater(compared, 40)

    def peak(self, data: bytes) -> int:
        """Bytes of memory that reading the tags takes; they may be refused."""
        (stored,) = self.add(data)
        tracemalloc.start()
        try:
            result = self.archive.all_tags(stored.id)
            result.addErrback(lambda failure: failure.trap(errors.BadDicom) and None)
            self.now(result)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    def test_pixels_and_other_large_values_are_not_read(self) -> None:
        size = 20 * MEGABYTE
        self.assertLess(self.peak(make(1, filler=size)), MEGABYTE)
        large = with_elements(make(2), private(size), b"\xe0\x7f\x10\x00")
        self.assertLess(self.peak(large), MEGABYTE)
        for id_ in self.now(self.archive.list_ids(Level.INSTANCE, 0, 0)):
            self.assertEqual(self.now(self.archive.all_tags(id_))["PatientID"], "P1")

    def test_a_large_value_is_told_of(self) -> None:
        tags = self.tags(with_elements(make(), private(2**17), b"\xe0\x7f\x10\x00"))
        self.assertIsNone(tags["(0021,1001)"])
        self.assertEqual(tags["InstanceNumber"], "1")

    def test_a_large_sequence_is_read(self) -> None:
        item = b"\x08\x00\x50\x11UI\x06\x001.2.3\0"
        items = (b"\xfe\xff\0\xe0" + struct.pack("<L", len(item)) + item) * 5000
        sequence = b"\x08\x00\x40\x11SQ\0\0" + struct.pack("<L", len(items)) + items
        tags = self.tags(with_elements(make(), sequence, b"\x10\x00\x10\x00PN"))
        wanted = [{"ReferencedSOPClassUID": "1.2.3"}] * 5000
        self.assertEqual(tags["ReferencedImageSequence"], wanted)

    def test_what_inflates_without_end(self) -> None:
        data = rewritten(make(), DeflatedExplicitVRLittleEndian)
        start = 144 + struct.unpack_from("<L", data, 140)[0]  # after the meta header
        inflated = zlib.decompress(data[start:], -zlib.MAX_WBITS)
        end = inflated.index(b"\xe0\x7f\x10\x00")
        packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        packed = packer.compress(inflated[:end] + private(100 * MEGABYTE)) + packer.flush()
        self.assertLess(self.peak(data[:start] + packed), 30 * MEGABYTE)

    def test_a_header_without_end_is_refused(self) -> None:
        many = b"\x21\x00\x10\x00LO\x10\x000123456789abcdef" * 400_000
        (stored,) = self.add(with_elements(make(), many, b"\xe0\x7f\x10\x00"))
        text = self.fails(self.archive.all_tags(stored.id), errors.BadDicom)
        self.assertIn("longer than", text)
