"""Our client, against a server on a real socket that answers as a stock peer was recorded to.

What it asks, in which words, and with which plan, is what a stock client asked.
"""

import gzip
import json
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from os import urandom
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import attrs
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import TestCase
from twisted.web.client import Agent, FileBodyProducer, readBody
from twisted.web.http_headers import Headers

from tests import recorded
from tests.limits import bandwidth
from tests.recorded import Exchange
from tests.web.harness import ORIGINATOR, FakePeer, House, make_dicom, peer_settings
from tests.web.recorded_server import KeepAlive, RecordedServer, Sent, route
from tests.web.stand_ins import FILES, LARGE, SECOND, SERIES, recorded_store, with_our_md5s
from txtransfers.errors import BadMessage, BadState, PeerNonsense, PeerRefused, WrongOriginator
from txtransfers.jobs.journal import MemoryJournal
from txtransfers.jobs.memo import JobMemo
from txtransfers.jobs.model import Direction, new_job
from txtransfers.store.interfaces import Outcome
from txtransfers.store.memory import MemoryStore
from txtransfers.threads import SynchronousThreads
from txtransfers.transfer import in_pieces
from txtransfers.transfer.asking import Asking
from txtransfers.transfer.compression import LinkEstimate
from txtransfers.transfer.incoming import PushTransactions
from txtransfers.transfer.link import Link
from txtransfers.transfer.parts import Limits, Parts
from txtransfers.transfer.peers import Peer
from txtransfers.transfer.progress import Progress
from txtransfers.transfer.pull import Pull
from txtransfers.transfer.push import Push
from txtransfers.transfer.slots import Slots
from txtransfers.web import transfers
from txtransfers.web.pieces import Pieces
from txtransfers.web.resource import Reply
from txtransfers.wire import packed
from txtransfers.wire.abilities import ALL_ABILITIES
from txtransfers.wire.messages import Compression, Level, Resource, TransferRequest
from txtransfers.wire.packed import PACKED
from txtransfers.wire.pieces import MOST, Piece

reactor: Any = _reactor

BUCKET_SIZE = 64 * 1024
"""Bytes; that of the recording peers."""

RESOURCES = (Resource(Level.SERIES, SERIES), Resource(Level.INSTANCE, LARGE))
TIMEOUT_S = 10.0


def peer_at(url: str, name: str = "B", **settings: Any) -> Peer:
    """A peer of that address."""
    settings_of_it, link = peer_settings(url, **settings), Link(reactor, 4, 4)
    return Peer(Asking(reactor, SynchronousThreads(), name, settings_of_it, TIMEOUT_S, link))


