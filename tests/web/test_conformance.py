"""What stock peers were recorded to answer, our server answers too; but for the table below."""

import gzip
import json
import re
import struct
import zlib
from collections.abc import Callable, Mapping
from fnmatch import fnmatch
from typing import Any

import attrs
from twisted.trial.unittest import SynchronousTestCase

from tests import recorded
from tests.recorded import Exchange
from tests.web.harness import Answer, FakePeer, House
from tests.web.stand_ins import FILES, SECOND, bytes_asked_for, recorded_store, with_our_md5s
from txtransfers.errors import PeerRefused
from txtransfers.jobs.model import Direction
from txtransfers.transfer.incoming import IDLE_BEFORE_PARKING_S
from txtransfers.transfer.parts import Memo
from txtransfers.transfer.pull import Pull
from txtransfers.transfer.push import Push
from txtransfers.wire.messages import LookupAnswer, TransferRequest


@attrs.frozen
class Difference:
    """Exchanges that are answered otherwise than recorded, on purpose.

    :ivar recordings: a pattern of names. :ivar titles: a regular expression, found in the title.
    :ivar status: ours. :ivar code: our OrthancStatus; None where there is no error, or no body.
    """

    recordings: str
    titles: str
    status: int
    code: int | None
    reason: str


_BETTER_PLAN = "a plan that is not one is refused when it is opened, not when bytes have travelled"
_NEVER_OPENED = "this transaction was refused when it was opened (see above)"
_NO_EVICTION = "a push that is alive is never evicted by a new one: the new one is turned away"
_MALFORMED = "what can never succeed is refused when it is submitted; stock's job fails later"
_NEVER_SUBMITTED = "this job was refused when it was submitted (see above)"
_REASON = "a reason is given where stock gives an empty body"
_HEAD = "HEAD is answered as GET would be, without the body"
_STATUS = "the status of a push can be asked for: GET is a method of it"
_SYNCHRONOUS = "pause and cancel have happened when they are answered"

