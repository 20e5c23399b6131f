"""Answers that are partly Orthanc's and partly ours, and the peers that only Orthanc knows."""

import json
from typing import Any

from twisted.internet import error as net
from twisted.trial.unittest import SynchronousTestCase

from tests.web.fake_orthanc import Line, make_house
from tests.web.harness import Answer, FakePeer
from tests.web.test_gateway import basic, headers_of
from tests.web.test_hostile import transfer

PEERS = {
    "B": {"Url": "http://other.test/", "HttpHeaders": [], "Pkcs11": False, "Timeout": 0},
    "C": {"Url": "http://c.test/", "HttpHeaders": [], "Pkcs11": False, "Timeout": 7},
    "D": {"Url": "http://d.test/", "Username": "dora", "Password": None, "HttpHeaders": []},
    "E": {"Url": "http://e.test/", "HttpHeaders": ["X-Token"]},
    "F": {"Url": "http://f.test/", "Pkcs11": True},
    "G": "nonsense",
    "H": {"Url": "gopher://h.test/"},
}


class UnionCase(SynchronousTestCase):
    configuration: dict[str, Any] = {"OrthancPeers": {"B": ["http://b.test:8042/"]}}

    def setUp(self) -> None:
        self.house, self.orthanc = make_house(dict(self.configuration), peers=[FakePeer("B")])

    def both(
        self,
        target: str,
        theirs: Any,
        method: str = "GET",
        body: bytes | None = None,
        **headers: str,
    ) -> tuple[Answer, bytes]:
        """Ask us, and answer for Orthanc, as often as it is asked; our answer, what it was asked.

        :param theirs: a JSON value, a text, or a whole answer.
        """
        client = self.house.connect()
        client.request(method, target, body, headers)
        asked = b""
        while sent := self.line.sent() if self.orthanc.lines else b"":
            asked += sent
            self.give(self.line, theirs)
        return client.answers()[0], asked

    @property
    def line(self) -> Line:
        return self.orthanc.lines[-1]

    def give(self, line: Line, theirs: Any) -> None:
        if isinstance(theirs, bytes):
            line.answer(theirs)
        elif isinstance(theirs, str):
            line.ok(theirs.encode(), "Content-Type: text/plain")
        else:
            line.ok(json.dumps(theirs).encode())


NOT_ALLOWED = (
    b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=O\r\nContent-Length: 2\r\n\r\nno"
)


class PluginTests(UnionCase):
    def test_orthancs_and_ours(self) -> None:
        answer, asked = self.both("/plugins", ["explorer.js", "ohif"], Authorization="Basic eDp5")
        self.assertEqual(["explorer.js", "ohif", "transfers"], answer.json())
        self.assertEqual("Basic eDp5", headers_of(asked)["authorization"])
        answer, _asked = self.both("/plugins", ["transfers"])
        self.assertEqual(["transfers"], answer.json())

    def test_peers_find_us_where_orthanc_refuses_them(self) -> None:
        self.assertEqual(["transfers"], self.both("/plugins", NOT_ALLOWED)[0].json())

    def test_one_plugin(self) -> None:
        answer, asked = self.both("/plugins/transfers", None)
        self.assertEqual(("transfers", b""), (answer.json()["ID"], asked))
        answer, asked = self.both("/plugins/ohif", {"ID": "ohif"})
        self.assertEqual({"ID": "ohif"}, answer.json())

    def test_without_orthanc(self) -> None:
        self.orthanc.refusal = net.ConnectionRefusedError()
        answer = self.house.request("GET", "/plugins")
        self.assertEqual(502, answer.status)
        self.assertIn("is it running", answer.json()["Details"])


class JobTests(UnionCase):
    def setUp(self) -> None:
        super().setUp()
        self.assertEqual(200, self.both("/transfers/pull", {}, "POST", transfer())[0].status)
        self.job = self.house.jobs.jobs()[0].id

    def test_both(self) -> None:
        answer, asked = self.both("/jobs", ["theirs"])
        self.assertEqual(["theirs", self.job], answer.json())
        answer, asked = self.both("/jobs?expand", [{"ID": "theirs", "Type": "Archive"}])
        self.assertTrue(asked.startswith(b"GET /jobs?expand "))
        self.assertEqual(["theirs", self.job], [job["ID"] for job in answer.json()])

    def test_each_goes_to_whom_it_belongs(self) -> None:
        for path, is_ours in ((f"/jobs/{self.job}", True), ("/jobs/theirs", False)):
            answer, asked = self.both(path, {"ID": "theirs"})
            self.assertEqual((path.split("/")[2], is_ours), (answer.json()["ID"], not asked))
            answer, asked = self.both(f"{path}/cancel", {}, "POST", b"")
            self.assertEqual((200, is_ours), (answer.status, not asked))
        self.assertIn(b"POST /jobs/theirs/cancel ", asked)
        self.assertEqual("Failure", self.house.jobs.job(self.job).state.value)

    def test_refused(self) -> None:
        answer, _asked = self.both("/jobs", NOT_ALLOWED)
        self.assertEqual((401, b"no"), (answer.status, answer.body))
        self.assertEqual("Basic realm=O", answer.header("WWW-Authenticate"))

    def test_without_orthanc_ours_are_shown(self) -> None:
        self.line.close()
        self.orthanc.refusal = net.ConnectionRefusedError()
        self.assertEqual([self.job], self.house.request("GET", "/jobs").json())

    def test_no_orthanc_at_all(self) -> None:
        for nonsense in ("<html>", {"a": 1}, "[" * 100_000):
            self.assertEqual([self.job], self.both("/jobs", nonsense)[0].json())
            answer, _asked = self.both("/plugins", nonsense)
            self.assertEqual(502, answer.status)
            self.assertIn("Store.Url", answer.json()["Details"])


