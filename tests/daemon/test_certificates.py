"""The certificates of the Orthanc that is the store: used as those of peers, and read anew."""

import json
from pathlib import Path
from typing import Any

import trustme
from OpenSSL import SSL
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from txtransfers.config import Settings, parse
from txtransfers.daemon.certificates import Certificates, make_contexts
from txtransfers.errors import ConfigurationError
from txtransfers.threads import SynchronousThreads


class StoreTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.authority = trustme.CA()
        self.trusted = self.folder / "ca.pem"
        self.own = self.folder / "me.pem"
        self.key = self.folder / "me.key"
        self.authority.cert_pem.write_to_path(self.trusted)
        self.issue()

    def issue(self) -> None:
        mine = self.authority.issue_cert("me")
        mine.cert_chain_pems[0].write_to_path(self.own)
        mine.private_key_pem.write_to_path(self.key)

    def settings(self, url: str = "https://orthanc.test/", **more: str) -> Settings:
        files = {
            "HttpsCACertificates": str(self.trusted),
            "CertificateFile": str(self.own),
            "CertificateKeyFile": str(self.key),
            **more,
        }
        store = {"Type": "Orthanc", "Url": url, **files}
        return parse(json.dumps({"Store": store}), "test", {}, str(self.folder))

    def certificates(self, settings: Settings) -> Certificates:
        contexts = make_contexts(settings)
        return Certificates(Clock(), settings, contexts, SynchronousThreads())

    def connection(self, certificates: Certificates) -> SSL.Connection:
        protocol: Any = None
        assert certificates.store is not None
        return certificates.store.clientConnectionForTLS(protocol)

    def test_plain_http_needs_none(self) -> None:
        settings = self.settings("http://orthanc.test/", HttpsCACertificates="/nowhere")
        self.assertIsNone(self.certificates(settings).store)

    def test_new_connections_use_what_was_read_anew(self) -> None:
        certificates = self.certificates(self.settings())
        before = self.connection(certificates)
        self.assertEqual(b"orthanc.test", before.get_servername())
        self.successResultOf(certificates.look())
        self.assertIs(before.get_context(), self.connection(certificates).get_context())
        self.issue()
        self.successResultOf(certificates.look())
        after = self.connection(certificates)
        self.assertIsNot(before.get_context(), after.get_context())
        self.trusted.write_text("damaged")
        self.successResultOf(certificates.look())
        self.assertIs(after.get_context(), self.connection(certificates).get_context())

    def test_what_cannot_be_used_is_named(self) -> None:
        other = self.folder / "other.key"
        self.authority.issue_cert("other").private_key_pem.write_to_path(other)
        empty = self.folder / "empty.pem"
        empty.touch()
        for more, words in (
            ({"HttpsCACertificates": str(empty)}, f"{empty} holds no certificate"),
            ({"CertificateFile": str(empty)}, f"{empty} holds no certificate"),
            ({"CertificateKeyFile": "/nowhere"}, "/nowhere cannot be read"),
            ({"CertificateKeyFile": str(other)}, "is not that of the first certificate"),
        ):
            error = self.assertRaises(ConfigurationError, make_contexts, self.settings(**more))
            self.assertIn(f"Store.{next(iter(more))}", str(error))
            self.assertIn(words, str(error))
