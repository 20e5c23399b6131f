"""What one client, and all together, may take: each limit, and that those who keep to it pass."""

import gzip
import random
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from tests.web.harness import Answer, Connection, FakePeer, House, make_dicom
from tests.web.test_hostile import FILE, ID, chunk, instance, opening
from txtransfers.config_limits import LIMITS_KEYS
from txtransfers.wire import inflation
from txtransfers.wire.codec import Codec, Coding
from txtransfers.wire.codecs import encoder
from txtransfers.wire.pushes import PushLimits

MB = 2**20
REQUEST = b"GET /system HTTP/1.1\r\nHost: here\r\n\r\n"


class LimitsCase(SynchronousTestCase):
    """Base: a house with limits."""

    def make(self, **limits: Any) -> None:
        self.house = House({"Limits": limits, "HttpTimeout": 600}, peers=[FakePeer("B")])

    def refused(self, answer: Answer, status: int, *told: str) -> None:
        self.assertEqual(status, answer.status, answer.body)
        for text in told:
            self.assertIn(text, answer.json()["Details"])
        if status == 503:
            self.assertGreaterEqual(int(answer.header("Retry-After") or "0"), 1)

    def counted(self, limit: str) -> int:
        self.assertIn(limit, {key.name for key in LIMITS_KEYS})
        return self.house.site.refusals.counted[limit]

    def busy(self, host: str = "127.0.0.1") -> Connection:
        """A connection on which a request is under way: its body lacks."""
        connection = self.house.connect(host)
        connection.request("POST", "/transfers/lookup", b"", {"Content-Length": "2"})
        self.assertEqual([], connection.answers())
        return connection

    def usable(self, connection: Connection) -> bool:
        connection.request("GET", "/system")
        return bool([a for a in connection.answers() if a.status == 200])


