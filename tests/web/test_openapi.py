"""The description for programs is true: each route is in it, and each of it is answered so."""

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
from twisted.trial.unittest import SynchronousTestCase

import txtransfers
from tests.test_docs import fixed_routes, named_routes
from tests.web.harness import Answer, FakePeer, House, make_dicom, md5
from txtransfers import __version__
from txtransfers.web.openapi import describe, read
from txtransfers.web.resource import METHODS

FILE = make_dicom(1000, "1.2.3")


def operations(value: Any) -> Iterator[tuple[str, str, Any]]:
    """Method, path and description of each operation."""
    for path, node in value["paths"].items():
        for method, operation in node.items():
            if method.upper() in METHODS:
                yield method.upper(), path, operation


def resolved(value: Any, node: Any) -> Any:
    """What a reference leads to; what is none, as it is."""
    if "$ref" not in node:
        return node
    found = value
    for part in node["$ref"].split("/")[1:]:
        found = found[part]
    return found


class WrittenTests(SynchronousTestCase):
    def test_what_is_packaged_is_what_people_read(self) -> None:
        root = Path(txtransfers.__file__).parent.parent
        self.assertEqual(
            (root / "txtransfers" / "web" / "openapi.yaml").read_text(encoding="utf-8"),
            (root / "docs" / "openapi.yaml").read_text(encoding="utf-8"),
        )

    def test_every_reference_leads_somewhere(self) -> None:
        value = read()
        for reference in set(re.findall(r'"#(/[^"]+)"', json.dumps(value))):
            self.assertTrue(resolved(value, {"$ref": f"#{reference}"}), reference)

    def test_it_is_a_description_of_openapi(self) -> None:
        value = read()
        self.assertTrue(value["openapi"].startswith("3.1."))
        for _method, path, operation in operations(value):
            self.assertTrue(operation["summary"], path)
            self.assertIn("default", operation["responses"])
            declared = value["paths"][path].get("parameters", []) + operation.get("parameters", [])
            named = [resolved(value, each) for each in declared]
            in_path = {each["name"] for each in named if each["in"] == "path"}
            self.assertEqual(set(re.findall(r"\{(\w+)\}", path)), in_path, path)


