"""The suite that every store passes, on the store in front of a real Orthanc."""

import http.client
import os
from io import BytesIO
from typing import Any
from urllib.parse import urlsplit

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent
from zope.interface import implementer

from demo.daemon import AnswerError
from tests.contract.test_instance_store import Suite
from tests.dicom_files import make
from tests.functional.gateways import GatewayTestCase
from tests.orthanc.fake_orthanc import Response, settings
from txtransfers.errors import UnknownResource
from txtransfers.orthanc import reader
from txtransfers.orthanc.connection import Agents
from txtransfers.orthanc.rest import OrthancRest
from txtransfers.orthanc.store import OrthancStore
from txtransfers.store.dicom import read_header
from txtransfers.threads import SynchronousThreads
from txtransfers.wire.messages import Level, Resource
from txtransfers.wire.plan import Chunk

_PATIENCE_S = 30.0


@implementer(IAgent)
class WaitingAgent:
    """Makes each request at once, and waits for the answer: the suite has no reactor."""

    def request(
        self, method: bytes, uri: bytes, headers: Headers | None = None, bodyProducer: Any = None
    ) -> "Deferred[Any]":
        """See :class:`IAgent`."""
        body = BytesIO()
        produced = bodyProducer.startProducing(body) if bodyProducer is not None else succeed(None)
        named = headers if headers is not None else Headers()
        return produced.addCallback(lambda _none: self._ask(method, uri, named, body.getvalue()))

    def _ask(self, method: bytes, uri: bytes, headers: Headers, body: bytes) -> "Deferred[Any]":
        url = urlsplit(uri.decode())
        connection = http.client.HTTPConnection(str(url.hostname), url.port, timeout=_PATIENCE_S)
        named = {name.decode(): values[0].decode() for name, values in headers.getAllRawHeaders()}
        try:
            connection.request(method.decode(), url.path, body, named)
            answer = connection.getresponse()
            given = Response(answer.status, answer.read(), dict(answer.getheaders()))
        except (OSError, http.client.HTTPException) as error:
            return fail(error)
        finally:
            connection.close()
        return succeed(given)


class RealOrthancStoreTests(Suite, GatewayTestCase):
    """Each test has an Orthanc of its own, which is empty."""

    by_sockets = False
    """Whether it is asked by sockets in threads: here, in the one that there is."""

    def setUp(self) -> None:
        super().setUp()
        self.real = self.orthanc("A")
        self.addCleanup(self.kill, self.real)  # a stop takes seconds
        agent = WaitingAgent()
        threads = SynchronousThreads()
        at_real = settings(url=self.real.url)
        waiting_threads = threads if self.by_sockets else None
        rest = OrthancRest(
            Clock(), threads, Agents(agent, agent), at_real, _PATIENCE_S, waiting_threads
        )
        self.addCleanup(lambda: Deferred.fromCoroutine(rest.close()))
        folder = os.path.abspath(self.mktemp())
        # Without reading ahead: what is deleted then is not found in a copy.
        self.store = OrthancStore(folder, rest, threads, Clock(), 2**30, ahead=0)
        self.store.start()
        self.addCleanup(self.store.stop)

    def delete(self, id_: str) -> None:
        self.real.client.request("DELETE", f"/instances/{id_}")

    def test_identifiers_of_two_levels_that_are_equal(self) -> None:
        """Orthanc itself knows a patient only, where an instance has its identifier, too."""
        data = make()
        ids = read_header(BytesIO(data), len(data))
        dicom = ids.dicom
        spelled = "|".join((dicom.patient_id, dicom.study, dicom.series, dicom.instance))
        trap = make(8, study=8, PatientID=spelled)
        (a,) = self.put(trap)
        (b,) = self.put(data)
        with self.assertRaises(AnswerError):
            self.real.client.get(f"/instances/{b}")
        self.assertEqual(list(self.now(self.store.find([a, b]))), [a])
        self.assertEqual(self.read(Chunk(a, 0, len(trap))), trap)
        self.fails(self.store.lookup([Resource(Level.INSTANCE, b)]), UnknownResource)


class CopyingRealOrthancStoreTests(RealOrthancStoreTests):
    """The same where each instance is copied to the disk while it is read."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(reader, "SMALL", 0)


class SocketRealOrthancStoreTests(RealOrthancStoreTests):
    """The same by sockets."""

    by_sockets = True
