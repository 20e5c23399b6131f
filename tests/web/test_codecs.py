"""What a peer of ours may ask for beside the protocol's codecs; and that others see none of it."""

import gzip
from typing import Any

from tests.web.harness import make_dicom
from tests.web.test_hostile import FILE, opening
from tests.web.test_push_status import KEY, PushCase, extended, id_of, in_fifths
from txtransfers.wire.codec import Codec, Coding
from txtransfers.wire.codecs import decoder, encoder


def packed(data: bytes, codec: Codec = Codec.ZSTD, level: int = 1) -> bytes:
    stream = encoder(Coding(codec, level))
    return stream.encode(data) + stream.finish()


class ReceivedTests(PushCase):
    def open(self, body: bytes, **more: Any) -> Any:
        answer = self.house.request("POST", "/transfers/push", extended(body, **more))
        self.assertEqual(200, answer.status, answer.body)
        return answer.json()

    def test_who_offers_is_told_what_is_taken(self) -> None:
        told = self.open(opening(), Codecs=["zstd", "later"])
        self.assertEqual(["zstd"], told["TxTransfers"]["Codecs"])

    def test_who_offers_nothing_is_told_nothing(self) -> None:
        for codecs in ([], ["later"]):
            told = self.open(opening(), Codecs=codecs)
            self.assertNotIn("Codecs", told["TxTransfers"])
        answer = self.house.request("POST", "/transfers/push", opening())
        self.assertEqual({"ID", "Path"}, set(answer.json()))

    def test_every_bucket_as_its_request_says(self) -> None:
        path = self.open(in_fifths(), Codecs=["zstd"])["Path"]
        for number, (codec, name) in enumerate(
            ((Codec.ZSTD, "zstd"), (Codec.GZIP, "gzip"), (Codec.NONE, "none"), (Codec.NONE, ""))
        ):
            data = FILE[number * 200 : number * 200 + 200]
            target = f"{path}/{number}{'?codec=' if name else ''}{name}"
            self.assertEqual(200, self.house.request("PUT", target, packed(data, codec)).status)
        target = f"{path}/4?offset=50&codec=zstd"
        self.house.request("PUT", f"{path}/4?codec=none", FILE[800:850])  # broke off, but staged
        self.assertEqual(200, self.house.request("PUT", target, packed(FILE[850:])).status)
        self.assertEqual(200, self.house.request("POST", f"{path}/commit", b"").status)
        self.assertEqual([FILE], list(self.store.files.values()))

    def test_after_a_restart(self) -> None:
        path = self.open(in_fifths(), Codecs=["zstd"])["Path"]
        self.restart()
        answer = self.house.request("PUT", f"{path}/0?codec=zstd", packed(FILE[:200]))
        self.assertEqual(200, answer.status, answer.body)

    def test_refusals(self) -> None:
        path = self.open(opening(), Codecs=["zstd"])["Path"]
        good = packed(FILE)
        for codec, body, status, code in (
            ("lz4", good, 400, 3),
            ("", good, 400, 3),
            ("zstd", good[:-1], 400, 15),
            ("zstd", FILE, 400, 15),
            ("zstd", b"", 500, 9),
            ("zstd", packed(FILE + b"!"), 500, 9),
            ("zstd", packed(FILE[:-1]), 500, 9),
            ("gzip", good, 400, 15),
        ):
            answer = self.house.request("PUT", f"{path}/0?codec={codec}", body)
            self.assert_refused(answer, status, code, method="PUT", uri=f"{path}/0")
        answer = self.house.request("POST", "/transfers/push", opening(compression="zstd"))
        self.assertEqual(400, answer.status)
        self.assertEqual(KEY, path.rsplit("/", 1)[1])


class ServedTests(PushCase):
    def setUp(self) -> None:
        super().setUp()
        self.file = make_dicom(5000) + bytes(20_000)
        self.id = id_of(self.file)
        self.store.add(self.file)
        self.wanted = b'[{"Level":"Instance","ID":"%s"}]' % self.id.encode()

    def look_up(self, *accepted: str) -> Any:
        headers = {"Accept-Transfer-Codecs": ", ".join(accepted)} if accepted else {}
        return self.house.request("POST", "/transfers/lookup", self.wanted, headers).json()

    def test_only_who_asks_is_told(self) -> None:
        self.assertNotIn("TxTransfers", self.look_up())
        for accepted in (("later",), ("gzip",), ("none", "ZSTD")):
            self.assertEqual({"Codecs": []}, self.look_up(*accepted)["TxTransfers"])
        for accepted in (("zstd",), ("later", "zstd")):
            self.assertEqual({"Codecs": ["zstd"]}, self.look_up(*accepted)["TxTransfers"])

    def test_chunks(self) -> None:
        for level in ("", "&level=1", "&level=7", "&level=0"):
            target = f"/transfers/chunks/{self.id}?offset=100&compression=zstd{level}"
            answer = self.house.request("GET", target)
            self.assertEqual(200, answer.status)
            self.assertEqual(str(len(answer.body)), answer.header("Content-Length"))
            self.assertLess(len(answer.body), 10_000)
            back = decoder(Codec.ZSTD, len(self.file) - 100)
            self.assertEqual(self.file[100:], back.decode(answer.body))
            back.finish()

    def test_levels(self) -> None:
        target = f"/transfers/chunks/{self.id}?compression="
        for arguments, status, code in (("zstd&level=22", 400, 3), ("zstd&level=x", 400, 5)):
            answer = self.house.request("GET", target + arguments)
            self.assertEqual((status, code), (answer.status, answer.json()["OrthancStatus"]))
        answer = self.house.request("GET", f"{target}gzip&level=x")  # another's argument
        self.assertEqual(self.file, gzip.decompress(answer.body))
