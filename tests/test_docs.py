"""The documents say what is so: routes, metrics, sentences, links, samples and commands."""

import ast
import re
import subprocess
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

from twisted.internet.task import Clock
from twisted.python.reflect import namedAny
from twisted.trial.unittest import SynchronousTestCase

from tests.real_parts import need
from txtransfers import config
from txtransfers.config_keys import KEYS, PEER_KEYS, STORE_KEYS, TRANSFERS_KEYS
from txtransfers.config_limits import LIMITS_KEYS
from txtransfers.transfer.incoming import Counters
from txtransfers.web.resource import METHODS
from txtransfers.web.site import SiteParts, make_site
from txtransfers.web.system import Metrics

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.rglob("*.md")])
SAMPLES = ROOT / "etc"
CERTIFICATE_PATHS = re.compile(r"/etc/(?:ssl/certs|ssl/private|haproxy)/[\w.-]+")
FOLDERS = r"docs|etc|bench|tests|demo|twisted|newsfragments|\.ci"


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as forges make them."""
    headings = re.findall(r"^#+ (.+)$", without_code(text_of(path)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


def constants(folder: Path) -> set[str]:
    """Every text in the code, and every literal part of one."""
    nodes = (node for path in folder.rglob("*.py") for node in ast.walk(ast.parse(text_of(path))))
    return {
        node.value
        for node in nodes
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


class FakeTransactions:
    available = 0
    counters = Counters()


def parts() -> SiteParts:
    """Enough to make the URL tree, not to answer anything."""
    nothing: Any = object()
    return SiteParts(
        settings=config.default("/nowhere"),
        clock=Clock(),
        wall_clock=lambda: 0.0,
        threads=nothing,
        store=nothing,
        archive=nothing,
        jobs=nothing,
        peers={},
        transactions=nothing,
        originator="",
        used_cache=lambda: 0,
        bandwidth=nothing,
    )


def fixed_routes(node: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """(method, route) of each node that is there from the start."""
    for method in METHODS:
        if path and hasattr(node, method.lower()):
            yield method, path
    for name, child in node.children.items():
        yield from fixed_routes(child, f"{path}/{name.decode()}")


def named_routes() -> set[str]:
    """The routes in the docstrings of the resources; ``a|b`` at the end are two."""
    found = set()
    for path in (ROOT / "txtransfers" / "web").glob("*.py"):
        for node in ast.walk(ast.parse(text_of(path))):
            if isinstance(node, ast.ClassDef):
                for route in re.findall(r"``(/[^`]+)``", ast.get_docstring(node) or ""):
                    head, _slash, last = route.rpartition("/")
                    found.update(f"{head}/{each}" for each in last.split("|"))
    return found


class ProtocolTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.text = text_of(DOCS / "protocol.md")

    def test_every_fixed_route_with_its_methods(self) -> None:
        routes = list(fixed_routes(make_site(parts()).resource))
        self.assertIn(("POST", "/transfers/push"), routes)
        for method, route in routes:
            self.assertRegex(self.text, rf"{method} {re.escape(route)}\b")

    def test_every_route_of_the_resources(self) -> None:
        routes = named_routes()
        self.assertIn("/transfers/push/T/commit", routes)
        for route in sorted(routes):
            self.assertIn(route, self.text)


class MetricsTests(SynchronousTestCase):
    def test_the_list_is_complete(self) -> None:
        transactions: Any = FakeTransactions()
        metrics = Metrics(transactions, None, lambda: 0, lambda: 0.0)
        names = set(metrics._transfers())
        source = text_of(ROOT / "txtransfers" / "web" / "system.py")
        names.update(re.findall(r'"(orthanc_(?!transfers)\w+)"', source))
        listed = re.findall(r"^\| `(orthanc_\w+)`", text_of(DOCS / "operations.md"), re.MULTILINE)
        self.assertEqual(sorted(names), sorted(listed))


class SentenceTests(SynchronousTestCase):
    def test_the_sentences_of_errors_are_those_of_the_code(self) -> None:
        known = constants(ROOT / "txtransfers")
        sentences = re.findall(r"^> (.+)$", text_of(DOCS / "troubleshooting.md"), re.MULTILINE)
        self.assertTrue(sentences)
        for sentence in sentences:
            fragments = [part for part in sentence.split("…") if part.strip(" .,:()")]
            self.assertTrue(fragments, sentence)
            for part in fragments:
                self.assertTrue(any(part in text for text in known), f"{part!r} in {sentence!r}")


class SecurityTests(SynchronousTestCase):
    def test_each_attack_has_its_test(self) -> None:
        tried = text_of(DOCS / "security.md").partition("## What was tried against it")[2]
        rows = re.findall(r"^\| (?!attack|---|\*\*).*$", tried, re.MULTILINE)
        self.assertGreater(len(rows), 30)
        for row in rows:
            tests = re.findall(r"`(tests\.[\w.]+)`", row)
            self.assertTrue(tests, row)
            for name in tests:
                self.assertTrue(callable(namedAny(name)), name)

    def test_the_table_of_limits_has_all(self) -> None:
        table = text_of(DOCS / "security.md").partition("## Limits")[2].partition("\n## ")[0]
        for key in LIMITS_KEYS:
            self.assertIn(f"`{key.name}`", table)


class PageTests(SynchronousTestCase):
    def test_every_configuration_key(self) -> None:
        text = text_of(DOCS / "configuration.md")
        for key in (*KEYS, *TRANSFERS_KEYS, *LIMITS_KEYS, *STORE_KEYS, *PEER_KEYS):
            self.assertIn(f"`{key.name}`", text)

    def test_links_lead_somewhere(self) -> None:
        for page in PAGES:
            for target in re.findall(r"\]\(([^)\s]+)\)", without_code(text_of(page))):
                if re.match(r"https?://", target):
                    continue
                name, _hash, anchor = target.partition("#")
                path = (page.parent / name).resolve() if name else page
                self.assertTrue(path.exists(), f"{page.name}: {target}")
                if anchor:
                    self.assertIn(anchor, anchors(path), f"{page.name}: {target}")

    def test_files_that_are_named_exist(self) -> None:
        for page in PAGES:
            for name in re.findall(rf"`((?:{FOLDERS})/[\w./-]*)`", text_of(page)):
                self.assertTrue((ROOT / name).exists(), f"{page.name}: {name}")

    def test_commands_are_in_the_makefile(self) -> None:
        makefile = text_of(ROOT / "Makefile")
        targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
        for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md"):
            commands = re.findall(r"(?:`|^)make ([a-z]+)", text_of(page), re.MULTILINE)
            self.assertTrue({"demo", "test"} <= set(commands), page.name)
            self.assertEqual(set(), set(commands) - targets, page.name)

    def test_the_two_peers_of_the_readme(self) -> None:
        block = re.search(r"```js\n(.*?)```", text_of(ROOT / "README.md"), re.DOTALL)
        assert block is not None
        a, b = (
            config.parse(text, "README.md", {}, "/nowhere") for text in block[1].split("\n\n", 1)
        )
        self.assertEqual(("A", "B"), (a.name, b.name))
        self.assertEqual(a.name, a.peers["B-pulls"].remote_self)
        self.assertEqual(f"http://127.0.0.1:{b.http_port}/", a.peers["B"].url)
        self.assertEqual(f"http://127.0.0.1:{a.http_port}/", b.peers["A"].url)


class ProxySampleTests(SynchronousTestCase):
    """The proxies' own checks; certificates are made for the test, nothing listens."""

    def setUp(self) -> None:
        # Not mktemp: its paths are too long for the sockets of test_nginx.
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def sample(self, name: str) -> str:
        """A sample whose certificates are ours: certificate and key in one file."""
        openssl = need(self, "openssl")
        pem = self.folder / "both.pem"
        arguments = "req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=pacs.example.org"
        key, certificate = self.folder / "key.pem", self.folder / "certificate.pem"
        self.check([openssl, *arguments.split(), "-keyout", str(key), "-out", str(certificate)])
        pem.write_text(text_of(certificate) + text_of(key), encoding="utf-8")
        return CERTIFICATE_PATHS.sub(str(pem), text_of(SAMPLES / name))

    def check(self, command: list[str]) -> None:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual(0, done.returncode, done.stdout + done.stderr)

    def test_nginx(self) -> None:
        nginx = need(self, "nginx")
        numbers = count()
        # The check binds the addresses; ports may be taken, or not be ours to take.
        sample = re.sub(
            r"listen [\d.:]+",
            lambda _match: f"listen unix:{self.folder}/{next(numbers)}",
            self.sample("nginx-txtransfers.conf"),
        )
        self.assertEqual(2, next(numbers))
        (self.folder / "sample.conf").write_text(sample, encoding="utf-8")
        main = self.folder / "nginx.conf"
        main.write_text(
            f"pid {self.folder}/pid;\nerror_log {self.folder}/error.log;\nevents {{}}\n"
            f"http {{ access_log off; include {self.folder}/sample.conf; }}\n",
            encoding="utf-8",
        )
        self.check([nginx, "-t", "-p", str(self.folder), "-c", str(main)])

    def test_haproxy(self) -> None:
        haproxy = need(self, "haproxy")
        path = self.folder / "haproxy.cfg"
        path.write_text(self.sample("haproxy-txtransfers.cfg"), encoding="utf-8")
        self.check([haproxy, "-c", "-f", str(path)])
