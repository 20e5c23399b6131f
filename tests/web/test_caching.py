"""What caches are told of ``chunks`` answers: what holds, for how long, and what is to be kept."""

import gzip
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from tests.web.harness import Answer, House, make_dicom, md5
from txtransfers.store.memory import MemoryStore
from txtransfers.wire.plan import Chunk, Instance, content_of

OLD, NEW, OTHER = (make_dicom(1000, "1.2.3", patient=patient) for patient in ("P", "Q", "R"))


class NoReading(MemoryStore):
    """A store of which no file may be read."""

    def open(self, chunks: Any, md5s: Any = None) -> Any:
        """See :meth:`MemoryStore.open`."""
        raise AssertionError("nothing is to be read")


class Slow(MemoryStore):
    """A store in which something happens between finding and reading."""

    meanwhile: Any = None

    def find(self, ids: Any) -> "Deferred[Any]":
        """See :meth:`MemoryStore.find`."""
        found = super().find(ids)
        if self.meanwhile is not None:
            self.meanwhile()
        return found


class CachingCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.house = House()
        self.id = self.house.store.add(OLD)

    def ask(self, arguments: str = "", method: str = "GET", **headers: str) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        target = f"/transfers/chunks/{self.id}?{arguments}"
        return self.house.request(method, target, headers=named)

    def tag(self, arguments: str = "") -> str:
        tag = self.ask(arguments).header("ETag")
        assert tag is not None
        self.assertRegex(tag, r'\A"[0-9a-f]{32}"\Z')
        return tag

    def content(self, data: bytes = OLD) -> str:
        return content_of(
            (Chunk(self.id, 0, 1),), {self.id: Instance(self.id, len(data), md5(data))}
        )


class TagTests(CachingCase):
    def test_the_same_bytes_have_the_same(self) -> None:
        self.assertEqual(self.tag(), self.tag("offset=0&size=1000&compression=none&x=y"))
        self.assertEqual(self.tag("compression=gzip"), self.tag("compression=gzip"))
        self.assertEqual(self.tag("compression=zstd"), self.tag("compression=zstd&level=1"))

    def test_others_have_another(self) -> None:
        tags = [
            self.tag(arguments)
            for arguments in (
                "", "size=999", "offset=1", "offset=1&size=998", "compression=gzip",
                "compression=zstd", "compression=zstd&level=7",
            )
        ]  # fmt: skip
        self.house.store.files[self.id] = NEW
        tags.append(self.tag())
        self.assertEqual(len(tags), len(set(tags)))

    def test_it_is_that_of_the_bytes_that_are_sent(self) -> None:
        """An instance that is replaced while it is looked for: no old tag on new bytes."""
        self.house = House(store=Slow())
        self.house.store.add(OLD)
        self.house.store.meanwhile = lambda: self.house.store.files.update({self.id: NEW})
        for compression in ("none", "gzip"):
            self.house.store.files[self.id] = OLD
            connection = self.house.connect()
            connection.request(
                "GET", f"/transfers/chunks/{self.id}?compression={compression}", None, {}
            )
            for answer in connection.answers():
                self.assertNotIn(NEW[-500:], answer.body)
                self.assertFalse(answer.status == 200 and answer.whole)
        self.flushLoggedErrors()

    def test_errors_are_not_kept(self) -> None:
        for arguments in ("compression=lzma", "offset=x", "content=other"):
            answer = self.ask(arguments)
            self.assertEqual("no-store", answer.header("Cache-Control"), arguments)
            self.assertIsNone(answer.header("ETag"))

    def test_a_failure_in_compressing_is_not_kept(self) -> None:
        self.house.store.open = lambda *_: NoReading().open(())
        answer = self.ask("compression=gzip")
        self.assertEqual(500, answer.status)
        self.assertEqual("no-store", answer.header("Cache-Control"))
        self.assertIsNone(answer.header("ETag"))
        self.flushLoggedErrors(AssertionError)