class ClientCase(TestCase):
    """Base of the tests below: a recorded server, a peer that is it, and our transfers."""

    timeout = 30

    async def serve(
        self,
        exchanges: Sequence[Exchange],
        keep_alive: KeepAlive = KeepAlive.STAY,
        cookies: Sequence[str] = (),
        name: str = "B",
        **settings: Any,
    ) -> tuple[RecordedServer, Peer]:
        """Start a server; gives it, and the peer, which has that name."""
        server = RecordedServer(exchanges, keep_alive, cookies)
        port = reactor.listenTCP(0, server, interface="127.0.0.1")
        url = f"http://127.0.0.1:{port.getHost().port}/"
        peer = peer_at(url, name, **settings)
        self.addCleanup(server.idle)
        self.addCleanup(port.stopListening)
        self.addCleanup(lambda: Deferred.fromCoroutine(peer.close()))
        return server, peer

    def parts(self, store: MemoryStore, retries: int = 0) -> Parts:
        """What transfers here are made of."""
        limits = Limits(BUCKET_SIZE, retries, TIMEOUT_S)
        return Parts(
            reactor,
            store,
            SynchronousThreads(),
            Slots(2**27),
            limits,
            ORIGINATOR,
            bandwidth(reactor),
        )

    def push(self, store: MemoryStore, peer: Peer, request: TransferRequest) -> Push:
        """A transfer to ``peer``."""
        return Push(self.parts(store), peer, request, self.memo(Direction.PUSH, request))

    def pull(self, store: MemoryStore, peer: Peer, request: TransferRequest) -> Pull:
        """A transfer from ``peer``."""
        return Pull(self.parts(store), peer, request, self.memo(Direction.PULL, request))

    def memo(self, direction: Direction, request: TransferRequest) -> JobMemo:
        """What a transfer remembers, in a journal of its own."""
        job = new_job(direction, request, 1, 0.0)
        return JobMemo(job, MemoryJournal(), SynchronousThreads(), lambda: 0.0)

    def check(self, server: RecordedServer, transfer_id: str | None = None) -> None:
        """All that was recorded was asked for, once, in the same words, and nothing else."""
        self.assertEqual([], server.unexpected)
        self.assertEqual([], [exchange.title for exchange in server.waiting])
        for exchange, sent in server.pairs:
            self.check_request(exchange, sent)
        ids = {sent.header("sender-transfer-id") for _exchange, sent in server.pairs}
        self.assertEqual(1, len(ids), "one transfer has one identifier")
        (id_,) = ids
        if transfer_id is None:
            assert id_ is not None
            UUID(id_)
        else:
            self.assertEqual(transfer_id, id_)

    def check_request(self, exchange: Exchange, sent: Sent) -> None:
        """One request is as recorded."""
        title = f"{exchange.title}: {sent.method} {sent.path}"
        wanted = exchange.request_header("Content-Type")
        if sent.path == "/transfers/pull":
            wanted = "application/json"  # as stock's other bodies; here it forgets to tell
        self.assertEqual(wanted, sent.header("Content-Type"), title)
        self.assertIsNone(sent.header("Expect"), title)
        self.assertIsNone(sent.header("Transfer-Encoding"), title)
        if sent.method in ("POST", "PUT"):
            self.assertEqual(str(len(sent.body)), sent.header("Content-Length"), title)
        if sent.method == "PUT":
            return  # see check_buckets
        assert exchange.request_body is not None
        if not exchange.request_body:
            self.assertEqual(b"", sent.body, title)
            return
        theirs = json.loads(with_our_md5s(exchange.request_body))
        ours = json.loads(sent.body)
        if sent.path == "/transfers/pull":
            self.assertEqual(ORIGINATOR, ours.pop("Originator"), title)
            del theirs["Originator"]
        if sent.path == "/transfers/push":  # our extension, which a stock peer ignores
            extension = ours.pop("TxTransfers")
            self.assertEqual({"Key", "Delta"}, set(extension), title)
            self.assertEqual(extension["Key"], str(UUID(extension["Key"])), title)
            self.assertIs(True, extension["Delta"], title)
        self.assertEqual(theirs, ours, title)

    def check_buckets(self, server: RecordedServer) -> None:
        """The buckets hold the bytes that the opening request says."""
        opening = next(json.loads(s.body) for _e, s in server.pairs if s.path == "/transfers/push")
        puts = [(exchange, sent) for exchange, sent in server.pairs if sent.method == "PUT"]
        self.assertEqual(len(opening["Buckets"]), len(puts))
        for exchange, sent in puts:
            data = bucket_bytes(opening["Buckets"][int(sent.path.rsplit("/", 1)[1])])
            if opening["Compression"] == "gzip":
                self.assertEqual(data, gzip.decompress(sent.body))
            else:
                self.assertEqual(exchange.request_length, len(sent.body))
                self.assertEqual(data, sent.body)


def bucket_bytes(chunks: Iterable[Mapping[str, str]]) -> bytes:
    """The bytes of a bucket, cut from the stand-ins."""
    return b"".join(FILES[c["ID"]][int(c["Offset"]) :][: int(c["Size"])] for c in chunks)


