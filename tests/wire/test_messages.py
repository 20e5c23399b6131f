"""What comes from outside becomes a checked value, or an error that names what is wrong."""

import contextlib
import json

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from txtransfers.errors import BadMessage, OutOfRange, TransfersError
from txtransfers.wire import messages, pushes
from txtransfers.wire.codec import OURS, Codec
from txtransfers.wire.messages import Compression, Level, LookupAnswer, Resource
from txtransfers.wire.plan import MAX_INSTANCE_SIZE, Chunk, Instance

ID = st.text(max_size=20)
SIZE = st.integers(0, MAX_INSTANCE_SIZE)
INSTANCES = st.lists(st.builds(Instance, id=ID, size=SIZE, md5=ID), max_size=5).map(tuple)
CHUNKS = st.builds(Chunk, id=ID, offset=SIZE, size=SIZE)
PLANS = st.lists(st.lists(CHUNKS, max_size=4).map(tuple), max_size=4).map(tuple)
RESOURCES = st.lists(st.builds(Resource, st.sampled_from(Level), ID), max_size=5).map(tuple)

TRANSFER = {"Resources": [{"Level": "Study", "ID": "x"}], "Compression": "gzip", "Peer": "b"}


PARSERS = (
    messages.parse_transfer,
    pushes.parse_push,
    messages.parse_resources,
    messages.parse_lookup_answer,
    messages.parse_opened,
)
MEMBERS = (
    *("Resources", "Compression", "Peer", "Priority", "Level", "ID", "Instances", "MD5", "Size"),
    *("Buckets", "Offset", "Originator", "SenderTransferID", "Path"),
)


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

    def test_what_must_be_there(self) -> None:
        for member in TRANSFER:
            body = encoded({name: value for name, value in TRANSFER.items() if name != member})
            error = self.assertRaises(BadMessage, messages.parse_transfer, body)
            self.assertIn(member, str(error))

    def test_what_may_be_there(self) -> None:
        request = messages.parse_transfer(encoded(TRANSFER))
        self.assertEqual(
            (request.priority, request.originator, request.sender_transfer_id), (0, None, None)
        )
        request = messages.parse_transfer(encoded(TRANSFER, Originator="o"))
        self.assertEqual(request.originator, "o")
        for member in ("Originator", "SenderTransferID"):
            for value in (1, None, ["x"]):
                body = encoded(TRANSFER, **{member: value})
                error = self.assertRaises(BadMessage, messages.parse_transfer, body)
                self.assertIn(member, str(error))

    def test_transfer_ids(self) -> None:
        for text in ("", "a b", "ü", "x" * 1000, "a:b"):
            request = messages.parse_transfer(encoded(TRANSFER, SenderTransferID=text))
            self.assertEqual(request.sender_transfer_id, text)
        for text in ("\r", "a\nb", "\0", "\t", "\x7f", "x\x1b"):
            body = encoded(TRANSFER, SenderTransferID=text)
            self.assertRaises(BadMessage, messages.parse_transfer, body)
        self.assertNotEqual(messages.new_transfer_id(), messages.new_transfer_id())

    def test_names_of_members_are_exact(self) -> None:
        body = encoded(TRANSFER, resources=[], compression="x", priority="high")
        self.assertEqual(len(messages.parse_transfer(body).resources), 1)
        self.assertRaises(
            BadMessage, messages.parse_transfer, encoded(TRANSFER).replace(b"Peer", b"peer")
        )

    def test_the_request_that_asks_a_peer_to_pull(self) -> None:
        request = messages.parse_transfer(encoded(TRANSFER, Priority=3, SenderTransferID="s"))
        body = messages.pull_json(request, "me", "my name there")
        there = messages.parse_transfer(body)
        self.assertEqual((there.originator, there.peer), ("me", "my name there"))
        self.assertEqual(there.resources, request.resources)
        self.assertIs(there.compression, Compression.GZIP)

    @given(st.binary(max_size=200))
    def test_no_other_error_whatever_comes(self, body: bytes) -> None:
        for parse in PARSERS:
            with contextlib.suppress(TransfersError):
                parse(body)

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=4)
                | st.dictionaries(st.sampled_from(MEMBERS) | st.text(max_size=3), inner)
            ),
            max_leaves=20,
        )
    )
    def test_no_other_error_whatever_json_comes(self, value: object) -> None:
        body = json.dumps(value).encode()
        for parse in PARSERS:
            with contextlib.suppress(TransfersError):
                parse(body)

    def test_deep_nesting_where_it_counts_for_nothing(self) -> None:
        deep = b"[" * 10_000 + b"]" * 10_000
        for start in (b"", b"// a comment, which the strict parser refuses\n"):
            body = start + encoded(TRANSFER)[:-1] + b',"Unknown":' + deep + b"}"
            error = self.assertRaises(BadMessage, messages.parse_transfer, body)
            self.assertIn("deep", str(error))


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

    def test_a_resource_and_no_more(self) -> None:
        self.assertEqual(messages.parse_resources(b" [] "), ())
        for body in (b"{}", b"null", b'"x"', b"1", b'["x"]', b"[[]]", b"[null]", b"[", b"[1 2]"):
            self.assertRaises(BadMessage, messages.parse_resources, body)
        for missing, body in (("Level", {"ID": "x"}), ("ID", {"Level": "Study"})):
            error = self.assertRaises(BadMessage, messages.parse_resources, encoded([body]))
            self.assertIn(missing, str(error))
        for body in ({"Level": "Study", "ID": 1}, {"Level": None, "ID": "x"}):
            self.assertRaises(BadMessage, messages.parse_resources, encoded([body]))

    @given(RESOURCES)
    def test_resources_travel(self, resources: tuple[Resource, ...]) -> None:
        self.assertEqual(messages.parse_resources(messages.resources_json(resources)), resources)

    @given(INSTANCES, ID)
    def test_any_answer_travels(self, found: tuple[Instance, ...], originator: str) -> None:
        answer = LookupAnswer(found, originator)
        self.assertEqual(messages.parse_lookup_answer(encoded(answer.to_json())), answer)

    def test_an_answer_needs_no_totals_and_no_order(self) -> None:
        body = b'{"Originator":"o","Instances":[{"Size":"1","MD5":"m","ID":"i","More":[]}],"X":1}'
        answer = messages.parse_lookup_answer(body)
        self.assertEqual(answer, LookupAnswer((Instance("i", 1, "m"),), "o"))
        for bad in (b"[]", b'{"Originator":"o"}', b'{"Instances":[]}', b"<html>", b""):
            self.assertRaises(BadMessage, messages.parse_lookup_answer, bad)

    def test_totals_in_mb_are_rounded_down(self) -> None:
        for size, mb in ((2**20 - 1, 0), (2**20, 1), (5 * 2**20 - 1, 4)):
            answer = LookupAnswer((Instance("a", size, ""),), "o").to_json()
            self.assertEqual((answer["TotalSize"], answer["TotalSizeMB"]), (str(size), mb))

    def test_the_answer_to_an_opening(self) -> None:
        body = b'{"ID":"i","Path":"/transfers/push/i","Size":1}'
        self.assertEqual(messages.parse_opened(body), ("i", "/transfers/push/i"))
        for bad in (b"{}", b'{"ID":"i"}', b'{"ID":1,"Path":"/"}', b"[]", b"OK"):
            self.assertRaises(BadMessage, messages.parse_opened, bad)

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