class ConnectionTests(LimitsCase):
    def test_one_more_takes_the_place_of_an_idle_one(self) -> None:
        self.make(MaxConnections=10)
        busy = self.busy()
        idle = [self.house.connect() for _ in range(9)]
        self.assertTrue(self.usable(idle[0]))  # now the others have been idle for longer
        self.house.clock.advance(1)
        new = self.house.connect()
        self.house.clock.advance(0)
        self.assertEqual([True] + [False] + [True] * 7, [each.is_open for each in idle])
        self.assertTrue(self.usable(new))
        self.assertTrue(busy.is_open)
        self.assertEqual(10, self.house.site.connections.count)
        self.assertEqual(1, self.counted("MaxConnections"))

    def test_one_that_has_just_come_keeps_its_place(self) -> None:
        self.make(MaxConnections=10)
        first = [self.house.connect() for _ in range(10)]
        new = self.house.connect()
        new.request("GET", "/system")
        self.refused(new.answers()[0], 503, "MaxConnections")
        self.assertTrue(all(self.usable(each) for each in first))

    def test_where_all_are_busy_one_more_is_told_to_come_again(self) -> None:
        self.make(MaxConnections=10)
        busy = [self.busy() for _ in range(10)]
        new = self.house.connect()
        self.assertTrue(new.is_open)
        new.request("PUT", "/transfers/push/x/0", b"x" * 100_000)
        [answer] = new.answers()
        self.refused(answer, 503, "MaxConnections", "try again")
        self.house.clock.advance(2)
        self.assertFalse(new.is_open)
        self.assertTrue(all(each.is_open for each in busy))
        busy[0].send(b"[]")
        self.assertEqual(200, busy[0].answers()[0].status)
        busy[0].leave()
        self.assertEqual(200, self.house.request("GET", "/system").status)

    def test_one_who_says_nothing_is_not_told_for_long(self) -> None:
        self.make(MaxConnections=10)
        for _ in range(10):
            self.busy()
        silent = [self.house.connect() for _ in range(100)]
        self.house.clock.advance(0)
        self.assertEqual(64, sum(each.is_open for each in silent))
        self.house.clock.advance(5)
        self.assertEqual(0, sum(each.is_open for each in silent))
        self.assertEqual(0, self.counted("HeaderTimeout"))

    def test_of_one_address(self) -> None:
        self.make(MaxConnectionsPerAddress=3, MaxConnections=100)
        for _ in range(3):
            self.busy()
        new = self.house.connect()
        new.request("GET", "/system")
        self.refused(new.answers()[0], 503, "MaxConnectionsPerAddress")
        self.assertEqual(1, self.counted("MaxConnectionsPerAddress"))
        self.assertEqual(0, self.counted("MaxConnections"))

    def test_another_address_is_not_kept_out(self) -> None:
        self.house = House({"Limits": {"MaxConnections": 10}, "RemoteAccessAllowed": True,
                            "RemoteAccessWithoutUsers": True,
                            "AuthenticationEnabled": False})  # fmt: skip
        flood = [self.house.connect("192.0.2.1") for _ in range(8)]
        others = [self.house.connect(f"192.0.2.{n}") for n in (2, 3)]
        self.house.clock.advance(1)
        for n in range(4, 8):
            self.assertTrue(self.usable(self.house.connect(f"192.0.2.{n}")))
        self.assertEqual([False] * 4 + [True] * 4, [each.is_open for each in flood])
        self.assertTrue(all(map(self.usable, others)))

    def test_a_network_of_ipv6_is_one_address(self) -> None:
        self.house = House({"Limits": {"MaxConnectionsPerAddress": 2},
                            "RemoteAccessAllowed": True, "RemoteAccessWithoutUsers": True,
                            "AuthenticationEnabled": False})  # fmt: skip
        for n in (1, 2):
            self.busy(f"2001:db8::{n}")
        new = self.house.connect("2001:db8::3")
        new.request("GET", "/system")
        self.refused(new.answers()[0], 503, "MaxConnectionsPerAddress")
        self.assertTrue(self.usable(self.house.connect("2001:db8:0:1::3")))

    def test_requests_on_one_connection(self) -> None:
        self.make(MaxRequestsPerConnection=3)
        connection = self.house.connect()
        for _ in range(3):
            connection.request("GET", "/system")
        answers = connection.answers()
        self.assertEqual([200] * 3, [answer.status for answer in answers])
        closing = [answer.header("Connection") for answer in answers]
        self.assertEqual([None, None, "close"], closing)
        self.assertFalse(connection.is_open)

    def test_all_that_leave_are_forgotten(self) -> None:
        self.make()
        connections = [self.house.connect() for _ in range(5)] + [self.busy() for _ in range(5)]
        self.assertEqual((10, 5), (self.house.site.connections.count, self.idle()))
        for each in connections:
            each.leave()
        self.assertEqual((0, 0), (self.house.site.connections.count, self.idle()))

    def idle(self) -> int:
        return self.house.site.connections.idle


