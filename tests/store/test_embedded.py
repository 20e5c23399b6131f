"""What the embedded store promises beyond the contract: space, also when nobody waits any more;
and reads that spare copies.
"""

import os
from io import BytesIO

from twisted.internet.defer import CancelledError
from twisted.trial.unittest import SynchronousTestCase

from tests.dicom_files import make
from tests.orthanc.fake_orthanc import md5
from tests.slow_threads import SlowThreads
from txtransfers.errors import StorageFull
from txtransfers.store.dicom import read_header
from txtransfers.store.embedded import EmbeddedStore
from txtransfers.store.interfaces import Piece
from txtransfers.threads import SynchronousThreads
from txtransfers.wire.plan import Chunk, Instance

ID = "-".join(["00000000"] * 5)


class SpaceTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.threads = SlowThreads()
        self.store = EmbeddedStore(os.path.abspath(self.mktemp()), self.threads)
        self.store.start()
        self.addCleanup(self.store.stop)
        self.all = Instance(ID, self.store.space.free() // 4 * 3, "0" * 32)

    def test_what_was_promised_is_not_promised_again(self) -> None:
        incoming = self.successResultOf(self.store.receive([self.all]))
        error = self.failureResultOf(self.store.receive([self.all]), StorageFull).value
        self.assertIn(str(self.all.size), str(error))
        self.successResultOf(incoming.discard())
        self.successResultOf(self.store.receive([self.all]))

    def test_a_caller_that_was_cancelled_keeps_no_space(self) -> None:
        self.threads.is_slow = True
        receiving = self.store.receive([self.all])
        receiving.cancel()
        self.failureResultOf(receiving, CancelledError)
        self.threads.go_on()
        self.assertEqual(os.listdir(self.store.path("")), [])
        self.successResultOf(self.store.receive([self.all]))

    def test_a_caller_that_was_cancelled_is_told_of_no_error(self) -> None:
        held = self.successResultOf(self.store.receive([self.all]))
        self.threads.is_slow = True
        receiving = self.store.receive([self.all])
        receiving.cancel()
        self.failureResultOf(receiving, CancelledError)
        self.threads.go_on()
        self.successResultOf(held.discard())


class ReadingTests(SynchronousTestCase):
    def test_none_is_cut_where_it_fits(self) -> None:
        store = EmbeddedStore(os.path.abspath(self.mktemp()), SynchronousThreads())
        store.start()
        self.addCleanup(store.stop)
        files = [make(number, filler=1000 * number) for number in range(4)]
        declared = [
            Instance(read_header(BytesIO(data), len(data)).ids.instance, len(data), md5(data))
            for data in files
        ]
        incoming = self.successResultOf(store.receive(declared))
        for one, data in zip(declared, files, strict=True):
            self.successResultOf(incoming.write([Piece(one.id, 0, data)]))
        self.successResultOf(incoming.commit())
        reader = store.open([Chunk(one.id, 0, one.size) for one in declared])
        read = [self.successResultOf(reader.read(len(files[3]) + 10)) for _ in range(3)]
        self.assertEqual(read, [files[0] + files[1], files[2], files[3]])
