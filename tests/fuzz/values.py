"""Harnesses of what is pure: messages, configuration, DICOM headers, codecs, answers."""

import json
from contextlib import suppress
from io import BytesIO
from typing import Any

from tests.fuzz.harness import Cutter, Harness, is_frozen
from txtransfers import config
from txtransfers.config_text import read
from txtransfers.errors import (
    BadCompression,
    BadDicom,
    BadMessage,
    ConfigurationError,
    OutOfRange,
    WrongLength,
)
from txtransfers.orthanc.answers import Head, NoHttpError, Reading
from txtransfers.store.dicom import read_header
from txtransfers.transfer.client import what_orthanc_says
from txtransfers.web.caching import is_known
from txtransfers.web.gateway.headers import Client, handed_on, request_head
from txtransfers.web.origins import is_foreign
from txtransfers.wire import messages, packed, pushes
from txtransfers.wire.codec import Codec, usual
from txtransfers.wire.codecs import decoder, encoder
from txtransfers.wire.identifiers import is_identifier
from txtransfers.wire.plan import check_plan
from txtransfers.wire.zstd_frames import MAX_FRAME

_JSON = (b"{", b"}", b"[", b"]", b'"', b",", b":", b"null", b"true", b"1e999", b"-1", b"\\ud800",
         b"\xef\xbb\xbf", b"//", b"/*", b"*/", b"9" * 30, b'"0"', b"0" * 5000, b"\xff")  # fmt: skip

LARGEST = 2**20
"""Bytes that buckets are declared to have, at most."""


def parse_messages(data: bytes) -> None:
    """What is asked of us, and what peers answer."""
    with suppress(BadMessage, OutOfRange):
        found = messages.parse_transfer(data)
        assert is_frozen(found)
        again = messages.parse_transfer(messages.pull_json(found, "o", found.peer))
        assert (again.resources, again.compression) == (found.resources, found.compression)
        assert all(c.isprintable() or ord(c) > 0x7F for c in found.sender_transfer_id or "")
    with suppress(BadMessage, OutOfRange):
        resources = messages.parse_resources(data)
        assert is_frozen(resources)
        assert messages.parse_resources(messages.resources_json(resources)) == resources
    with suppress(BadMessage, OutOfRange):
        answer = messages.parse_lookup_answer(data)
        assert is_frozen(answer)
        assert all(0 <= instance.size <= 2**62 for instance in answer.instances)
        told = json.dumps(answer.to_json()).encode()
        assert messages.parse_lookup_answer(told) == answer
    with suppress(BadMessage):
        id_, path = messages.parse_opened(data)
        assert isinstance(id_, str)
        assert isinstance(path, str)
    with suppress(BadMessage):
        assert isinstance(messages.parse_object(data), dict)
    with suppress(BadMessage):
        messages.decode(data, messages.FindRequest)
    said = what_orthanc_says(data)
    if said is not None:
        said[1].encode()


def parse_pushes(data: bytes) -> None:
    """What opens a push, and what is told of it."""
    with suppress(BadMessage, OutOfRange):
        push = pushes.parse_push(data)
        assert is_frozen(push)
        check_plan(push.instances, push.buckets)
        again = pushes.push_json(push.instances, push.buckets, push.compression, push.extension)
        assert pushes.parse_push(again) == push
    with suppress(BadMessage):
        opened = pushes.parse_push_opened(data, 5)
        assert is_frozen(opened)
        assert opened.already_stored is None or opened.already_stored <= set(range(5))
    with suppress(BadMessage):
        status = pushes.parse_push_status(data, 5, 7)
        assert is_frozen(status)
        assert status.missing <= set(range(7))
        assert status.replaced <= set(range(5))
        told = json.dumps(status.to_json()).encode()
        assert pushes.parse_push_status(told, 5, 7) == status
    with suppress(BadMessage):
        after = pushes.parse_commit(data)
        assert after is None or len(after) <= 4096


def parse_packed(data: bytes) -> None:
    """The same, packed: as it comes, and with what is fuzzed compressed."""
    for body in (data, packed.zstd.compress(data)):
        with suppress(BadMessage, OutOfRange):
            push = packed.parse_packed_push(body)
            assert is_frozen(push)
            check_plan(push.instances, push.buckets)
            again = packed.pack_push(push)
            assert again is not None
            assert packed.parse_packed_push(again) == push
        with suppress(BadMessage):
            answer = packed.parse_packed_lookup(body)
            assert is_frozen(answer)
            assert all(is_identifier(instance.id) for instance in answer.instances)
            again = packed.pack_lookup(answer)
            assert again is not None
            assert packed.parse_packed_lookup(again) == answer


def parse_configuration(data: bytes) -> None:
    """The file of the configuration, with variables."""
    text = data.decode("utf-8", "surrogateescape")
    with suppress(ConfigurationError):
        found = config.parse(text, "fuzz", {"VAR": "value", "Q": '"'}, "/nowhere")
        assert is_frozen(found)
        assert found.http_port <= 65535
        for peer in found.peers.values():
            assert peer.url.startswith(("http://", "https://"))
            assert not set("\r\n\0") & set("".join((*peer.headers, *peer.headers.values())))
    with suppress(ConfigurationError):
        read(text, "fuzz", {})