class SlowTests(LimitsCase):
    def test_headers_that_trickle(self) -> None:
        self.make(HeaderTimeout=10)
        connection = self.house.connect()
        for byte in REQUEST[:9]:
            connection.send(bytes([byte]), "GET")
            self.house.clock.advance(1)
        self.assertTrue(connection.is_open)
        self.house.clock.advance(1.5)
        self.assertEqual(408, connection.answers()[0].status)
        self.house.clock.advance(2)
        self.assertFalse(connection.is_open)
        self.assertEqual(1, self.counted("HeaderTimeout"))

    def test_one_who_never_begins(self) -> None:
        self.make(HeaderTimeout=10)
        connection = self.house.connect()
        self.house.clock.advance(10)
        self.assertEqual((False, b""), (connection.is_open, connection.received()))

    def test_between_two_requests_there_is_time(self) -> None:
        self.make(HeaderTimeout=10)
        connection = self.house.connect()
        for _ in range(3):
            self.assertTrue(self.usable(connection))
            self.house.clock.advance(100)
        connection.send(REQUEST[:5])
        self.house.clock.advance(10)
        self.assertEqual(408, connection.answers()[-1].status)

    def test_the_next_headers_may_come_while_a_request_is_handled(self) -> None:
        self.make(HeaderTimeout=10)
        connection = self.busy()
        self.house.clock.advance(9)
        connection.send(b"[]" + REQUEST[:5], "GET")
        self.assertEqual([200], [answer.status for answer in connection.answers()])
        self.house.clock.advance(9)
        connection.send(REQUEST[5:])
        self.assertEqual([200, 200], [answer.status for answer in connection.answers()])

    def open_push(self, size: int) -> str:
        self.data = make_dicom(size, "1.2.9")
        body = opening([instance(data=self.data)], [[chunk(size=size)]])
        return str(self.house.request("POST", "/transfers/push", body).json()["Path"])

    def put(self) -> Connection:
        path = self.open_push(MB)
        connection = self.house.connect()
        connection.request("PUT", f"{path}/0", b"", {"Content-Length": str(MB)})
        return connection

    def trickle(self, connection: Connection, rate: int, seconds: int) -> None:
        for _ in range(seconds):
            connection.send(b"x" * rate)
            self.house.clock.advance(1)

    def test_a_body_that_trickles(self) -> None:
        self.make(MinimumBodyRate=1000)
        connection = self.put()
        self.trickle(connection, 999, 61)
        self.assertFalse(connection.is_open)
        self.assertEqual(1, self.counted("MinimumBodyRate"))
        self.assertEqual(0, self.house.site.load.uploads)

    def test_a_slow_one_is_waited_for(self) -> None:
        self.make(MinimumBodyRate=1000)
        connection = self.put()
        self.trickle(connection, 1010, 200)
        self.assertTrue(connection.is_open)
        self.house.clock.advance(35)  # a line that is cut for a while
        self.trickle(connection, 30_000, 2)
        self.trickle(connection, 1010, 100)
        self.assertTrue(connection.is_open)

    def test_any_rate(self) -> None:
        self.make(MinimumBodyRate=0)
        connection = self.put()
        self.trickle(connection, 1, 500)
        self.assertTrue(connection.is_open)

    def test_time_in_which_we_do_not_read_does_not_count(self) -> None:
        self.make(MinimumBodyRate=1000)
        connection = self.put()
        connection.send(b"x" * 1000)
        body = self.house.site.load
        channel = connection.wire.protocol
        channel.requests[-1].body.pauseProducing()
        self.house.clock.pump([30] * 20)
        self.assertTrue(connection.is_open)
        channel.requests[-1].body.resumeProducing()
        self.house.clock.advance(20)
        self.assertTrue(connection.is_open)
        self.house.clock.pump([20] * 5)
        self.assertEqual((False, 0), (connection.is_open, body.uploads))