class MetricsTests(UnionCase):
    def test_no_name_twice(self) -> None:
        theirs = (
            "# HELP orthanc_transfers_cache_hit_count x\n# TYPE orthanc_jobs gauge\n"
            'orthanc_jobs{a="b"} 1 5\northanc_transfers_cache_hit_count 7 5\n'
        )
        answer, _asked = self.both("/tools/metrics-prometheus", theirs)
        lines = answer.body.decode().splitlines()
        self.assertEqual(["# TYPE orthanc_jobs gauge", 'orthanc_jobs{a="b"} 1 5'], lines[:2])
        names = [line.split()[0] for line in lines[2:]]
        self.assertEqual(len(names), len(set(names)))
        self.assertIn("txtransfers_orthanc_up 1", lines)
        self.assertIn("orthanc_transfers_cache_hit_count", names)

    def test_without_orthanc(self) -> None:
        self.orthanc.refusal = net.ConnectionRefusedError()
        answer = self.house.request("GET", "/tools/metrics-prometheus")
        self.assertIn(b"txtransfers_orthanc_up 0\n", answer.body)

    def test_what_is_beside_it_is_orthancs(self) -> None:
        answer, asked = self.both("/tools/now", "20261127T000000")
        self.assertEqual(
            (b"20261127T000000", True), (answer.body, asked.startswith(b"GET /tools/now"))
        )


class PeerTests(UnionCase):
    configuration: dict[str, Any] = {
        "OrthancPeers": {"B": ["http://b.test:8042/"]},
        "Store": {"Username": "us", "Password": "secret"},
    }

    def test_merged(self) -> None:
        answer, _asked = self.both("/peers", list(PEERS))
        self.assertEqual(["B", "C", "D", "E", "F", "G", "H"], answer.json())
        answer, asked = self.both("/peers?expand", PEERS)
        self.assertEqual(PEERS | {"B": answer.json()["B"]}, answer.json())
        self.assertEqual("http://b.test:8042/", answer.json()["B"]["Url"])
        self.assertNotIn("authorization", headers_of(asked))

    def test_one(self) -> None:
        for path in ("/peers/B", "/peers/B/configuration"):
            answer, asked = self.both(path, None)
            self.assertEqual(("http://b.test:8042/", b""), (answer.json()["Url"], asked))
        for method, path in (("GET", "/peers/C"), ("PUT", "/peers/C"), ("POST", "/peers/B/store")):
            answer, asked = self.both(path, {"x": 1}, method, b"" if method != "GET" else None)
            self.assertEqual({"x": 1}, answer.json())
            self.assertTrue(asked.startswith(f"{method} {path} ".encode()))

    def test_ours_are_changed_in_the_file(self) -> None:
        for method in ("PUT", "DELETE"):
            answer, asked = self.both("/peers/B", None, method)
            self.assertEqual((409, b""), (answer.status, asked))
            self.assertIn("OrthancPeers of txtransfers", answer.json()["Details"])

    def test_theirs_can_be_used(self) -> None:
        body = transfer(Peer="C")
        answer, asked = self.both("/transfers/pull", PEERS, "POST", body)
        self.assertEqual((200, ["C"]), (answer.status, self.house.made), answer.body)
        self.assertTrue(asked.startswith(b"GET /peers?expand "))
        self.assertEqual(basic("us:secret")["Authorization"], headers_of(asked)["authorization"])
        answer, asked = self.both("/transfers/peers", PEERS)
        self.assertEqual({"B": "disabled", "C": "installed"}, answer.json())

    def test_they_are_asked_for_again(self) -> None:
        self.both("/transfers/peers", PEERS)
        self.assertEqual(b"", self.both("/transfers/peers", {})[1])
        self.house.clock.advance(6)
        changed = {"C": PEERS["C"], "New": {"Url": "http://new.test/"}}  # type: ignore[dict-item]
        answer, _asked = self.both("/transfers/peers", changed)
        self.assertEqual(["B", "C", "New"], sorted(answer.json()))
        self.assertEqual(["C", "New"], self.house.made)
        self.house.clock.advance(6)
        self.orthanc.refusal = net.ConnectionRefusedError()
        self.line.close()
        self.assertEqual(
            ["B", "C", "New"], sorted(self.house.request("GET", "/transfers/peers").json())
        )

    def test_what_cannot_be_used_says_why(self) -> None:
        for name, word in (
            ("D", "user (dora) but not its password"),
            ("E", "HttpHeaders"),
            ("F", "PKCS#11"),
            ("G", "expected [ url ]"),
            ("H", "Url"),
        ):
            answer, _asked = self.both("/transfers/send", PEERS, "POST", transfer(Peer=name))
            self.assertEqual(400, answer.status, answer.body)
            for part in (f'"{name}"', "Orthanc only", word, "OrthancPeers of txtransfers"):
                self.assertIn(part, answer.json()["Details"])

    def test_nobody_has_it(self) -> None:
        answer, _asked = self.both("/transfers/send", PEERS, "POST", transfer(Peer="Z"))
        self.assertEqual(404, answer.status)
        self.assertIn("OrthancPeers has B, C", answer.json()["Details"])

    def test_nobody_knows(self) -> None:
        for theirs in (NOT_ALLOWED, "nonsense"):
            answer, _asked = self.both("/transfers/send", theirs, "POST", transfer(Peer="Z"))
            self.assertEqual(502, answer.status)
            self.assertIn("Orthanc has is not known", answer.json()["Details"])