class PushTests(ClientCase):
    async def play(
        self, name: str, request: TransferRequest, keep_alive: KeepAlive = KeepAlive.STAY
    ) -> RecordedServer:
        server, peer = await self.serve(recorded.load(name), keep_alive)
        progress = Progress()
        await self.push(recorded_store(), peer, request).run(progress)
        self.check(server, request.sender_transfer_id)
        self.check_buckets(server)
        self.assertEqual(progress.buckets, progress.buckets_done)
        return server

    async def test_none(self) -> None:
        await self.play("push-none", TransferRequest(RESOURCES, Compression.NONE, "B"))

    async def test_gzip(self) -> None:
        await self.play("push-gzip", TransferRequest(RESOURCES, Compression.GZIP, "B"))

    async def test_sender_transfer_id(self) -> None:
        request = TransferRequest(
            (Resource(Level.INSTANCE, LARGE),),
            Compression.NONE,
            "B",
            sender_transfer_id="my-transfer-1",
        )
        await self.play("push-sendertransferid", request)

    async def test_a_resource_twice_travels_once(self) -> None:
        twice = Resource(Level.INSTANCE, SECOND)
        request = TransferRequest(
            (twice, Resource(Level.SERIES, SERIES), twice), Compression.NONE, "B"
        )
        await self.play("push-duplicate-resources", request)

    async def test_connections_that_are_closed_after_each_answer(self) -> None:
        request = TransferRequest(RESOURCES, Compression.NONE, "B")
        for compression in (Compression.NONE, Compression.GZIP):
            request = attrs.evolve(request, compression=compression)
            server = await self.play(f"push-{compression.value}", request, KeepAlive.CLOSE)
            self.assertEqual(len(server.pairs), server.connections)

    async def test_connections_that_are_gone_when_the_next_bucket_comes(self) -> None:
        """No retries are configured, and none are needed."""
        server = await self.play(
            "push-none", TransferRequest(RESOURCES, Compression.NONE, "B"), KeepAlive.DROP
        )
        self.assertGreater(server.dropped, 0, "no connection was used twice: nothing was tested")