class SizeTests(LimitsCase):
    def test_headers(self) -> None:
        self.make(MaxHeaderSize=4)
        fits = self.house.request("GET", "/system", headers={"X": "x" * 3900})
        self.assertEqual(200, fits.status)
        for headers in ({"X": "x" * 4100}, {f"X{n}": "x" * 100 for n in range(50)}):
            self.assertEqual(400, self.house.request("GET", "/system", headers=headers).status)
        self.assertEqual(400, self.house.request("GET", "/" + "x" * 4100).status)
        self.assertEqual(3, self.counted("MaxHeaderSize"))

    def test_urls_of_chunks(self) -> None:
        self.make(MaxChunksUrlLength=2000)
        self.house.store.add(FILE)
        fits, long = (f"/transfers/chunks/{'.'.join([ID] * count)}" for count in (44, 45))
        self.assertEqual((1997, 2042), (len(fits), len(long)))
        self.assertEqual(404, self.house.request("GET", fits).status)
        self.refused(self.house.request("GET", long), 414, "MaxChunksUrlLength", "2000")
        self.assertEqual(1, self.counted("MaxChunksUrlLength"))

    def test_messages(self) -> None:
        self.make(MaxMessageSize=1)
        fits = b"[" + b" " * (MB - 2) + b"]"
        self.assertEqual(200, self.house.request("POST", "/transfers/lookup", fits).status)
        for headers in ({}, {"Transfer-Encoding": "chunked"}):
            body = fits + b" "
            if headers:
                body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
            answer = self.house.request("POST", "/transfers/lookup", body, headers)
            self.refused(answer, 413, str(MB))

    def test_of_large_messages_one_waits_for_the_other(self) -> None:
        self.make(MaxMessageSize=1)
        first, second = self.house.connect(), self.house.connect()
        large = b"[" + b" " * (MB - 2) + b"]"
        for each in (first, second):
            headers = {"Content-Length": str(len(large))}
            each.request("POST", "/transfers/lookup", large[:-1], headers)
        self.assertEqual(200, self.house.request("POST", "/transfers/lookup", b"[]").status)
        second.send(large[-1:])
        self.assertEqual([], second.answers())
        first.send(large[-1:])
        self.assertEqual([200], [answer.status for answer in first.answers()])
        second.flush()
        self.assertEqual([200], [answer.status for answer in second.answers()])
        self.assertEqual(0, self.house.site.load.messages.held)

    def test_a_large_message_that_comes_slowly_gives_way(self) -> None:
        self.make(MaxMessageSize=1)
        large = b"[" + b" " * (MB - 2) + b"]"
        slow = self.house.connect()
        slow.request("POST", "/transfers/lookup", b"[", {"Content-Length": str(len(large))})
        for _ in range(100):
            slow.send(b" " * 1000)
            self.house.clock.advance(1)
        self.assertTrue(slow.is_open)  # nobody waits
        other = self.house.connect()
        other.request("POST", "/transfers/lookup", large)
        self.assertEqual([], other.answers())
        self.house.clock.advance(5)
        other.flush()
        self.assertEqual([200], [answer.status for answer in other.answers()])
        self.assertFalse(slow.is_open)

    def test_a_large_message_that_never_comes_gives_its_room_back(self) -> None:
        self.make(MaxMessageSize=1)
        for _ in range(3):
            connection = self.house.connect()
            headers = {"Content-Length": str(MB)}
            connection.request("POST", "/transfers/lookup", b"[", headers)
            connection.leave()
        self.assertEqual(0, self.house.site.load.messages.held)