class CodecTests(SynchronousTestCase):
    """What is ours alone: in members that others ignore."""

    def test_a_pull_by_a_peer_that_may_not_know_auto(self) -> None:
        request = messages.parse_transfer(encoded(TRANSFER, Compression="auto"))
        self.assertIs(request.compression, Compression.AUTO)
        body = messages.pull_json(request, "originator", "us")
        self.assertEqual(json.loads(body)["Compression"], "gzip", "what a stock peer reads")
        self.assertIs(messages.parse_transfer(body).compression, Compression.AUTO)
        for added in ({}, {"New": 1}):
            told = messages.parse_transfer(encoded(TRANSFER, TxTransfers=added))
            self.assertIs(told.compression, Compression.GZIP)

    def test_a_lookup(self) -> None:
        for codecs in (None, frozenset[Codec](), OURS):
            answer = LookupAnswer((), "us", codecs)
            told = answer.to_json()
            self.assertEqual("TxTransfers" in told, codecs is not None)
            self.assertEqual(messages.parse_lookup_answer(json.dumps(told).encode()), answer)
        told["TxTransfers"] = {"Codecs": ["lz4", "zstd", "gzip"]}
        self.assertEqual(messages.parse_lookup_answer(json.dumps(told).encode()), answer)

    def test_a_commit(self) -> None:
        for after in (frozenset[int](), frozenset({3, 4, 7})):
            self.assertEqual(pushes.parse_commit(pushes.commit_json(after)), after)
        for stock in (b"", b"{}", b"whatever", b"[]"):
            self.assertIsNone(pushes.parse_commit(stock))
        for bad in (b"[[4, 3]]", b"[[0, 1000000]]", b"[[0, 4000], [5000, 5999]]"):
            with self.assertRaises(BadMessage):
                pushes.parse_commit(b'{"TxTransfers": {"After": %b}}' % bad)

    def test_a_push(self) -> None:
        key = "01234567-89ab-cdef-0123-456789abcdef"
        for codecs in (frozenset[Codec](), OURS):
            extension = pushes.PushExtension(key, True, codecs)
            body = pushes.push_json((), (), Codec.GZIP, extension)
            self.assertEqual(b"Codecs" in body, bool(codecs))
            self.assertEqual(pushes.parse_push(body).extension, extension)
            opened = pushes.PushOpened(key, f"/transfers/push/{key}", frozenset(), codecs)
            told = json.dumps(pushes.push_opened_json(opened)).encode()
            self.assertEqual(b"Codecs" in told, bool(codecs))
            self.assertEqual(pushes.parse_push_opened(told, 0), opened)


