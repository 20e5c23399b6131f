"""Peers as people see them: what is known, what is tried, what is found there."""

import json
from typing import Any

from tests.web.harness import FakePeer, House
from tests.web.test_hostile import HostileCase
from txtransfers.errors import PeerRefused, PeerUnreachable


class PeersTests(HostileCase):
    def setUp(self) -> None:
        self.far = FakePeer("B", accelerated=True, remote_self="A")
        self.house = House({"Name": "A"}, peers=[self.far, FakePeer("C")])

    def test_expanded(self) -> None:
        told = self.house.request("GET", "/transfers/peers?expand").json()
        self.assertEqual(["B", "C"], list(told))
        self.assertEqual(
            {
                "Name": "B",
                "State": "bidirectional",
                "Mode": "pull",
                "Url": "http://b.test:8042/",
                "RemoteSelf": "A",
                "Reason": "",
                "RoundTripMs": 1.5,
                "RemoteName": "far B",
                "Version": "1.10.1",
                "TxtransfersVersion": "",
                "PluginVersion": "1.7",
            },
            told["B"],
        )
        self.assertEqual(("disabled", "push"), (told["C"]["State"], told["C"]["Mode"]))
        self.assertIn("refused", told["C"]["Reason"])
        self.assertEqual(told["B"], self.house.request("GET", "/transfers/peers/B").json())
        plain = self.house.request("GET", "/transfers/peers").json()
        self.assertEqual({"B": "bidirectional", "C": "disabled"}, plain)

    def test_unknown(self) -> None:
        for method, path in (("GET", ""), ("POST", "/test"), ("POST", "/find")):
            answer = self.house.request(method, f"/transfers/peers/D{path}", b"{}")
            self.assert_refused(answer, 404, 17, "D", "B, C")
        answer = self.house.request("GET", "/transfers/peers/B/nothing")
        self.assert_refused(answer, 404, 17, "no such route")

    def test_a_test(self) -> None:
        self.far.answers = {"/plugins": ["transfers"], "/transfers/peers": {"A": "installed"}}
        told = self.house.request("POST", "/transfers/peers/B/test", b"").json()
        self.assertEqual(("B", True, 7), (told["Peer"], told["Passed"], len(told["Steps"])))
        told = self.house.request("POST", "/transfers/peers/C/test", b"").json()
        self.assertFalse(told["Passed"])
        failed = [step for step in told["Steps"] if step["Result"] == "Failed"]
        self.assertEqual(["Connected"], [step["Step"] for step in failed])
        self.assertTrue(failed[0]["Advice"])

    def find(self, **more: Any) -> Any:
        body = {"Level": "Study", "Query": {}, "Limit": 10, **more}
        return self.house.request("POST", "/transfers/peers/B/find", json.dumps(body).encode())

    def test_finding(self) -> None:
        self.far.answers = {"/tools/find": [{"ID": "x"}]}
        answer = self.find()
        self.assertEqual((200, [{"ID": "x"}]), (answer.status, answer.json()))
        self.assertEqual({"Level": "Study", "Query": {}, "Limit": 10}, self.far.asked[-1])
        for limit in (0, -1, 201, "10", None):
            self.assert_refused(self.find(Limit=limit), 400, 15, "200")
        self.assert_refused(
            self.house.request("POST", "/transfers/peers/B/find", b"[]"), 400, 15, "form"
        )

    def test_finding_where_there_is_no_archive(self) -> None:
        self.far.answers = {"/tools/find": PeerRefused("404", 404)}
        self.assert_refused(self.find(), 502, 9, "cannot be searched")
        self.far.answers = {"/tools/find": PeerUnreachable("it is down")}
        self.assert_refused(self.find(), 502, 9, "down")