class AtOnceTests(LimitsCase):
    def test_bodies(self) -> None:
        self.make(MaxUploads=2)
        coming = [self.busy(), self.busy()]
        self.refused(self.house.request("POST", "/transfers/lookup", b"[]"), 503, "MaxUploads")
        self.assertEqual(200, self.house.request("GET", "/system").status)
        coming[0].send(b"[]")
        self.assertEqual(200, self.house.request("POST", "/transfers/lookup", b"[]").status)
        coming[1].leave()
        self.assertEqual(0, self.house.site.load.uploads)
        self.assertEqual(1, self.counted("MaxUploads"))

    def test_bodies_without_a_password_take_no_room(self) -> None:
        self.house = House({"AuthenticationEnabled": True, "RegisteredUsers": {"a": "b"},
                            "Limits": {"MaxUploads": 1}})  # fmt: skip
        for _ in range(3):
            connection = self.house.connect()
            connection.request("POST", "/transfers/lookup", b"", {"Content-Length": "2"})
            self.assertEqual(401, connection.answers()[0].status)
        self.assertEqual(0, self.house.site.load.uploads)

    def test_what_is_sent(self) -> None:
        self.make(MaxDownloads=1)
        large = self.house.store.add(make_dicom(5 * MB, "1.2.5"))
        target = f"/transfers/chunks/{large}"
        first, second = self.house.connect(), self.house.connect()
        first.stop_reading_after(100_000)
        first.request("GET", target)
        second.request("GET", target)
        self.assertEqual(b"", second.received())
        self.refused(self.house.request("GET", target), 503, "MaxDownloads")
        self.assertEqual(200, self.house.request("GET", "/system").status)
        first.read_on()
        for each in (first, second):
            [answer] = each.answers()
            self.assertEqual((200, True), (answer.status, answer.whole))

    def test_compressed_answers_that_nobody_reads(self) -> None:
        configuration = {"Transfers": {"CacheSize": 8}}
        self.house = House(configuration)
        data = make_dicom(3 * MB, "1.2.5")
        target = f"/transfers/chunks/{self.house.store.add(data)}?compression=gzip"
        slow = [self.house.connect() for _ in range(3)]
        for each in slow:
            each.stop_reading_after(1000)
            each.request("GET", target)
        self.assertFalse(self.house.site.load.keep(3 * MB))
        for each in slow:
            each.read_on()
        answers = [each.answers()[0] for each in slow]
        self.assertEqual([True, True, False],
                         [bool(answer.header("Content-Length")) for answer in answers])  # fmt: skip
        for answer in answers:
            self.assertEqual(data, gzip.decompress(answer.body))
        self.assertTrue(self.house.site.load.keep(8 * MB))

    def test_one_who_leaves_while_it_waits(self) -> None:
        self.make(MaxDownloads=1)
        large = self.house.store.add(make_dicom(5 * MB, "1.2.5"))
        connections = [self.house.connect() for _ in range(2)]
        connections[0].stop_reading_after(100_000)
        for each in connections:
            each.request("GET", f"/transfers/chunks/{large}")
        connections[1].leave()
        connections[0].leave()
        self.assertEqual(0, self.house.site.load.downloads.held)
        self.assertEqual(200, self.house.request("GET", f"/transfers/chunks/{large}").status)


class PushTests(LimitsCase):
    def push(self, instances: int, chunks_each: int, buckets_each: int = 1) -> Answer:
        """Open a push. :param chunks_each: of each instance, of a hundred bytes each."""
        found, buckets = [], []
        for n in range(instances):
            id_ = f"{n:08x}-bbbbbbbb-bbbbbbbb-bbbbbbbb-bbbbbbbb"
            found.append(instance(id_, Size=str(100 * chunks_each)))
            chunks = [chunk(id_, 100 * k, 100) for k in range(chunks_each)]
            buckets += [chunks[k::buckets_each] for k in range(buckets_each)]
        return self.house.request("POST", "/transfers/push", opening(found, buckets))

    def test_instances(self) -> None:
        self.make(MaxInstances=3)
        self.assertEqual(200, self.push(3, 1).status)
        self.refused(self.push(4, 1), 400, "MaxInstances", "4 instances", "3")

    def test_buckets(self) -> None:
        self.make(MaxBuckets=6)
        self.assertEqual(200, self.push(3, 2, 2).status)
        self.refused(self.push(7, 1), 400, "MaxBuckets", "7 buckets", "6")

    def test_chunks(self) -> None:
        self.make(MaxChunks=6)
        self.assertEqual(200, self.push(3, 2).status)
        self.refused(self.push(1, 7), 400, "MaxChunks", "7 chunks", "6")

    def test_one_that_was_taken_goes_on_where_the_limit_is_lower_now(self) -> None:
        self.make()
        path = str(self.push(3, 1).json()["Path"])
        self.house.clock.advance(61)
        transactions = self.house.transactions
        parking = transactions._park(path.rpartition("/")[2])
        self.successResultOf(Deferred.fromCoroutine(parking))
        transactions.limits = PushLimits(instances=1)
        self.assertEqual(200, self.house.request("PUT", f"{path}/0", b"x" * 100).status)

    def test_bodies_that_become_much_more_in_memory(self) -> None:
        self.make()
        for body in (
            b'{"Instances":[],"Compression":"none","Buckets":[' + b"[]," * (2 * MB) + b"[]]}",
            b"[" * (2 * MB),
            b'{"x":[' + b"[]," * (2 * MB) + b"1],,}",
        ):
            answer = self.house.request("POST", "/transfers/push", body)
            self.refused(answer, 400, "arrays")

    def test_broken_json_is_not_read_leniently_where_it_is_large(self) -> None:
        self.make()
        body = b'{"Instances":[1.5' + b",1.5" * (3 * MB) + b"],}"
        self.refused(self.house.request("POST", "/transfers/push", body), 400, "JSON")