class PushTests(SynchronousTestCase):
    @given(INSTANCES, PLANS, st.sampled_from([Codec.NONE, Codec.GZIP]))
    def test_any_opening_travels(
        self,
        wanted: tuple[Instance, ...],
        plan: tuple[tuple[Chunk, ...], ...],
        compression: Codec,
    ) -> None:
        request = pushes.parse_push(pushes.push_json(wanted, plan, compression))
        self.assertEqual(request, pushes.PushRequest(wanted, plan, compression))

    def test_refusals(self) -> None:
        instance = {"ID": "a", "MD5": "m", "Size": "5"}
        chunk = {"ID": "a", "Offset": "0", "Size": "5"}
        good = {"Instances": [instance], "Buckets": [[chunk]], "Compression": "none"}
        pushes.parse_push(encoded(good))
        for changes, error, word in (
            ({"Compression": "zip"}, OutOfRange, "zip"),
            ({"Compression": "None"}, OutOfRange, "None"),
            ({"Compression": True}, BadMessage, "Compression"),
            ({"Instances": {}}, BadMessage, "Instances"),
            ({"Buckets": [chunk]}, BadMessage, "Buckets"),
            ({"Buckets": [[instance]]}, BadMessage, "Offset"),
            ({"Buckets": [[chunk | {"Offset": 0}]]}, BadMessage, "Offset"),
            ({"Buckets": [[chunk | {"Offset": "-1"}]]}, BadMessage, "Offset of a chunk of a"),
            ({"Buckets": [[chunk | {"Size": str(2**63)}]]}, BadMessage, str(2**63)),
            ({"Instances": [instance | {"Size": 5}]}, BadMessage, "Size"),
            ({"Instances": [instance | {"Size": "x" * 1000}]}, BadMessage, "instance a"),
            ({"Instances": [instance | {"MD5": None}]}, BadMessage, "MD5"),
        ):
            text = str(self.assertRaises(error, pushes.parse_push, encoded(good, **changes)))
            self.assertIn(word, text)
            self.assertLess(len(text), 300)
        for member in good:
            body = encoded({name: value for name, value in good.items() if name != member})
            self.assertIn(member, str(self.assertRaises(BadMessage, pushes.parse_push, body)))

    def test_as_many_chunks_as_are_allowed(self) -> None:
        def push(count: int) -> bytes:
            chunks = b",".join([b'{"ID":"a","Offset":"0","Size":"0"}'] * count)
            return b'{"Instances":[],"Buckets":[[],[' + chunks + b']],"Compression":"none"}'

        most = pushes.MAX_CHUNKS_PER_BUCKET
        self.assertEqual(len(pushes.parse_push(push(most)).buckets[1]), most)
        error = self.assertRaises(BadMessage, pushes.parse_push, push(most + 1))
        self.assertIn("Bucket 1", str(error))

    def test_decimals(self) -> None:
        for text, value in (("0", 0), ("00012", 12), ("+7", 7), (str(2**64 - 1), 2**64 - 1)):
            self.assertEqual(messages.parse_decimal(text), value)
        for text in ("-0", "0x1", "1_0", "1e3", "++1", "+", "1 ", "\u0661", str(2**64), "9" * 5000):
            self.assertRaises(ValueError, messages.parse_decimal, text)

    def test_round_trip(self) -> None:
        wanted = (Instance("a", 10, "m"), Instance("b", 2**40, "n"))
        plan = ((Chunk("a", 0, 10),), (Chunk("b", 0, 2**39), Chunk("b", 2**39, 2**39)))
        body = pushes.push_json(wanted, plan, Codec.NONE)
        request = pushes.parse_push(body)
        self.assertEqual((request.instances, request.buckets), (wanted, plan))
        self.assertNotIn(b'"Size":10', body)

    def test_sizes(self) -> None:
        def push(size: object) -> bytes:
            instance = {"ID": "a", "MD5": "m", "Size": size}
            return encoded({"Instances": [instance], "Buckets": [], "Compression": "none"})

        for size in ("05", "+5"):
            self.assertEqual(pushes.parse_push(push(size)).instances[0].size, 5)
        for size in ("-1", "", " 5", "5.0", "abc", "5\n", str(2**63), str(2**64), "٣", 5, None):
            self.assertRaises(BadMessage, pushes.parse_push, push(size))

    def test_a_bucket_of_a_million_chunks(self) -> None:
        chunks = b",".join([b'{"ID":"a","Offset":"0","Size":"0"}'] * 10**6)
        body = b'{"Instances":[],"Buckets":[[' + chunks + b']],"Compression":"none"}'
        self.assertIn("chunks", str(self.assertRaises(BadMessage, pushes.parse_push, body)))
