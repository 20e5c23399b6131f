"""Limits of bandwidth over HTTP: told, changed, kept to."""

import json
import os
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.dicom_files import make
from tests.web.harness import Connection, FakePeer, House

PATH = "/transfers/bandwidth"
ID = "-".join(["01234567"] * 5)
NONE = {"Limit": "0", "Now": "0"}
SIZE = 3_000_000


class BandwidthTestCase(SynchronousTestCase):
    house: House

    def put(self, value: Any, status: int = 200) -> Any:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        answer = self.house.request("PUT", PATH, body)
        self.assertEqual(status, answer.status, answer.body)
        return answer.json()

    def get(self) -> Any:
        return self.house.request("GET", PATH).json()


class RouteTests(BandwidthTestCase):
    def setUp(self) -> None:
        form = {"Upload": {"Mon 12:00-13:00": "20M", "*": "0"}}
        self.house = House({"Transfers": {"Bandwidth": form}}, peers=[FakePeer("B")])

    def test_what_is_configured(self) -> None:
        upload = {"Limit": {"Mon 12:00-13:00": "20M", "*": "0"}, "Now": "20M"}
        peers = {"B": {"Upload": NONE, "Download": NONE}}
        self.assertEqual({"Upload": upload, "Download": NONE, "Peers": peers}, self.get())
        self.house.clock.advance(3600)
        self.assertEqual("0", self.get()["Upload"]["Now"])

    def test_what_is_not_named_stays(self) -> None:
        before = self.get()
        five, six = {"Limit": "5M", "Now": "5M"}, {"Limit": "800kB", "Now": "6.4M"}
        self.assertEqual(before | {"Download": five}, self.put({"Download": "5M"}))
        told = self.put({"Peers": {"B": {"Upload": "800kB"}}})
        peers = {"B": {"Upload": six, "Download": NONE}}
        self.assertEqual(before | {"Download": five, "Peers": peers}, told)
        self.assertEqual(told, self.put({}))
        self.assertEqual(told, self.get())
        told = self.put({"Peers": {"B": "5M"}})
        self.assertEqual({"Upload": five, "Download": five}, told["Peers"]["B"])

    def test_mistakes_change_nothing(self) -> None:
        before = self.get()
        for value, words in (
            ({"Upload": "5M", "Download": "fast"}, "Download: expected a figure"),
            ({"Upload": "5M", "download": "1M"}, 'download: unknown key; did you mean "Download"?'),
            ({"Upload": "5M", "Peers": {"B": {"8-18": "1M"}}}, "Peers.B.8-18: is no time"),
            ({"Upload": "5M", "Peers": []}, "Peers: expected an object"),
            ({"Upload": None}, "Upload: expected a figure"),
            ([], "another form"),
            (b"{", "not JSON"),
            (b"", "empty"),
        ):
            self.assertIn(words, self.put(value, 400)["Details"])
        unknown = self.put({"Upload": "5M", "Peers": {"C": "1M"}}, 404)
        self.assertIn("OrthancPeers has B", unknown["Details"])
        self.assertEqual(before, self.get())
        self.assertEqual(413, self.house.request("PUT", PATH, b" " * 2_000_000).status)


class KeptTests(BandwidthTestCase):
    """2 Mbit/s are 250,000 bytes a second."""

    def setUp(self) -> None:
        self.house = House({"Transfers": {"Bandwidth": "2M"}, "HttpTimeout": 1})
        self.house.store.files[ID] = bytes(SIZE)

    def advance(self, seconds: float, *connections: Connection) -> None:
        for _ in range(round(seconds / 0.01)):
            self.house.clock.advance(0.01)
            for connection in connections:
                connection.flush()

    def assert_near(self, expected: float, found: float) -> None:
        self.assertLessEqual(abs(found - expected), expected * 0.05, (expected, found))

    def fetch(self, **headers: str) -> Connection:
        connection = self.house.connect()
        connection.request("GET", f"/transfers/chunks/{ID}", headers=headers)
        return connection

    def open(self) -> str:
        chunk = {"ID": ID, "Offset": "0", "Size": str(SIZE)}
        opening = {
            "Instances": [{"ID": ID, "Size": str(SIZE), "MD5": "0" * 32}],
            "Buckets": [[chunk]],
            "Compression": "none",
        }
        answer = self.house.request("POST", "/transfers/push", json.dumps(opening).encode())
        return str(answer.json()["Path"])

    def test_chunks(self) -> None:
        connection = self.fetch()
        self.advance(10)
        self.assert_near(2_500_000, len(connection.received()))
        self.advance(3)
        self.assertEqual(SIZE, len(connection.answers()[0].body))

    def test_requests_of_one_transfer_share_a_place(self) -> None:
        connections = [
            self.fetch(**{"sender-transfer-id": transfer}) for transfer in ("1", "1", "1", "2")
        ]
        self.advance(10)
        self.assert_near(1_250_000, len(connections[3].received()))
        self.assert_near(2_500_000, sum(len(each.received()) for each in connections))

    def test_changed_while_it_runs(self) -> None:
        connection = self.fetch()
        self.advance(2)
        self.put({"Upload": "4M"})
        before = len(connection.received())
        self.advance(2)
        self.assert_near(1_000_000, len(connection.received()) - before)
        self.put({"Upload": "0"})
        self.assertEqual(SIZE, len(connection.answers()[0].body))

    def test_held_back_for_longer_than_the_timeout(self) -> None:
        self.put({"Upload": "8k"})
        connection = self.fetch()
        self.advance(5)
        self.put({"Upload": "0"})
        self.assertEqual(SIZE, len(connection.answers()[0].body))

    def test_a_client_that_goes(self) -> None:
        self.fetch().leave()
        other = self.fetch()
        self.advance(10)
        self.assert_near(2_500_000, len(other.received()))

    def test_a_bucket_that_is_received(self) -> None:
        path = self.open()
        connection = self.house.connect()
        connection.request("PUT", f"{path}/0", bytes(SIZE))
        self.advance(10, connection)
        self.assert_near(2_500_000, SIZE - connection.flush())
        self.assertEqual([], connection.answers())
        self.advance(3, connection)
        self.assertEqual([200], [answer.status for answer in connection.answers()])

    def test_a_bucket_whose_limit_ends(self) -> None:
        path = self.open()
        connection = self.house.connect()
        connection.request("PUT", f"{path}/0", bytes(SIZE))
        self.advance(3, connection)
        self.assertFalse(connection.is_read)
        self.put({"Download": "0"})
        connection.flush()
        self.assertEqual([200], [answer.status for answer in connection.answers()])

    def test_a_bucket_that_is_dropped_while_it_is_held(self) -> None:
        path = self.open()
        connection = self.house.connect()
        connection.request("PUT", f"{path}/0", bytes(SIZE))
        self.assertFalse(connection.is_read)
        self.house.request("DELETE", path)
        self.advance(1, connection)
        self.assertEqual([404], [answer.status for answer in connection.answers()])

    def test_what_people_store_and_look_at_is_not_limited(self) -> None:
        folder = os.path.abspath(self.mktemp())
        self.house = House({"Transfers": {"Bandwidth": "8k"}}, folder=folder)
        self.addCleanup(self.house.stop)
        data = make(filler=100_000)
        stored = self.house.request("POST", "/instances", data)
        self.assertEqual(200, stored.status)
        answer = self.house.request("GET", f"{stored.json()['Path']}/file")
        self.assertEqual(data, answer.body)