class ExtendedPeerTests(ClientCase):
    """Towards a peer that knows our extension: our own server, on a real socket."""

    async def serve_house(self, house: House) -> tuple[Peer, list[str]]:
        """Start it; gives the peer that it is, and what it is asked."""
        asked: list[str] = []
        find = house.site.getResourceFor

        def note(request: Any) -> Any:
            uri = request.uri.decode()
            name = uri.removeprefix("/transfers/push")
            short = uri if "piece=" in uri else name[37:] if name else "push"
            asked.append(f"{request.method.decode()} {short}".strip())
            return find(request)

        house.site.getResourceFor = note  # type: ignore[method-assign]
        port = reactor.listenTCP(0, house.site, interface="127.0.0.1")
        url = f"http://127.0.0.1:{port.getHost().port}/"
        peer = peer_at(url)
        self.addCleanup(port.stopListening)
        self.addCleanup(lambda: Deferred.fromCoroutine(peer.close()))
        return peer, asked

    async def test_the_end_is_asked_for(self) -> None:
        house = House({"HttpPort": 0}, store=MemoryStore())
        peer, asked = await self.serve_house(house)
        request = TransferRequest((Resource(Level.SERIES, SERIES),), Compression.NONE, "B")
        push = self.push(recorded_store(), peer, request)
        await push.run(Progress())
        self.assertEqual("POST push", asked[0])
        self.assertEqual(1, asked.count("POST /commit"))
        others = [line for line in asked[1:] if line != "POST /commit"]
        self.assertTrue(all(line.startswith("PUT /") for line in others), asked)
        self.assertEqual([Outcome.STORED] * 3, list(push.outcomes()))
        self.assertIs(True, peer.knows_extension)

    async def test_what_it_holds_is_not_sent(self) -> None:
        house = House({"HttpPort": 0}, store=MemoryStore())
        files = [make_dicom(1000, f"1.2.3.{n}") for n in range(3)]
        store = MemoryStore()
        ids = [store.add(data) for data in files]
        house.store.add(files[1])
        peer, asked = await self.serve_house(house)
        request = TransferRequest(
            tuple(Resource(Level.INSTANCE, id_) for id_ in ids), Compression.GZIP, "B"
        )
        progress = Progress()
        push = self.push(store, peer, request)
        await push.run(progress)
        self.assertEqual({"POST push", "PUT /0", "POST /commit"}, set(asked))
        self.assertEqual((3, "POST push"), (len(asked), asked[0]))
        self.assertEqual((1, 1000), (progress.skipped, progress.skipped_size))
        wanted = dict.fromkeys(ids, Outcome.STORED) | {ids[1]: Outcome.ALREADY_STORED}
        self.assertEqual([wanted[id_] for id_ in sorted(ids)], list(push.outcomes()))
        del asked[:]
        again = self.push(store, peer, request)
        await again.run(Progress())
        self.assertEqual(["POST push", "POST /commit", "GET"], asked)
        self.assertEqual([Outcome.ALREADY_STORED] * 3, list(again.outcomes()))

    def filled(self, store: MemoryStore, count: int) -> tuple[MemoryStore, tuple[Resource, ...]]:
        """With so many instances, which are to be transferred."""
        ids = [store.add(make_dicom(1000, f"1.2.3.{n}")) for n in range(count)]
        return store, tuple(Resource(Level.INSTANCE, id_) for id_ in ids)

    async def test_a_far_one_is_asked_first_what_it_can(self) -> None:
        """Many instances: the opening is packed, and buckets go with it."""
        house = House({"HttpPort": 0}, store=MemoryStore())
        store, resources = self.filled(MemoryStore(), 80)
        peer, asked = await self.serve_house(house)
        self.patch(Link, "is_near", False)
        request = TransferRequest(resources, Compression.NONE, "B")
        await self.push(store, peer, request).run(Progress())
        self.assertEqual(ALL_ABILITIES, peer.abilities)
        self.assertEqual("GET", asked[0], "of its plugin")
        self.assertIn("early=1", " ".join(asked))
        self.assertEqual(store.files, house.store.files)

    async def test_what_goes_early_may_be_in_zstd(self) -> None:
        """As the peer has said that it takes it; on a thin link much goes before an answer."""
        house = House({"HttpPort": 0}, store=MemoryStore())
        store, resources = self.filled(MemoryStore(), 80)
        peer, asked = await self.serve_house(house)
        self.patch(Link, "is_near", False)
        self.patch(Link, "estimate", lambda _self: LinkEstimate(1e5, 0.1))
        progress = Progress()
        push = self.push(store, peer, TransferRequest(resources, Compression.AUTO, "B"))
        await push.run(progress)
        early = [line for line in asked if "early=1" in line]
        self.assertTrue(early and all("codec=zstd" in line for line in early), asked)
        self.assertEqual(store.files, house.store.files)
        self.assertEqual(0, progress.repeated_size)

    async def move_in_pieces(self, mode: str) -> tuple[Peer, list[str]]:
        """500 instances to, or from, a far one of which it is known what it takes."""
        house = House({"HttpPort": 0}, store=MemoryStore())
        stores = MemoryStore(), house.store
        here, there = stores if mode == "pull" else stores[::-1]
        _there, resources = self.filled(there, 500)
        peer, asked = await self.serve_house(house)
        self.patch(Link, "is_near", False)
        await peer.learn()
        request = TransferRequest(resources, Compression.NONE, "B")
        transfer = self.pull(here, peer, request) if mode == "pull" else None
        await (transfer or self.push(there, peer, request)).run(Progress())
        self.assertEqual(there.files, here.files)
        return peer, asked

    def count_pieces(self, asked: Sequence[str], route: str) -> int:
        return len({line for line in asked if line.startswith(route) and "piece=" in line})

    async def test_what_is_long_goes_to_a_far_one_in_pieces(self) -> None:
        _peer, asked = await self.move_in_pieces("push")
        self.assertEqual(2, self.count_pieces(asked, "POST"))

    async def test_what_is_long_comes_from_a_far_one_in_pieces(self) -> None:
        peer, asked = await self.move_in_pieces("pull")
        count = self.count_pieces(asked, "POST /transfers/lookup")
        self.assertEqual(min(MOST, peer.link.limit), count)

    async def test_what_cannot_be_packed_comes_once(self) -> None:
        """Nor is it asked for again."""
        self.patch(packed, "LARGEST", 10)
        _peer, asked = await self.move_in_pieces("pull")
        self.assertEqual(0, asked.count("POST /transfers/lookup"))

    async def test_a_refusal_of_what_an_opening_says(self) -> None:
        """The other form is tried; that it came in pieces is not to blame."""

        async def refuse(_self: Any, _push: Any) -> None:
            raise BadMessage("I do not like it")

        self.patch(PushTransactions, "open", refuse)
        house = House({"HttpPort": 0}, store=MemoryStore())
        peer, asked = await self.serve_house(house)
        self.patch(Link, "is_near", False)
        await peer.learn()
        store, resources = self.filled(MemoryStore(), 500)
        push = self.push(store, peer, TransferRequest(resources, Compression.NONE, "B"))
        with self.assertRaisesRegex(PeerRefused, "400.*I do not like it"):
            await push.run(Progress())
        self.assertEqual(1, asked.count("POST push"))
        self.assertTrue(peer._pieces.may_be_tried)

    async def test_a_refusal_that_is_long(self) -> None:
        """A balancer's page: what counts is the status, by which it is tried again."""
        house = House({"HttpPort": 0}, store=MemoryStore())
        peer, _asked = await self.serve_house(house)
        page = b"<html>" + bytes(10**6)

        async def refuse(_self: Any, _request: Any) -> Reply:
            return Reply(page, "text/html", 503)

        self.patch(transfers.Lookup, "post", refuse)
        with self.assertRaises(PeerRefused) as caught:
            await peer.lookup((), peer.session("t"))
        self.assertEqual(503, caught.exception.status)

    async def test_a_piece_that_is_much_too_large(self) -> None:
        """Eight that are as large as a whole message may be would fill the memory."""
        self.patch(in_pieces, "MAX_MESSAGE_SIZE", MOST * 1000)

        async def deal(_pieces: Pieces, piece: Piece, _make: Any) -> tuple[Reply, bytes]:
            return Reply(bytes(2 * 1000 * MOST), PACKED), bytes(16)

        self.patch(Pieces, "deal", deal)
        with self.assertRaisesRegex(PeerNonsense, 'Peer "B".*more than 1000 bytes'):
            await self.move_in_pieces("pull")

    async def test_pieces_that_come_to_several_machines(self) -> None:
        """No more are sent."""

        async def collect(_pieces: Pieces, _piece: Piece, _data: bytes) -> None:
            raise BadState("Of 2 pieces 1 came")

        async def deal(_pieces: Pieces, _piece: Piece, _make: Any) -> tuple[Reply, bytes]:
            return Reply(urandom(99), PACKED), urandom(16)

        self.patch(Pieces, "collect", collect)
        self.patch(Pieces, "deal", deal)
        for mode in ("push", "pull"):
            peer, asked = await self.move_in_pieces(mode)
            before = self.count_pieces(asked, "POST")
            self.assertGreater(before, 0)
            await peer.lookup((), peer.session("t"))
            self.assertEqual(before, self.count_pieces(asked, "POST"))

    async def test_one_that_was_replaced_by_an_earlier_version(self) -> None:
        """It takes no packed opening, and lets no bucket wait."""
        house = House({"HttpPort": 0}, store=MemoryStore())
        store = recorded_store()
        peer, asked = await self.serve_house(house)
        peer.abilities = ALL_ABILITIES
        self.patch(Link, "is_near", False)
        self.patch(transfers, "packed", SimpleNamespace(PACKED="x/y"))
        self.patch(PushTransactions, "expect", lambda _self, _id: succeed(None))
        request = TransferRequest((Resource(Level.SERIES, SERIES),), Compression.NONE, "B")
        await self.push(store, peer, request).run(Progress())
        self.assertEqual(2, asked.count("POST push"))
        self.assertEqual(len(house.store.files), len(store.files) - 1)


