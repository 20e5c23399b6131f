"""What comes from outside becomes a checked value, or an error that names what is wrong."""

import contextlib
import json

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from txtransfers.errors import BadMessage, OutOfRange, TransfersError
from txtransfers.wire import messages
from txtransfers.wire.messages import Compression, Level, Resource
from txtransfers.wire.plan import Chunk, Instance

TRANSFER = {"Resources": [{"Level": "Study", "ID": "x"}], "Compression": "gzip", "Peer": "b"}


def encoded(value: object, **changes: object) -> bytes:
    return json.dumps({**value, **changes} if isinstance(value, dict) else value).encode()


class TransferTests(SynchronousTestCase):
    def test_a_request(self) -> None:
        body = encoded(TRANSFER, Priority=-5, SenderTransferID="s", Unknown=1)
        request = messages.parse_transfer(body)
        self.assertEqual(request.resources, (Resource(Level.STUDY, "x"),))
        self.assertEqual(request.compression, Compression.GZIP)
        self.assertEqual((request.priority, request.sender_transfer_id), (-5, "s"))

    def test_refusals(self) -> None:
        for body, error, words in (
            (encoded(TRANSFER, Compression="GZIP"), OutOfRange, "GZIP"),
            (encoded(TRANSFER, Compression=1), BadMessage, "Compression"),
            (encoded(TRANSFER, Priority="1"), BadMessage, "Priority"),
            (encoded(TRANSFER, Priority=1.5), BadMessage, "Priority"),
            (encoded(TRANSFER, Priority=2**40), OutOfRange, "Priority"),
            (encoded(TRANSFER, Priority=None), BadMessage, "Priority"),
            (encoded(TRANSFER, Resources={}), BadMessage, "Resources"),
            (encoded(TRANSFER, Resources=["x"]), BadMessage, "Resources"),
            (encoded(TRANSFER, SenderTransferID="a\r\nX: 1"), BadMessage, "SenderTransferID"),
            (encoded(TRANSFER, Peer=None), BadMessage, "Peer"),
            (b"", BadMessage, "empty"),
            (encoded(TRANSFER, Peer="\ud800"), BadMessage, "surrogate"),
            (b"hello", BadMessage, "JSON"),
            (b"[]", BadMessage, "object"),
            (b"[" * 10_000, BadMessage, ""),
            (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, BadMessage, ""),
        ):
            self.assertIn(words, str(self.assertRaises(error, messages.parse_transfer, body)))

    @given(st.binary(max_size=200))
    def test_no_other_error_whatever_comes(self, body: bytes) -> None:
        for parse in (messages.parse_transfer, messages.parse_push, messages.parse_resources):
            with contextlib.suppress(TransfersError):
                parse(body)


class LookupTests(SynchronousTestCase):
    def test_levels_without_regard_to_case(self) -> None:
        for text, level in (
            ("patient", Level.PATIENT),
            ("STUDIES", Level.STUDY),
            ("Series", Level.SERIES),
            ("images", Level.INSTANCE),
        ):
            self.assertEqual(messages.parse_level(text), level)
        for text in ("Subject", "", "Instance ", "Frame"):
            error = self.assertRaises(OutOfRange, messages.parse_level, text)
            self.assertIn(f"'{text}'", str(error))

    def test_as_lenient_as_stock(self) -> None:
        one = b'{"Level":"Series","ID":"x"}'
        for body in (
            b"[" + one + b",]",
            b"// why\n[/* here */" + one + b"]",
            b"\xef\xbb\xbf[" + one + b"]",
            b"[" + one + b"] trailing",
        ):
            self.assertEqual(messages.parse_resources(body), (Resource(Level.SERIES, "x"),))

    def test_the_answer_travels(self) -> None:
        answer = messages.LookupAnswer((Instance("x", 19218, "m"),), "me")
        self.assertEqual(
            answer.to_json(),
            {
                "CountInstances": 1,
                "Instances": [{"ID": "x", "MD5": "m", "Size": "19218"}],
                "Originator": "me",
                "TotalSize": "19218",
                "TotalSizeMB": 0,
            },
        )
        body = json.dumps(answer.to_json()).encode()
        self.assertEqual(messages.parse_lookup_answer(body), answer)


class PushTests(SynchronousTestCase):
    def test_round_trip(self) -> None:
        wanted = (Instance("a", 10, "m"), Instance("b", 2**40, "n"))
        plan = ((Chunk("a", 0, 10),), (Chunk("b", 0, 2**39), Chunk("b", 2**39, 2**39)))
        body = messages.push_json(wanted, plan, Compression.NONE)
        request = messages.parse_push(body)
        self.assertEqual((request.instances, request.buckets), (wanted, plan))
        self.assertNotIn(b'"Size":10', body)

    def test_sizes(self) -> None:
        def push(size: object) -> bytes:
            instance = {"ID": "a", "MD5": "m", "Size": size}
            return encoded({"Instances": [instance], "Buckets": [], "Compression": "none"})

        for size in ("05", "+5"):
            self.assertEqual(messages.parse_push(push(size)).instances[0].size, 5)
        for size in ("-1", "", " 5", "5.0", "abc", "5\n", str(2**63), str(2**64), "٣", 5, None):
            self.assertRaises(BadMessage, messages.parse_push, push(size))

    def test_a_bucket_of_a_million_chunks(self) -> None:
        chunks = b",".join([b'{"ID":"a","Offset":"0","Size":"0"}'] * 10**6)
        body = b'{"Instances":[],"Buckets":[[' + chunks + b']],"Compression":"none"}'
        self.assertIn("chunks", str(self.assertRaises(BadMessage, messages.parse_push, body)))