DIFFERENCES = (
    # Routes
    Difference("errors-methods", r"PATCH /", 405, None, "an unknown method is a wrong one"),
    Difference("errors-methods", r"HEAD /transfers/chunks", 404, None, _HEAD),
    Difference("errors-methods", r"HEAD /transfers/peers", 200, None, _HEAD),
    Difference("errors-methods", r"GET /transfers/push/{tx} ", 404, 17, _STATUS),
    Difference("errors-methods", r"(POST|PUT) /transfers/push/{tx} ", 405, None, _STATUS),
    Difference("errors-methods", r"HEAD /transfers/push/{tx} ", 404, None, _HEAD),
    Difference("errors-uris", r"GET /transfers/push/[0-9a-f-]+$", 404, 17, _STATUS),
    Difference("errors-push-transaction", r"_method=DELETE", 405, None, _STATUS),
    Difference("core-routes", r"GET /plugins$", 200, None, "there is no plugin but this one"),
    Difference("core-routes", r"GET /plugins/nope", 404, 17, _REASON),
    Difference("core-routes", r"GET /system", 200, None, "only what clients read is told"),
    Difference(
        "errors-push-transaction",
        r"X-HTTP-Method-Override",
        405,
        None,
        "the method of a request is its method: no header changes it",
    ),
    # GET /transfers/chunks
    Difference(
        "chunks",
        r"\(over int32\)",
        200,
        None,
        "instances over 2 GiB can be pulled from here: offsets and sizes have 64 bits",
    ),
    Difference("chunks", r"400 ids = 18 KB of URL", 200, None, "the URL may have 32 KB"),
    # POST /transfers/push
    Difference(
        "errors-push-create-sizes",
        r"Size '(-1|18446744073709551615)'",
        400,
        15,
        "no size is negative, and none has 64 bits: a bad request, not an error of the server",
    ),
    Difference(
        "errors-push-create-sizes",
        r"Size '1099511627776'",
        400,
        15,
        "1 TB of which no byte is in a bucket is no plan",
    ),
    Difference("errors-push-create-sizes", r"Size '(\+5|05)'", 400, 15, _BETTER_PLAN),
    Difference("errors-push-create-sizes", r"DELETE", 404, 17, _NEVER_OPENED),
    Difference(
        "errors-push-create",
        r"Instances without Buckets|Buckets without Instances|Size '0'|bucket empty list"
        r"|not listed|out of the instance's bounds|overlapping|do not cover",
        400,
        15,
        _BETTER_PLAN,
    ),
    Difference(
        "errors-push-create",
        r"instance ID nonsense",
        400,
        15,
        "what is no identifier never becomes the name of anything",
    ),
    # A push
    Difference(
        "errors-push-transaction",
        r"^007: commit again",
        200,
        None,
        "a sender whose answer was lost may commit again, and is told that all is committed",
    ),
    Difference("errors-push-transaction", r"^04[58]: create", 400, 15, _BETTER_PLAN),
    Difference("errors-push-transaction", r"^049: PUT", 404, 17, _NEVER_OPENED),
    Difference("errors-push-transaction", r"^0(47|50): DELETE", 404, 17, _NEVER_OPENED),
    Difference("errors-push-transaction", r"^086: create #4", 503, 6, _NO_EVICTION),
    Difference("errors-push-transaction", r"^088: PUT to #1", 200, None, _NO_EVICTION),
    Difference("errors-push-transaction", r"^092: DELETE", 200, None, _NO_EVICTION),
    Difference("errors-push-transaction", r"^095: DELETE", 404, 17, _NO_EVICTION),
    # POST /transfers/pull and /transfers/send
    Difference("errors-[ps][ue][ln]*", r"Resources of strings", 400, 15, _MALFORMED),
    Difference(
        "errors-[ps][ue][ln]*",
        r"Priority 2\^40",
        400,
        3,
        "a bad request, not an error of the server",
    ),
    Difference(
        "errors-[ps][ue][ln]*",
        r"SenderTransferID with CRLF",
        400,
        15,
        "headers cannot be injected into requests to the peer",
    ),
    Difference("job-failed-*", r"bad Level: submit", 400, 3, _MALFORMED),
    Difference("job-failed-*", r"(without Level|are strings): submit", 400, 15, _MALFORMED),
    Difference("job-failed-*", r"(bad Level|Level|strings): job", 404, 17, _NEVER_SUBMITTED),
    # Jobs
    Difference("job-*", r"GET unknown|: unknown job$", 404, 17, _REASON),
    Difference("job-*", r"cancel unknown job", 400, 6, _REASON),
    Difference("job-*", r"resubmit while|resume again|(resume|resubmit) after", 400, 6, _REASON),
    Difference("job-*", r"right after (pause|cancel)", 200, None, _SYNCHRONOUS),
)

EXTENSIONS = {
    "Details",  # errors
    "TxtransfersVersion",  # /system
    "TxTransfers",  # /plugins/transfers
    *("SenderTransferID", "TotalSize", "Buckets", "UploadedSize", "DownloadedSize"),  # jobs
    *("NetworkSize", "Retries", "RepeatedSize", "SavedByCompression", "Outcomes"),
    *("SentInstances", "ReceivedInstances", "SkippedInstances", "SkippedSize"),
    *("CompletedInstances", "Description"),
    *("EstimatedTimeOfArrival", "History", "BucketsInFlight", "MaxBucketsInFlight"),
    "UnderWaySize",
    *("BucketSize", "GoodputKBs", "RoundTripMs", "Codec", "CodecLevel"),
    # of jobs that stock describes by an empty Content, and of those whose lookup failed:
    *("Compression", "Peer", "Resources", "UploadedSizeMB", "DownloadedSizeMB"),
    *("CompletedHttpQueries", "NetworkSpeedKBs", "TotalInstances", "TotalSizeMB"),
}
"""Members that we may have and stock has not: whoever does not know them ignores them."""

HEADERS = ("Content-Type", "Allow", "X-Content-Type-Options")