class ExplorerTests(UnionCase):
    def test_the_script_gains_the_button(self) -> None:
        headers = {"If-None-Match": "x", "Accept-Encoding": "gzip", "Range": "bytes=0-1"}
        theirs = b"// theirs"
        client = self.house.connect()
        client.request("GET", "/plugins/explorer.js", headers=headers)
        asked = headers_of(self.line.sent())
        self.assertEqual(set(), {"if-none-match", "accept-encoding", "range"} & set(asked))
        self.line.ok(theirs, "Content-Type: application/javascript\nETag: x")
        answer = client.answers()[0]
        self.assertTrue(answer.body.startswith(theirs + b"\n"))
        self.assertIn(b"Transfers accelerator", answer.body)
        self.assertEqual("application/javascript", answer.header("Content-Type"))
        self.assertIsNone(answer.header("ETag"))

    def test_not_twice(self) -> None:
        answer, _asked = self.both("/plugins/explorer.js", ".text('Transfers accelerator')")
        self.assertEqual(b".text('Transfers accelerator')", answer.body)

    def test_where_there_is_none(self) -> None:
        missing = b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno"
        answer, _asked = self.both("/plugins/explorer.js", missing)
        self.assertEqual((404, b"no"), (answer.status, answer.body))

    def test_its_successor_sees_the_plugin(self) -> None:
        theirs = {"Plugins": {"ohif": {"Enabled": False}}, "UiOptions": {"é": 1.5}}
        answer, _asked = self.both("/ui/api/configuration", theirs)
        told = answer.json()
        self.assertIs(True, told["Plugins"].pop("transfers")["Enabled"])
        self.assertEqual(theirs, told)
        theirs = {"Plugins": {"transfers": {"Enabled": False, "Version": "9"}}}
        answer, _asked = self.both("/ui/api/configuration", theirs)
        found = answer.json()["Plugins"]["transfers"]
        self.assertEqual((True, "9"), (found["Enabled"], found["Version"]))

    def test_what_is_no_configuration_passes(self) -> None:
        for theirs in ("<html>", [1], {"Plugins": 3}):
            answer, _asked = self.both("/ui/api/configuration", theirs)
            given = theirs if isinstance(theirs, str) else json.dumps(theirs)
            self.assertEqual(given.encode(), answer.body)

    def test_half_a_character_in_it_passes(self) -> None:
        answer, _asked = self.both("/ui/api/configuration", {"UiOptions": "\ud800"})
        self.assertEqual("\ud800", answer.json()["UiOptions"])

    def test_at_another_root(self) -> None:
        store = {"OrthancExplorer2Root": "/explorer/two"}
        self.house, self.orthanc = make_house({"Store": store})
        answer, _asked = self.both("/explorer/two/api/configuration", {})
        self.assertIn("transfers", answer.json()["Plugins"])
        self.assertEqual({}, self.both("/ui/api/configuration", {})[0].json())
        self.assertEqual({}, self.both("/explorer/two", {})[0].json())
