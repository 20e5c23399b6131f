"""The dashboard and the alert rules name metrics that there are, with labels that they have."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families
from twisted.internet import error as net
from twisted.trial.unittest import SynchronousTestCase

from tests.web.fake_orthanc import make_house
from tests.web.harness import FakePeer, House

ETC = Path(__file__).parent.parent / "etc"
OPERATIONS = Path(__file__).parent.parent / "docs" / "operations.md"
NAME = re.compile(r"\b(?:txtransfers|process)_\w+")
SELECTOR = re.compile(r"\b((?:txtransfers|process)_\w+)\{([^}]*)\}")
GROUPING = re.compile(r"\bby \(([^)]*)\)")
OF_PROMETHEUS = {"instance", "job", "le"}


def exposed(house: House) -> dict[str, set[str]]:
    """The labels of each metric, by the names that can be asked for."""
    measures: Any = house.site.measures
    for direction in ("push", "pull", "received", "served"):
        measures.bucket("B", direction, 0.1, 1)
        measures.travelled("B", direction, 1)
        measures.committed("B", direction, 0.1)
        measures.tried_again("B", direction, 1)
        measures.job_ended("B", direction, "Success", 1)
    measures.answered(200)
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(house.request("GET", "/metrics").body.decode()):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


class MonitoringTests(SynchronousTestCase):
    def setUp(self) -> None:
        house = House(folder=self.mktemp(), peers=[FakePeer("B")])
        self.addCleanup(house.stop)
        gateway, orthanc = make_house({})
        orthanc.refusal = net.ConnectionRefusedError()
        self.exposed = exposed(house) | exposed(gateway)
        self.assertIn("txtransfers_orthanc_up", self.exposed)

    def check(self, expression: str) -> None:
        names = NAME.findall(expression)
        for name in names:
            self.assertIn(name, self.exposed, expression)
        labels = set[str]().union(*(self.exposed[name] for name in names), OF_PROMETHEUS)
        for name, matchers in SELECTOR.findall(expression):
            wanted = set(re.findall(r"(\w+)\s*[=!]~?", matchers))
            self.assertLessEqual(wanted, self.exposed[name] | OF_PROMETHEUS, expression)
        for grouping in GROUPING.findall(expression):
            self.assertLessEqual({each.strip() for each in grouping.split(",")}, labels, expression)
        for opening, closing in ("()", "{}", "[]"):
            self.assertEqual(expression.count(opening), expression.count(closing), expression)

    def rules(self) -> Iterator[dict[str, Any]]:
        text = (ETC / "prometheus-alerts.yml").read_text(encoding="utf-8")
        for group in yaml.safe_load(text)["groups"]:
            yield from group["rules"]

    def test_the_alerts(self) -> None:
        names = [rule["alert"] for rule in self.rules()]
        self.assertEqual(len(set(names)), len(names))
        for rule in self.rules():
            self.assertTrue(NAME.search(rule["expr"]) or "up{" in rule["expr"], rule)
            self.check(rule["expr"])
            self.assertEqual({"summary", "description"}, set(rule["annotations"]), rule)
            self.assertIn(rule["labels"]["severity"], ("warning", "critical"))
            self.assertRegex(str(rule.get("for", "1m")), r"^\d+[smh]$")
            told = re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"]))
            grouped = GROUPING.search(rule["expr"])
            if grouped is not None:
                self.assertLessEqual(set(told), {each.strip() for each in grouped[1].split(",")})

    def test_the_dashboard(self) -> None:
        dashboard = json.loads((ETC / "grafana-dashboard.json").read_text(encoding="utf-8"))
        panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
        self.assertGreater(len(panels), 15)
        variables = {each["name"] for each in dashboard["templating"]["list"]}
        for panel in panels:
            self.assertTrue(panel["targets"], panel["title"])
            for target in panel["targets"]:
                self.check(target["expr"])
                used = set(re.findall(r"\$(?!__)(\w+)", target["expr"]))
                self.assertLessEqual(used, variables, target["expr"])
        for variable in dashboard["templating"]["list"]:
            self.check(variable["query"])
        self.assertEqual(len(panels), len({panel["title"] for panel in panels}))
        ids = [panel["id"] for panel in dashboard["panels"]]
        self.assertEqual(len(ids), len(set(ids)))

    def test_the_documentation_has_all(self) -> None:
        text = OPERATIONS.read_text(encoding="utf-8")
        for name in self.exposed:
            family = re.sub(r"_(bucket|count|sum)$", "", name)
            self.assertTrue(f"`{family}`" in text or name.startswith("process_"), name)