def kind(value: Any) -> str:
    """The type of a JSON value."""
    if isinstance(value, bool) or value is None:
        return str(value is None or "bool")
    return "number" if isinstance(value, int | float) else type(value).__name__


def unlike(theirs: Any, ours: Any, path: str = "") -> list[str]:
    """What differs in the members of two JSON values, and in their types."""
    if kind(theirs) != kind(ours):
        return [f"{path or 'body'} is {kind(ours)}, not {kind(theirs)}"]
    if isinstance(theirs, list):
        if len(theirs) != len(ours):
            return [f"{path} has {len(ours)} elements, not {len(theirs)}"]
        pairs = enumerate(zip(theirs, ours, strict=True))
        return [line for n, (a, b) in pairs for line in unlike(a, b, f"{path}[{n}]")]
    if not isinstance(theirs, dict):
        return []
    lines = [f"{path}.{name} is missing" for name in theirs.keys() - ours.keys()]
    lines += [f"{path}.{name} is new" for name in ours.keys() - theirs.keys() - EXTENSIONS]
    for name in theirs.keys() & ours.keys():
        lines += unlike(theirs[name], ours[name], f"{path}.{name}")
    return lines


def differences(theirs: Exchange, ours: Answer) -> list[str]:
    """In what our answer differs from the recorded one."""
    lines = []
    if theirs.status != ours.status:
        lines.append(f"status {ours.status}, not {theirs.status}")
    for name in HEADERS:
        if theirs.response_header(name) != ours.header(name):
            lines.append(f"{name} {ours.header(name)}, not {theirs.response_header(name)}")
    if not ours.whole:
        lines.append("the body is not whole")
    if theirs.response_body == b"" and ours.body:
        lines.append(f"a body of {len(ours.body)} bytes, not none")
    their_json, our_json = _json(theirs.response_body), _json(ours.body)
    if their_json is not None:
        lines += unlike(their_json, our_json)
    if isinstance(their_json, dict) and isinstance(our_json, dict):
        for name in ("OrthancStatus", "HttpStatus", "HttpError", "Message", "State", "Type"):
            if their_json.get(name) != our_json.get(name):
                lines.append(f"{name} {our_json.get(name)}, not {their_json.get(name)}")
    return lines


def _json(body: bytes | None) -> Any:
    if not body or body[:1] not in b"{[":
        return None
    return json.loads(body)


def damaged(data: bytes, crc: int, size: int) -> bytes:
    """A gzip member of ``data`` whose checksum and length are off by so much."""
    member = gzip.compress(data)
    return member[:-8] + struct.pack("<II", (zlib.crc32(data) + crc) % 2**32, len(data) + size)


FILE = FILES[SECOND]
BODIES: tuple[tuple[str, Callable[[], bytes]], ...] = (
    (r"uncompressed data in a gzip", lambda: FILE),
    (r"truncated gzip", lambda: gzip.compress(FILE)[:-10]),
    (r"bad CRC", lambda: damaged(FILE, 1, 0)),
    (r"wrong ISIZE", lambda: damaged(FILE, 0, 1)),
    (r"gzip of wrong length", lambda: gzip.compress(FILE[:-1])),
    (r"zlib instead of gzip", lambda: zlib.compress(FILE)),
    (r"mtime\+filename", lambda: gzip_with_name(FILE)),
    (r"two (concatenated gzip )?members", lambda: b"".join(map(gzip.compress, _halves(FILE)))),
    (r"trailing garbage", lambda: gzip.compress(FILE) + b"xx"),
    (r"PUT good gzip", lambda: gzip.compress(FILE)),
    (r"one byte short", lambda: FILE[:-1]),
    (r"one byte long", lambda: FILE + b"x"),
    (r"chunked", lambda: b"%x\r\n%b\r\n0\r\n\r\n" % (len(FILE), FILE)),
    (r"PUT|POST /instances", lambda: FILE),
)
"""The bodies that the recordings only summarise: by title, the first that is found."""