class TruthTests(SynchronousTestCase):
    """Each operation is tried in a house with one of everything."""

    def setUp(self) -> None:
        self.value = read()
        self.folder = self.mktemp()
        peers = {"OrthancPeers": {"B": ["http://b.test:8042/", "user", "password"]}}
        self.house = House(peers, self.folder, [FakePeer("B", accelerated=True)])
        self.addCleanup(self.house.stop)
        stored = self.house.request("POST", "/instances", FILE).json()
        self.ids = {
            "patients": stored["ParentPatient"],
            "studies": stored["ParentStudy"],
            "series": stored["ParentSeries"],
            "instances": stored["ID"],
        }
        page = self.house.request("GET", "/transfers/explorer/").body.decode()
        found = re.search(r"([0-9a-f]{16})/([a-z.]+\.js)", page)
        assert found is not None
        self.version, self.file = found.groups()

    # What there is

    def test_each_route_is_described(self) -> None:
        described = {(method, path) for method, path, _operation in operations(self.value)}
        for method, route in fixed_routes(self.house.site.resource):
            self.assertIn((method, route), described)
        paths = {path for _method, path in described}
        for route in named_routes() - {"/tools", "/transfers/chunks"}:  # their children are
            for path in self.spelt(route):
                matching = [each for each in paths if re.fullmatch(path, each)]
                self.assertTrue(matching, route)

    def spelt(self, route: str) -> Iterator[str]:
        """Regular expressions of the paths that a docstring names."""
        route = route.partition("?")[0].rstrip("/").replace("[.ID…]", "") or "/transfers/explorer"
        if route == "/{level}/ID":
            route = "/studies/ID"
        routes = [route.replace("{level}", "studies")]
        if route.endswith(("/studies", "/series", "/instances")) and "{level}" in route:
            routes = [route.replace("{level}", "patients")]
        for each in routes:
            yield re.sub(r"\b[A-Z]+\b", r"\\{\\w+\\}", re.escape(each))

    def test_each_method_of_a_node_is_described_and_no_other(self) -> None:
        described: dict[str, set[str]] = {}
        for method, path, _operation in operations(self.value):
            described.setdefault(path, set()).add(method)
        for path, methods in described.items():
            for method in {"GET", "POST", "PUT", "DELETE"} - methods:
                answer = self.house.request(method, self.target(path), b"")
                self.assertEqual(405, answer.status, (method, path))
                self.assertEqual(methods, set((answer.header("Allow") or "").split(",")), path)

    def target(self, path: str) -> str:
        level = path.split("/")[1]
        values = {
            "id": self.ids.get(level, ""),
            "ids": self.ids["instances"],
            "peer": "B",
            "job": self.job(path) if "{job}" in path else "",
            "transaction": self.push() if "{transaction}" in path else "",
            "bucket": "0",
            "version": self.version,
            "file": self.file,
        }
        return re.sub(r"\{(\w+)\}", lambda match: values[match[1]], path)

    def push(self) -> str:
        """A new transaction, of a file that is not here yet."""
        id_ = "-".join(["01234567"] * 5)
        data = make_dicom(600, "1.2.4")
        body = {
            "Instances": [{"ID": id_, "Size": str(len(data)), "MD5": md5(data)}],
            "Buckets": [[{"ID": id_, "Offset": "0", "Size": str(len(data))}]],
            "Compression": "none",
        }
        self.house.clock.advance(100)  # so that the one before makes room
        answer = self.house.request("POST", "/transfers/push", json.dumps(body).encode())
        return str(answer.json()["ID"])

    def job(self, path: str) -> str:
        """A new job, brought to where it must be for what is below it."""
        body = {"Resources": [], "Compression": "none", "Peer": "B"}
        answer = self.house.request("POST", "/transfers/pull", json.dumps(body).encode())
        before = {"resume": "pause", "resubmit": "cancel", "receipt": "cancel"}
        action = before.get(path.rpartition("/")[2])
        if action is not None:
            self.house.request("POST", f"{answer.json()['Path']}/{action}", b"")
        return str(answer.json()["ID"])

    # What is answered

    BODIES = {
        "/transfers/lookup": [],
        "/transfers/pull": {"Resources": [], "Compression": "none", "Peer": "B"},
        "/transfers/send": {"Resources": [], "Compression": "gzip", "Peer": "B"},
        "/transfers/push": {"Instances": [], "Buckets": [], "Compression": "none"},
        "/transfers/peers/{peer}/find": {"Level": "Study", "Query": {}, "Limit": 5},
        "/transfers/bandwidth": {"Upload": "0", "Peers": {}},
        "/jobs/{job}/priority": 5,
        "/tools/find": {"Level": "Study", "Query": {"PatientID": "*"}, "Expand": True},
        "/tools/count-resources": {"Level": "Series", "Query": {}},
    }

    def body(self, method: str, path: str) -> bytes | None:
        if method in ("GET", "DELETE"):
            return None
        special = {
            "/instances": FILE,
            "/transfers/push/{transaction}/{bucket}": make_dicom(600, "1.2.4"),
            "/transfers/push/{transaction}/commit": b"",
            "/tools/lookup": b"1.2.3",
        }
        return special.get(path) or json.dumps(self.BODIES.get(path, {})).encode()

    def test_each_operation_answers_as_is_described(self) -> None:
        self.house.peers["B"].answers = defaultdict(list)
        everything = list(operations(self.value))
        # What removes comes last, the small before the large, so that the others find something.
        everything.sort(key=lambda each: (each[0] == "DELETE", each[1]))
        tried = 0
        for method, path, operation in everything:
            if path == "/transfers/events":  # never ends
                continue
            target = self.target(path)
            if path.endswith("/commit"):
                self.house.request("PUT", target.replace("/commit", "/0"), make_dicom(600, "1.2.4"))
            if method == "DELETE" and path.startswith(
                ("/instances", "/studies", "/series", "/patients")
            ):
                self.house.request("POST", "/instances", FILE)
            for more in ("", "?expand") if method == "GET" else ("",):
                answer = self.house.request(method, target + more, self.body(method, path))
                self.check(method, target + more, operation, answer)
                tried += 1
        self.assertGreater(tried, 80)

    def check(self, method: str, target: str, operation: Any, answer: Answer) -> None:
        what = f"{method} {target}: {answer.status} {answer.body[:300]!r}"
        self.assertEqual(
            307 if "/explorer" in target and "." not in target else 200, answer.status, what
        )
        described = operation["responses"].get(str(answer.status))
        self.assertIsNotNone(described, what)
        described = resolved(self.value, described)
        if "content" not in described:
            self.assertEqual(b"", answer.body, what)
            return
        kind = (answer.header("Content-Type") or "").partition(";")[0]
        self.assertIn(kind, described["content"], what)
        schema = described["content"][kind].get("schema")
        if schema is not None:
            text = kind == "text/plain" and schema.get("type") == "string"
            self.validate(schema, answer.body.decode() if text else answer.json(), what)

    def validate(self, schema: Any, value: Any, what: str) -> None:
        whole = {**schema, "components": self.value["components"]}
        for error in jsonschema_rs.validator_for(whole).iter_errors(value):
            self.fail(f"{what}: {error.message} at {error.instance_path}")

    def test_errors_are_as_described(self) -> None:
        error = self.value["components"]["schemas"]["Error"]
        for method, target, body in (
            ("GET", "/nowhere", None),
            ("POST", "/transfers/lookup", b"{"),
            ("GET", "/jobs/x", None),
            ("POST", "/transfers/push/x/commit", b""),
            ("PUT", "/transfers/bandwidth", b'{"Upload":"x"}'),
        ):
            answer = self.house.request(method, target, body)
            self.assertEqual("text/plain", answer.header("Content-Type"))
            self.validate(error, answer.json(), target)


class ServedTests(SynchronousTestCase):
    def test_as_json(self) -> None:
        answer = House().request("GET", "/transfers/openapi.json")
        self.assertEqual((200, "application/json"), (answer.status, answer.header("Content-Type")))
        self.assertEqual(describe(False), answer.json())
        self.assertEqual(__version__, answer.json()["info"]["version"])
        self.assertEqual(set(read()["paths"]), set(answer.json()["paths"]))

    def test_behind_a_gateway_without_what_is_orthanc_s(self) -> None:
        paths = describe(True)["paths"]
        self.assertIn("/transfers/lookup", paths)
        self.assertIn("/jobs/{job}", paths)
        for path in ("/studies", "/instances/{id}", "/tools/find", "/system", "/changes"):
            self.assertNotIn(path, paths)

    def test_who_may_see_it(self) -> None:
        house = House(
            {
                "AuthenticationEnabled": True,
                "RegisteredUsers": {"a": "b", "c": "d"},
                "Permissions": {"a": ["read"], "c": ["receive"]},
            }
        )
        for login, status in (("Basic YTpi", 200), ("Basic Yzpk", 403), ("", 401)):
            headers = {"Authorization": login} if login else {}
            answer = house.request("GET", "/transfers/openapi.json", headers=headers)
            self.assertEqual(status, answer.status)