class CookieTests(ClientCase):
    """Cookies that a load balancer sets on opening."""

    SET = ("SERVERID=b2; Path=/", "route=x=1; Path=/transfers; HttpOnly", "plain=3")
    SENT = {"SERVERID=b2", "route=x=1", "plain=3"}

    def check_cookies(self, requests: Iterable[Sent]) -> None:
        for sent in requests:
            given = set((sent.header("Cookie") or "").split("; ")) - {""}
            wanted = set() if sent.path == "/transfers/push" else self.SENT
            self.assertEqual(wanted, given, f"{sent.method} {sent.path}")

    async def test_they_come_back(self) -> None:
        server, peer = await self.serve(recorded.load("push-none"), cookies=self.SET)
        request = TransferRequest(RESOURCES, Compression.NONE, "B")
        await self.push(recorded_store(), peer, request).run(Progress())
        self.check(server)
        self.check_cookies(sent for _exchange, sent in server.pairs)

    async def test_they_are_those_of_one_push(self) -> None:
        exchanges = recorded.load("push-none")
        server, peer = await self.serve([*exchanges, *exchanges], cookies=self.SET)
        request = TransferRequest(RESOURCES, Compression.NONE, "B")
        for _ in range(2):
            await self.push(recorded_store(), peer, request).run(Progress())
        self.check_cookies(sent for _exchange, sent in server.pairs)

    async def test_they_come_back_when_a_failed_push_is_dropped(self) -> None:
        exchanges = [
            attrs.evolve(exchange, status=500) if exchange.target.endswith("/1") else exchange
            for exchange in recorded.load("push-none")
            if not exchange.target.endswith("/commit")
        ]
        path = route(exchanges[1].target)[0].rsplit("/", 1)[0]
        goodbye = attrs.evolve(exchanges[1], method="DELETE", target=path, title="goodbye")
        server, peer = await self.serve([*exchanges, goodbye], cookies=self.SET)
        request = TransferRequest(RESOURCES, Compression.NONE, "B")
        push = self.push(recorded_store(), peer, request)
        with self.assertRaises(PeerRefused) as caught:
            await push.run(Progress())
        self.assertEqual(500, caught.exception.status)
        await push.abandon()
        self.assertEqual([], server.unexpected)
        sent = [sent for _exchange, sent in server.pairs]
        self.assertEqual("DELETE", sent[-1].method)
        self.assertIsNone(sent[-1].header("Content-Type"))
        self.assertEqual(b"", sent[-1].body)
        self.check_cookies(sent)