def gzip_with_name(data: bytes) -> bytes:
    """A gzip member whose header has optional fields."""
    return b"\x1f\x8b\x08\x08\x01\x02\x03\x04\x00\x03name\x00" + gzip.compress(data)[10:]


def _halves(data: bytes) -> tuple[bytes, bytes]:
    return data[:1000], data[1000:]


class Replay:
    """Sends the requests of a recording to a house, with our identifiers in the place of theirs."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._ids: dict[str, str] = {}

    def send(self, exchange: Exchange) -> Answer:
        """Send one request; what it opened is known to the next ones."""
        headers = {
            name: value
            for name, value in exchange.request_headers
            if name.lower() not in ("host", "content-length")
        }
        body = self._body(exchange)
        if exchange.request_header("Content-Length") is None and not headers.keys() & {
            "Transfer-Encoding"
        }:
            body = None
        answer = self._house.request(
            exchange.method,
            self._translate(exchange.target),
            body,
            headers,
            version=exchange.version,
        )
        self._learn(_json(exchange.response_body), _json(answer.body))
        return answer

    def _body(self, exchange: Exchange) -> bytes:
        if exchange.request_body is not None and exchange.method == "PUT":
            return exchange.request_body
        if exchange.request_body is not None:
            return with_our_md5s(exchange.request_body)
        return next(make() for title, make in BODIES if re.search(title, exchange.title))

    def _translate(self, target: str) -> str:
        for theirs, ours in self._ids.items():
            target = target.replace(theirs, ours)
        return target

    def _learn(self, theirs: Any, ours: Any) -> None:
        if isinstance(theirs, dict) and isinstance(ours, dict):
            for name in ("ID", "ParentPatient", "ParentStudy", "ParentSeries"):
                if name in theirs and name in ours:
                    self._ids[theirs[name]] = ours[name]


class ConformanceCase(SynchronousTestCase):
    """Base of the tests below."""

    def replay(
        self, name: str, house: House, before: Callable[[Exchange], None] = lambda _exchange: None
    ) -> list[tuple[Exchange, Answer]]:
        """Replay a recording and compare; ``before`` is called before each request."""
        replay, pairs, problems = Replay(house), [], []
        for exchange in recorded.load(name):
            before(exchange)
            answer = replay.send(exchange)
            pairs.append((exchange, answer))
            problems += [f"{exchange.title}: {p}" for p in self.judge(name, exchange, answer)]
        self.assertEqual([], problems, "\n" + "\n".join(problems))
        return pairs

    def judge(self, name: str, exchange: Exchange, answer: Answer) -> list[str]:
        """What is wrong with an answer."""
        found = differences(exchange, answer)
        wanted = [
            d
            for d in DIFFERENCES
            if fnmatch(name, d.recordings) and re.search(d.titles, exchange.title)
        ]
        if not wanted:
            return found
        if not found:
            return ["answered as stock does: this is no difference any more"]
        body = _json(answer.body)
        code = body.get("OrthancStatus") if isinstance(body, dict) else None
        if (answer.status, code) != (wanted[0].status, wanted[0].code):
            return [f"{answer.status} with code {code}, not the difference that the table tells"]
        return []


class TableTests(SynchronousTestCase):
    def test_each_difference_is_in_a_recording(self) -> None:
        titles = {name: [e.title for e in recorded.load(name)] for name in recorded.names()}
        for difference in DIFFERENCES:
            found = [
                title
                for name in titles
                if fnmatch(name, difference.recordings)
                for title in titles[name]
                if re.search(difference.titles, title)
            ]
            self.assertNotEqual([], found, difference)


class ReadingTests(ConformanceCase):
    def setUp(self) -> None:
        self.house = House(store=recorded_store())

    def test_lookup(self) -> None:
        for exchange, answer in self.replay("lookup", self.house):
            if exchange.status == 200:
                ours, theirs = answer.json(), exchange.response_json()
                for name in ("CountInstances", "TotalSize", "TotalSizeMB"):
                    self.assertEqual(theirs[name], ours[name], exchange.title)
                told = [(i["ID"], i["Size"]) for i in theirs["Instances"]]
                self.assertEqual(told, [(i["ID"], i["Size"]) for i in ours["Instances"]])

    def test_chunks(self) -> None:
        for exchange, answer in self.replay("chunks", self.house):
            if exchange.status != 200:
                continue
            body = answer.body
            if answer.header("Content-Type") == "application/gzip":
                body = gzip.decompress(body)
            else:
                self.assertEqual(exchange.response_length, len(body), exchange.title)
                self.assertEqual(str(len(body)), answer.header("Content-Length"), exchange.title)
            self.assertEqual(bytes_asked_for(exchange.target), body, exchange.title)


class RoutesTests(ConformanceCase):
    """Methods, slashes, unknown routes."""

    def setUp(self) -> None:
        self.house = House(
            store=recorded_store(),
            peers=[FakePeer("A", accelerated=True), FakePeer("Aproxy")],
        )

    def test_methods(self) -> None:
        self.replay("errors-methods", self.house)

    def test_unknown_uris(self) -> None:
        self.replay("errors-uris", self.house)

    def test_slashes_and_percent_encoding(self) -> None:
        peers = [FakePeer("B", accelerated=True), FakePeer("Bproxy"), FakePeer("Bproxyself")]
        house = House(store=recorded_store(), peers=peers)
        answers = self.replay("errors-slashes", house)
        peers_told = next(a for e, a in answers if e.title.endswith("encoded route"))
        told = {"B": "installed", "Bproxy": "disabled", "Bproxyself": "disabled"}
        self.assertEqual(told, peers_told.json())

    def test_bidirectional_peers(self) -> None:
        house = House(peers=[FakePeer("B", accelerated=True, remote_self="A")])
        self.assertEqual({"B": "bidirectional"}, house.request("GET", "/transfers/peers").json())


class PushTests(ConformanceCase):
    """Receiving a push."""

    def setUp(self) -> None:
        self.house = House(store=recorded_store())

    def test_opening(self) -> None:
        # What was opened before is left alone for so long that it may be given up.
        self.replay("errors-push-create", self.house, self.later)

    def test_sizes(self) -> None:
        self.replay("errors-push-create-sizes", self.house)

    def later(self, _exchange: Exchange) -> None:
        self.house.clock.advance(IDLE_BEFORE_PARKING_S + 1)

    def test_transactions(self) -> None:
        self.replay("errors-push-transaction", self.house)

    def test_whole_pushes(self) -> None:
        """The requests of a stock sender, as it sent them."""
        for name in (
            "push-none",
            "push-gzip",
            "push-sendertransferid",
            "push-duplicate-resources",
        ):
            with self.subTest(name):
                house = House()
                replay = Replay(house)
                exchanges = recorded.load(name)
                opening = exchanges[0].request_json()
                for exchange in exchanges:
                    sent = exchange
                    if exchange.method == "PUT":
                        body = bucket_body(opening, int(exchange.target.rsplit("/", 1)[1]))
                        sent = attrs.evolve(exchange, request_body=body)
                    self.assertEqual([], differences(exchange, replay.send(sent)), exchange.title)
                wanted = sorted(FILES[i["ID"]] for i in opening["Instances"])
                self.assertEqual(wanted, sorted(house.store.files.values()))


def bucket_body(opening: Mapping[str, Any], number: int) -> bytes:
    """The body of a bucket of a transaction, cut from the stand-ins."""
    data = b"".join(
        FILES[chunk["ID"]][int(chunk["Offset"]) :][: int(chunk["Size"])]
        for chunk in opening["Buckets"][number]
    )
    return gzip.compress(data) if opening["Compression"] == "gzip" else data


class JobsTests(ConformanceCase):
    def house_with(self, *names: str, **more: Any) -> House:
        return House(store=recorded_store(), peers=[FakePeer(name) for name in names], **more)

    def test_submitting(self) -> None:
        self.replay("errors-pull", self.house_with("A"))
        self.replay("errors-send", self.house_with("B"))

    def test_pause_and_resume(self) -> None:
        house = self.house_with("Aproxy")

        def before(exchange: Exchange) -> None:
            house.clock.advance(1)
            if exchange.title.endswith(": done"):
                house.transfers[-1].ending.callback(None)

        self.replay("job-pull-pause-resume", house, before)

    def test_cancel_and_resubmit(self) -> None:
        house = self.house_with("Bproxy")

        def before(exchange: Exchange) -> None:
            house.clock.advance(1)
            if exchange.title.endswith(": done"):
                house.transfers[-1].ending.callback(None)

        answers = self.replay("job-push-cancel-resubmit", house, before)
        cancelled = next(a.json() for e, a in answers if e.title.endswith(": cancelled"))
        self.assertEqual(
            (37, "This job was canceled"),
            (cancelled["ErrorCode"], cancelled["ErrorDescription"]),
        )

    def test_failed_jobs(self) -> None:
        self.replay("job-failed-send", self.failing_house("B", "down", "plain"))
        self.replay("job-failed-pull", self.failing_house("A", "down"))

    def failing_house(self, *names: str) -> House:
        """A house with real transfers, whose peers cannot be reached or know nothing."""

        def make_transfer(direction: Direction, request: TransferRequest, memo: Memo) -> Any:
            make = Push if direction is Direction.PUSH else Pull
            peer: Any = house.peers[request.peer]
            return make(house.parts, peer, request, memo)

        house = self.house_with(*names, make_transfer=make_transfer)
        if "A" in house.peers:
            house.peers["A"].lookup = self.look_up  # type: ignore[method-assign]
        return house

    async def look_up(self, resources: Any, _session: Any, *_more: Any) -> LookupAnswer:
        if resources[0].id not in FILES:
            raise PeerRefused('Peer "A" answered 404: Unknown resource', 404)
        return LookupAnswer((), "another daemon")

    def test_finished_jobs(self) -> None:
        """The job that a submission tells of, when it has ended."""
        for name, peer in (
            ("push-none.submit", "Bproxy"),
            ("push-gzip.submit", "Bproxy"),
            ("pull-none.submit", "Aproxy"),
        ):
            with self.subTest(name):
                house = self.house_with(peer)

                def before(exchange: Exchange, house: House = house) -> None:
                    if exchange.title.endswith("finished job"):
                        house.clock.advance(1)
                        house.transfers[-1].ending.callback(None)

                self.replay(name, house, before)


class CoreRoutesTests(ConformanceCase):
    """The part of Orthanc's own API, on the embedded store."""

    def test_core_routes(self) -> None:
        folder = self.mktemp()
        house = House(
            {"StorageDirectory": folder, "OrthancPeers": PEERS},
            folder=folder,
        )
        self.addCleanup(house.stop)
        replay = CoreReplay(house)
        problems = []
        for exchange in recorded.load("core-routes"):
            answer = replay.send(exchange)
            found = self.judge("core-routes", exchange, answer)
            problems += [f"{exchange.title}: {p}" for p in found]
            if exchange.title.endswith("metrics"):
                self.check_metrics(exchange, answer)
        self.assertEqual([], problems, "\n" + "\n".join(problems))

    def check_metrics(self, theirs: Exchange, ours: Answer) -> None:
        assert theirs.response_body is not None
        told = {line.split(" ")[0] for line in theirs.response_body.decode().splitlines()}
        lines = [line.split(" ") for line in ours.body.decode().splitlines()]
        self.assertEqual([3], sorted({len(line) for line in lines}))
        names = {line[0] for line in lines}
        self.assertEqual({n for n in told if n.startswith("orthanc_transfers_")} - names, set())


PEERS = {
    "A": ["http://127.0.0.1:18042/"],
    "Aproxy": ["http://127.0.0.1:18142/"],
}


class CoreReplay(Replay):
    """Learns the identifiers of the stand-in that is uploaded."""

    def _body(self, exchange: Exchange) -> bytes:
        return FILE if exchange.request_body is None else exchange.request_body