class ConditionalTests(CachingCase):
    def test_what_is_known_is_not_read(self) -> None:
        tag = self.tag("compression=gzip")
        self.house = House(store=NoReading())
        self.house.store.add(OLD)
        for given in (tag, f"W/{tag}", f'"a", {tag}', f'"a",{tag} ,"b"', "*"):
            answer = self.ask("compression=gzip", If_None_Match=given)
            self.assertEqual((304, b""), (answer.status, answer.body), given)
            self.assertEqual(tag, answer.header("ETag"))
            self.assertEqual("public, no-cache, no-transform", answer.header("Cache-Control"))
            self.assertIsNone(answer.header("Content-Length"))

    def test_what_is_another_is_sent(self) -> None:
        tag = self.tag()
        for given in ('"a"', tag.strip('"'), tag.upper(), ""):
            self.assertEqual(OLD, self.ask(If_None_Match=given).body, given)
        self.house.store.files[self.id] = NEW
        answer = self.ask(If_None_Match=tag)
        self.assertEqual((200, NEW), (answer.status, answer.body))

    def test_what_is_gone_is_gone(self) -> None:
        tag = self.tag()
        del self.house.store.files[self.id]
        self.assertEqual(404, self.ask(If_None_Match=tag).status)
        self.assertEqual(404, self.ask(If_None_Match="*").status)

    def test_head_reads_nothing(self) -> None:
        tags = {name: self.tag(f"compression={name}") for name in ("none", "gzip")}
        self.house = House(store=MemoryStore())
        self.house.store.add(OLD)
        for name, length in (("none", "1000"), ("gzip", None)):
            answer = self.ask(f"compression={name}", "HEAD")
            self.assertEqual(
                (200, b"", tags[name]), (answer.status, answer.body, answer.header("ETag"))
            )
            self.assertEqual(length, answer.header("Content-Length"))
            self.assertIsNone(answer.header("Transfer-Encoding"))
        self.assertEqual(304, self.ask(method="HEAD", If_None_Match=tags["none"]).status)


class ContentTests(CachingCase):
    def test_an_address_that_says_the_content_is_kept(self) -> None:
        answer = self.ask(f"compression=gzip&content={self.content()}")
        self.assertEqual(OLD, gzip.decompress(answer.body))
        self.assertEqual(
            "public, max-age=3600, immutable, no-transform", answer.header("Cache-Control")
        )
        self.assertEqual(self.tag("compression=gzip"), answer.header("ETag"))

    def test_another_content_is_not_here(self) -> None:
        for content in (self.content(NEW), "", "x"):
            answer = self.ask(f"content={content}")
            self.assertEqual((404, 17), (answer.status, answer.json()["OrthancStatus"]))
        self.house.store.files[self.id] = NEW
        self.assertEqual(404, self.ask(f"content={self.content()}", If_None_Match="*").status)


class PolicyTests(CachingCase):
    def told(self, arguments: str = "", **configuration: Any) -> str | None:
        self.house = House(configuration, store=self.house.store)
        answer = self.ask(arguments, Authorization="Basic YTpi")
        self.assertEqual((200, OLD), (answer.status, answer.body))
        self.assertIsNone(answer.header("Vary"), "the address alone says what is answered")
        return answer.header("Cache-Control")

    def test_where_users_are_asked_for_nothing_is_kept(self) -> None:
        users = {"AuthenticationEnabled": True, "RegisteredUsers": {"a": "b"}}
        pinned = f"content={self.content()}"
        for arguments in ("", pinned):
            self.assertEqual("private, no-store", self.told(arguments, **users))
        for wish, expected in (
            ("never", "private, no-store"),
            ("revalidate", "public, no-cache, no-transform"),
            ("shared", "public, max-age=3600, immutable, no-transform"),
        ):
            transfers = {"ChunksCaching": wish}
            self.assertEqual(expected, self.told(pinned, Transfers=transfers, **users))
            self.assertEqual(expected, self.told(pinned, Transfers=transfers))

    def test_others_are_refused_and_that_is_not_kept(self) -> None:
        users = {"AuthenticationEnabled": True, "RegisteredUsers": {"a": "b"}}
        self.house = House({**users, "Transfers": {"ChunksCaching": "shared"}})
        self.house.store.add(OLD)
        answer = self.ask(f"content={self.content()}", If_None_Match="*")
        self.assertEqual((401, "no-store"), (answer.status, answer.header("Cache-Control")))

    def test_where_certificates_are_asked_for_neither(self) -> None:
        told = self.told(SslEnabled=True, SslCertificate="x", SslVerifyPeers=True,
                         SslTrustedClientCertificates="y")  # fmt: skip
        self.assertEqual("private, no-store", told)