class PullTests(ClientCase):
    async def play(
        self, name: str, request: TransferRequest, keep_alive: KeepAlive = KeepAlive.STAY
    ) -> RecordedServer:
        server, peer = await self.serve(recorded.load(name), keep_alive)
        store = MemoryStore()
        await self.pull(store, peer, request).run(Progress())
        self.check(server, request.sender_transfer_id)
        self.assertEqual(sorted(FILES.values()), sorted(store.files.values()))
        return server

    async def test_none(self) -> None:
        await self.play("pull-none", TransferRequest(RESOURCES, Compression.NONE, "B"))

    async def test_gzip(self) -> None:
        await self.play("pull-gzip", TransferRequest(RESOURCES, Compression.GZIP, "B"))

    async def test_connections_that_are_closed_after_each_answer(self) -> None:
        request = TransferRequest(RESOURCES, Compression.NONE, "B")
        server = await self.play("pull-none", request, KeepAlive.CLOSE)
        self.assertEqual(len(server.pairs), server.connections)

    async def test_connections_that_are_gone_when_the_next_bucket_comes(self) -> None:
        request = TransferRequest(RESOURCES, Compression.GZIP, "B")
        server = await self.play("pull-gzip", request, KeepAlive.DROP)
        self.assertGreater(server.dropped, 0, "no connection was used twice: nothing was tested")

    async def test_content_is_asked_for_as_it_is(self) -> None:
        """A server that knows Content-Encoding is not asked to gzip what is pulled as it is."""
        server = await self.play("pull-none", TransferRequest(RESOURCES, Compression.NONE, "B"))
        for _exchange, sent in server.pairs:
            self.assertIn(sent.header("Accept-Encoding"), (None, "identity"), sent.path)