def parse_header(data: bytes) -> None:
    """A DICOM file up to where its header ends."""
    with suppress(BadDicom):
        header = read_header(BytesIO(data), len(data))
        ids = header.ids
        assert all(map(is_identifier, (ids.patient, ids.study, ids.series, ids.instance)))
        assert header.dicom.instance
        for tags in header.tags.values():
            for name, text in tags.items():
                assert name.isidentifier()
                assert text


def _decode(codec: Codec, data: bytes) -> None:
    cutter = Cutter(data)
    size = (0, 1, 100, 5000, LARGEST)[cutter.number(5)]
    stream = decoder(codec, size)
    made = 0
    with suppress(BadCompression, WrongLength):
        for piece in cutter.pieces():
            part = stream.decode(piece)
            made += len(part)
            assert len(part) <= min(size, 2 * MAX_FRAME)
            while stream.has_more:
                made += len(stream.decode(b""))
        stream.finish()
        assert made == size
    assert made <= size, "no byte beyond the declared ones is handed on"
    plain = cutter.rest()
    to = encoder(usual(codec))
    travelled = to.encode(plain) + to.finish()
    back = decoder(codec, len(plain))
    parts = [back.decode(travelled)]
    while back.has_more:
        parts.append(back.decode(b""))
    back.finish()
    assert b"".join(parts) == plain


def decode_gzip(data: bytes) -> None:
    """The body of a bucket in gzip."""
    _decode(Codec.GZIP, data)


def decode_zstd(data: bytes) -> None:
    """The body of a bucket in zstd."""
    _decode(Codec.ZSTD, data)


class _Receiver:
    def __init__(self) -> None:
        self.heads: list[Head] = []
        self.size = 0
        self.ends: list[bytes] = []

    def interim(self, head: Head) -> None:
        assert not self.heads
        assert 100 <= head.status < 200

    def head(self, head: Head) -> None:
        self.heads.append(head)

    def data(self, data: bytes) -> None:
        assert self.heads
        assert not self.ends
        self.size += len(data)


def read_answer(data: bytes) -> None:
    """What an Orthanc answers to the gateway, which hands it on."""
    cutter = Cutter(data)
    method = (b"GET", b"HEAD")[cutter.number(2)]
    receiver: Any = _Receiver()
    reading = Reading(method, receiver, receiver.ends.append)
    came = 0
    with suppress(NoHttpError):
        for piece in cutter.pieces():
            came += len(piece)
            reading.feed(piece)
            if receiver.ends:
                break
    assert len(receiver.heads) <= 1
    assert receiver.size <= came
    for head in receiver.heads:
        assert 200 <= head.status <= 999
        for name, value in head.headers:
            assert not {13, 10, 0} & {*name, *value}, "nothing that ends a header is handed on"


def hand_on(data: bytes) -> None:
    """Headers of a client that the gateway hands on to Orthanc, cookies among them."""
    lines = [line.rstrip(b"\r").partition(b":") for line in data.split(b"\n")]
    headers = [(n, v.strip(b" \t")) for n, _, v in lines if n and b"\r" not in n + v]
    client = Client(b"192.0.2.1", b"here", False)
    made = request_head(b"GET", b"/x", handed_on(headers, client, None))
    head, end, rest = made.partition(b"\r\n\r\n")
    assert end
    if all(v or n for n, v in headers):
        assert not rest
    names = [line.partition(b":")[0].lower() for line in head.split(b"\r\n")[1:]]
    for name in (b"connection", b"transfer-encoding", b"content-length", b"upgrade"):
        assert name not in names
    assert names.count(b"host") == names.count(b"via") == names.count(b"x-forwarded-for") == 1
    values = [value.decode("utf-8", "surrogateescape") for _name, value in headers]
    for value in values:
        is_known('"x"', [value])
        is_foreign("POST", value, None, [value], ())
        is_foreign("POST", None, value, values, values)


HARNESSES = (
    Harness("messages", parse_messages, tokens=(*_JSON, b'"Level":"Study"', b'"OrthancError":"x"')),
    Harness("pushes", parse_pushes, tokens=(*_JSON, b'"TxTransfers":{', b"[[0,4],[9,9]]")),
    Harness("packed", parse_packed, tokens=(b'"Instances":1', b'"Chunks":', bytes(8), b"\1\0\0\0")),
    Harness(
        "configuration",
        parse_configuration,
        2**21,
        tokens=(*_JSON, b"${VAR}", b"${Q:-}", b"${X:-y}"),
    ),
    Harness(
        "dicom",
        parse_header,
        18 * 2**20,
        tokens=(
            b"\xfe\xff\x00\xe0\xff\xff\xff\xff",
            b"\xff\xff\xff\xff",
            b"DICM",
            b"SQ\0\0",
            b"\x1b$B",
        ),
    ),
    Harness("gzip", decode_gzip, 3 * 2**20, tokens=(b"\x1f\x8b\x08", b"\0\0\xff\xff", b"\x04\x08")),
    Harness(
        "zstd", decode_zstd, 8 * 2**20, tokens=(b"\0\0\x10\0", b"\x28\xb5\x2f\xfd", b"\1", b"\2")
    ),
    Harness(
        "answers",
        read_answer,
        tokens=(b"\r\n", b"\n", b"HTTP/1.1 100 \r\n\r\n", b"Transfer-Encoding: chunked", b"\r\n\t"),
    ),
    Harness("headers", hand_on, tokens=(b"\n", b"\r", b"Connection: host", b"Cookie: a=b", b"\0")),
)