class InflationTests(LimitsCase):
    """Beside what is declared, how many times its size a body may become."""

    def put(self, data: bytes, codec: str, body: bytes) -> Answer:
        instances, buckets = [instance(data=data)], [[chunk(size=len(data))]]
        opened = self.house.request("POST", "/transfers/push", opening(instances, buckets, "gzip"))
        path = f"{opened.json()['Path']}/0?codec={codec}"
        return self.house.request("PUT", path, body)

    def test_buckets(self) -> None:
        self.make(MaxInflationRatio=100)
        data = make_dicom(5000, "1.2.3") + bytes(3 * MB)
        zstd = encoder(Coding(Codec.ZSTD, 1))
        slices = [zstd.encode(data[n : n + MB]) for n in range(0, len(data), MB)]
        bodies = {"gzip": gzip.compress(data), "zstd": b"".join(slices) + zstd.finish()}
        for codec, body in bodies.items():
            self.assertEqual(200, self.put(data, codec, body).status, codec)
        self.patch(inflation, "FREE", MB)
        for codec, body in bodies.items():
            self.refused(self.put(data, codec, body), 400, "MaxInflationRatio", "100")
            self.house.clock.advance(61)
        self.assertEqual(200, self.put(data, "none", data).status)
        self.house.clock.advance(61)
        other = random.Random(1).randbytes(3 * MB)
        self.assertEqual(200, self.put(other, "gzip", gzip.compress(other)).status)

    def test_uploads(self) -> None:
        limits = {"MaxInflationRatio": 100, "MaxInflatedSize": 3}
        self.house = House({"Limits": limits}, folder=self.mktemp())
        self.addCleanup(self.house.stop)

        def post(data: bytes) -> Answer:
            coding = {"Content-Encoding": "gzip"}
            return self.house.request("POST", "/instances", gzip.compress(data), coding)

        self.assertEqual(200, post(make_dicom(2 * MB, "1.2.3") + bytes(MB // 2)).status)
        self.refused(post(make_dicom(5000, "1.2.4") + bytes(3 * MB)), 413, "MaxInflatedSize")
        self.patch(inflation, "FREE", MB)
        answer = post(make_dicom(5000, "1.2.5") + bytes(2 * MB))
        self.refused(answer, 400, "MaxInflationRatio")
        self.assertEqual(1, len(self.house.request("GET", "/instances").json()))


class RefusalTests(LimitsCase):
    def test_a_flood_does_not_fill_the_log(self) -> None:
        self.make(MaxUploads=1, MinimumBodyRate=0)
        self.busy()
        seen: list[Any] = []
        globalLogPublisher.addObserver(seen.append)
        self.addCleanup(globalLogPublisher.removeObserver, seen.append)
        for _ in range(50):
            self.house.request("POST", "/transfers/lookup", b"[]")
        self.house.clock.advance(60)
        self.house.request("POST", "/transfers/lookup", b"[]")
        told = [event for event in seen if event.get("limit") == "MaxUploads"]
        self.assertEqual([(1, 1), (50, 51)], [(event["new"], event["count"]) for event in told])