class RemoteSelfTests(ClientCase):
    """Sending in pull mode: A asks B to pull from A."""

    async def send(self, name: str, transfer_id: str | None) -> tuple[dict[str, Any], str]:
        """Ask our ``/transfers/send``; gives its answer, and the URL of the peer."""
        server, peer = await self.serve(
            recorded.load(f"{name}.A-to-B"), name="Bproxyself", remote_self="Aproxy"
        )
        house = House({"HttpPort": 0}, store=recorded_store(), peers=[peer])  # type: ignore[list-item]
        port = reactor.listenTCP(0, house.site, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        body: dict[str, Any] = {
            "Resources": [resource.to_json() for resource in RESOURCES],
            "Compression": "gzip",
            "Peer": "Bproxyself",
        }
        if transfer_id is not None:
            body["SenderTransferID"] = transfer_id
        answer = await Agent(reactor).request(
            b"POST",
            f"http://127.0.0.1:{port.getHost().port}/transfers/send".encode(),
            Headers({"Connection": ["close"]}),
            FileBodyProducer(BytesIO(json.dumps(body).encode())),
        )
        text = await readBody(answer)
        self.assertEqual(200, answer.code, text)
        self.assertEqual(["application/json"], answer.headers.getRawHeaders("Content-Type"))
        self.check(server, transfer_id)
        return json.loads(text), peer.settings.url

    async def test_the_peer_is_asked_to_pull(self) -> None:
        told, url = await self.send("remoteself-gzip", None)
        (exchange,) = recorded.load("remoteself-gzip.submit")
        (asked,) = recorded.load("remoteself-gzip.A-to-B")
        wanted = asked.response_json()
        self.assertEqual(set(exchange.response_json()), set(told))
        self.assertEqual(
            {"Peer": "Bproxyself", "RemoteJob": wanted["ID"], "URL": url + wanted["Path"]}, told
        )

    async def test_with_an_identifier(self) -> None:
        await self.send("remoteself-sendertransferid", "my transfer #1")

    async def test_the_peer_pulls(self) -> None:
        for name in ("remoteself-gzip", "remoteself-sendertransferid"):
            server, peer = await self.serve(recorded.load(f"{name}.B-to-A"))
            store = MemoryStore()
            await self.pull(store, peer, self.asked(name)).run(Progress())
            self.check(server)
            self.assertEqual(sorted(FILES.values()), sorted(store.files.values()))

    async def test_the_peer_finds_somebody_else(self) -> None:
        server, peer = await self.serve(recorded.load("remoteself-gzip.B-to-A"))
        request = attrs.evolve(self.asked("remoteself-gzip"), originator="somebody else")
        with self.assertRaises(WrongOriginator) as caught:
            await self.pull(MemoryStore(), peer, request).run(Progress())
        self.assertIn("RemoteSelf", str(caught.exception))
        self.assertEqual(["/transfers/lookup"], [sent.path for _e, sent in server.pairs])

    def asked(self, name: str) -> TransferRequest:
        """What B was asked, as its own ``/transfers/pull`` takes it."""
        (exchange,) = recorded.load(f"{name}.A-to-B")
        house = House(peers=[FakePeer("Aproxy")])
        assert exchange.request_body is not None
        answer = house.request("POST", "/transfers/pull", exchange.request_body)
        self.assertEqual(200, answer.status)
        (transfer,) = house.transfers
        return transfer.request
