"""The files of the page: how they are sent, and what they may not do."""

import gzip
import re

from twisted.trial.unittest import SynchronousTestCase

from tests.web.harness import Answer, House
from txtransfers.web.explorer import FOLDER

PAGE = "/transfers/explorer/"
LARGEST = 150 * 1024
"""Bytes of the whole page, as it travels; it is to come at once."""


class ExplorerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.house = House({"Name": '<b>"A" & co'})

    def get(self, target: str, **headers: str) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.house.request("GET", target, None, named)

    def names(self) -> list[str]:
        """The other files, as the page names them."""
        text = self.get(PAGE).body.decode()
        return [PAGE + name for name in re.findall(r'(?:src|href)="([0-9a-f]{16}/[\w.]+)"', text)]

    def test_the_way_to_it(self) -> None:
        for target, location in (
            ("/", "transfers/explorer/"),
            ("/transfers/explorer", "explorer/"),
        ):
            answer = self.get(target)
            self.assertEqual((307, location), (answer.status, answer.header("Location")))
        self.assertEqual(307, self.house.request("HEAD", "/").status)
        self.assertEqual(404, self.house.request("POST", "/", b"").status)

    def test_the_page(self) -> None:
        answer = self.get(PAGE)
        self.assertEqual(
            (200, "text/html; charset=utf-8"), (answer.status, answer.header("Content-Type"))
        )
        text = answer.body.decode()
        self.assertIn('data-name="&lt;b&gt;&quot;A&quot; &amp; co"', text)
        self.assertIn('data-archive="no"', text)
        self.assertNotIn("<b>", text)
        self.assertNotIn("{{", text)
        self.assertEqual(200, self.house.request("HEAD", PAGE).status)
        self.assertEqual(405, self.house.request("POST", PAGE, b"").status)

    def test_every_file_is_reached_and_small(self) -> None:
        reached = set(self.names())
        sizes = [len(self.get(PAGE).body)]
        waiting = list(reached)
        while waiting:
            name = waiting.pop()
            answer = self.get(name)
            self.assertEqual(200, answer.status, name)
            sizes.append(len(answer.body))
            for other in re.findall(r'from "\./([\w.]+)"', answer.body.decode()):
                target = f"{name.rsplit('/', 1)[0]}/{other}"
                if target not in reached:
                    reached.add(target)
                    waiting.append(target)
        files = {path.name for path in FOLDER.iterdir()}
        self.assertEqual(files - {"index.html"}, {name.rsplit("/", 1)[1] for name in reached})
        self.assertLess(sum(sizes), LARGEST)

    def test_kept_by_browsers(self) -> None:
        page = self.get(PAGE)
        self.assertEqual("no-cache", page.header("Cache-Control"))
        asset = self.get(self.names()[0])
        self.assertIn("immutable", asset.header("Cache-Control") or "")
        for target, answer in ((PAGE, page), (self.names()[0], asset)):
            tag = answer.header("ETag") or ""
            again = self.get(target, If_None_Match=f'W/"other", {tag}')
            self.assertEqual((304, b"", tag), (again.status, again.body, again.header("ETag")))
            self.assertEqual(200, self.get(target, If_None_Match='"other"').status)

    def test_packed_where_it_may_be(self) -> None:
        for target in (PAGE, *self.names()):
            plain = self.get(target)
            self.assertIsNone(plain.header("Content-Encoding"))
            self.assertEqual("Accept-Encoding", plain.header("Vary"))
            packed = self.get(target, Accept_Encoding="br, gzip;q=0.8")
            self.assertEqual("gzip", packed.header("Content-Encoding"))
            self.assertEqual(plain.body, gzip.decompress(packed.body))
            self.assertIsNone(self.get(target, Accept_Encoding="br").header("Content-Encoding"))

    def test_what_it_may_not(self) -> None:
        for target in (PAGE, *self.names()):
            answer = self.get(target)
            policy = answer.header("Content-Security-Policy") or ""
            self.assertIn("default-src 'none'", policy)
            self.assertIn("frame-ancestors 'none'", policy)
            for word in ("unsafe", "http:", "https:", "*", "data:"):
                self.assertNotIn(word, policy)
            self.assertEqual("nosniff", answer.header("X-Content-Type-Options"))
            self.assertEqual("no-referrer", answer.header("Referrer-Policy"))

    def test_nothing_is_loaded_from_elsewhere_and_no_markup_is_made(self) -> None:
        for path in FOLDER.iterdir():
            text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
            for word in ("http:", "https:", "//cdn", "innerHTML", "outerHTML", "insertAdjacent"):
                self.assertNotIn(word, text, path.name)
            for word in ("document.write", "eval(", "new Function", "javascript:", " style="):
                self.assertNotIn(word, text, path.name)
        for word in ("<script>", "onclick="):
            self.assertNotIn(word, (FOLDER / "index.html").read_text(encoding="utf-8"))

    def test_other_names(self) -> None:
        folder = self.names()[0].rsplit("/", 1)[0]
        for target in (
            f"{PAGE}x",
            f"{PAGE}style.css",
            folder,
            f"{folder}/x",
            f"{folder}/index.html",
        ):
            self.assertEqual(404, self.get(target).status, target)
        self.assertEqual(404, self.get(f"{folder}/..%2fstyle.css").status)

    def test_the_password_counts(self) -> None:
        self.house = House({"AuthenticationEnabled": True})
        self.assertEqual(401, self.get(PAGE).status)
        self.assertEqual(401, self.get("/").status)
