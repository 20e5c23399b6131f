"""The parts of ``bench.wan`` that need no link: shares, merging, ratios, tables, pictures."""

import io
import os
import signal
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import attrs
from rich.console import Console
from twisted.trial.unittest import SynchronousTestCase

from bench.wan import page, plan, plot, stopping
from bench.wan.contenders import everybody
from bench.wan.link import Link
from bench.wan.results import (
    ANY,
    MOST_SAMPLES,
    Ratio,
    Result,
    Results,
    load,
    ratios,
    save,
    thinned,
)

LOSSY = Link(200, 100, 0.1)
CLEAN = Link(5, 50)
MEGABYTES = 75_000_000


def result(contender: str, goodput: float, **more: Any) -> Result:
    files = more.pop("files", "ct")
    return Result(LOSSY, files, contender, 143, MEGABYTES, (goodput,), **more)


def ended(contender: str) -> Result:
    return Result(LOSSY, "ct", contender, 143, MEGABYTES, trouble="> 60 s", limit=60.0)


def sample() -> Results:
    return Results(
        {"cores": "2"},
        (
            result("txtransfers-push-none", 160.0, samples=(10.0, 180.0, 20.0), interval=0.2),
            result("txtransfers-pull-none", 150.0),
            result("txtransfers-push-none-cubic", 80.0, samples=(5.0, 90.0), interval=0.4),
            result("rsync", 5.0, late=0.02, command="python -m bench.wan"),
            attrs.evolve(ended("orthanc"), samples=(1.0, 2.0), interval=0.2),
            attrs.evolve(ended("curl"), trouble="not installed: curl", limit=0.0),
            result("iperf3-64", 100.0, files=ANY),
        ),
    )


class LinkTests(SynchronousTestCase):
    def test_the_payload_of_full_packets(self) -> None:
        self.assertAlmostEqual(193.07, LOSSY.goodput * 8e-6, places=2)
        self.assertAlmostEqual(10.0, LOSSY.seconds(round(LOSSY.goodput * 10)))

    def test_names(self) -> None:
        self.assertEqual("200 Mbit/s, 100 ms, 0.1 % loss", LOSSY.name)
        self.assertEqual("5 Mbit/s, 50 ms", CLEAN.name)

    def test_names_are_different(self) -> None:
        self.assertEqual(len(plan.LINKS), len({each.name for each in plan.LINKS}))


class StoppingTests(SynchronousTestCase):
    def setUp(self) -> None:
        for number in stopping.SIGNALS:
            self.addCleanup(signal.signal, number, signal.getsignal(number))
        stopping.listen()

    def stop(self) -> None:
        for number in stopping.SIGNALS:
            os.kill(os.getpid(), number)

    def test_the_first_one_counts(self) -> None:
        self.assertRaises(KeyboardInterrupt, os.kill, os.getpid(), signal.SIGINT)
        self.stop()

    def test_not_in_the_middle_of_what_must_be_whole(self) -> None:
        ended = []
        with self.assertRaises(KeyboardInterrupt), stopping.uninterrupted():
            self.stop()
            ended.append(True)
        self.assertEqual([True], ended)
        with stopping.uninterrupted():
            self.stop()


class PlanTests(SynchronousTestCase):
    def test_a_share_is_one_at_least_and_all_at_most(self) -> None:
        self.assertEqual(1, plan.share(10, 100, 500))
        self.assertEqual(7, plan.share(799, 100, 500))
        self.assertEqual(500, plan.share(10**9, 100, 500))

    def test_files_fit_the_link(self) -> None:
        for files in plan.FILES:
            if files.name == "large":  # a frame has 2 MB: more than this link gets
                continue
            written = plan.load(files, CLEAN, 1.0, Path(self.mktemp()))
            # A header comes with each image.
            self.assertLess(CLEAN.seconds(written.size), 1.3, files.name)
            self.assertEqual(sorted(written.paths), sorted(written.folder.iterdir()))

    def test_the_identifier_of_the_study(self) -> None:
        written = plan.load(plan.FILES[0], CLEAN, 0.1, Path(self.mktemp()))
        self.assertRegex(written.study, r"^[0-9a-f]{8}(-[0-9a-f]{8}){4}$")

    def test_nobody_waits_forever(self) -> None:
        self.assertAlmostEqual(4 * LOSSY.seconds(MEGABYTES) + 60, plan.limit(LOSSY, MEGABYTES))

    def test_bbr_is_forbidden_only_where_packets_are_lost(self) -> None:
        clean = [each.name for each in everybody(lossy=False)]
        lossy = [each.name for each in everybody(lossy=True)]
        self.assertEqual(clean, [each for each in lossy if not each.endswith("-cubic")])
        self.assertIn("txtransfers-pull-gzip-cubic", lossy)
        self.assertEqual(len(lossy), len(set(lossy)))


class ResultTests(SynchronousTestCase):
    def test_the_newer_one_takes_the_place(self) -> None:
        newer = Results({"kernel": "7"}, (result("rsync", 6.0), result("storescu", 1.0)))
        merged = sample().merged(newer)
        self.assertEqual({"cores": "2", "kernel": "7"}, merged.machine)
        self.assertEqual(len(sample().results) + 1, len(merged.results))
        self.assertEqual(
            [6.0], [each.goodput for each in merged.results if each.contender == "rsync"]
        )

    def test_what_is_saved_is_read(self) -> None:
        path = Path(self.mktemp()) / "results.json"
        self.assertEqual(Results(), load(path))
        save(path, sample())
        self.assertEqual(sample(), load(path))

    def test_the_median_of_repeats(self) -> None:
        self.assertEqual(3.0, attrs.evolve(result("rsync", 1.0), goodputs=(9.0, 1.0, 3.0)).goodput)

    def test_samples_become_fewer(self) -> None:
        self.assertEqual(((1.0, 2.0), 0.2), thinned([1.0, 2.0], 0.2))
        self.assertEqual(((), 0.2), thinned([], 0.2))
        few, interval = thinned([float(number % 2) for number in range(MOST_SAMPLES * 2)], 0.2)
        self.assertEqual((MOST_SAMPLES, {0.5}, 0.4), (len(few), set(few), interval))

    def test_ratios(self) -> None:
        told = dict(ratios(sample().results, LOSSY, "ct", cubic=False))
        expected = {
            "the rate": Ratio(0.8),
            "iperf3-64": Ratio(1.6, other="iperf3-64"),
            "the best other": Ratio(32.0, other="rsync"),
        }
        self.assertEqual(expected, told)
        self.assertEqual(
            Ratio(16.0, other="rsync"),
            dict(ratios(sample().results, LOSSY, "ct", cubic=True))["the best other"],
        )

    def test_a_ratio_to_who_was_ended_is_at_least_so_much(self) -> None:
        results = [result("txtransfers-push-none", 100.0), ended("orthanc")]
        told = dict(ratios(results, LOSSY, "ct", cubic=False))
        self.assertEqual(Ratio(10.0, at_least=True, other="orthanc"), told["the best other"])
        self.assertIsNone(told["iperf3-64"])


class PageTests(SynchronousTestCase):
    def test_the_page(self) -> None:
        folder = Path(self.mktemp())
        page.render(folder, sample())
        text = (folder / "README.md").read_text(encoding="utf-8")
        for line in (
            "| contender | ct: 143 files, 75 MB |",
            "| txtransfers-push-none | 160 (80 %) |",
            "| rsync | 5.00 (2.5 %) ! |",
            "| orthanc | > 60 s |",
            "| curl | not installed |",
            "curl, ct: not installed: curl",
            "| the best other | 32.00 (rsync) |",
            "| the rate (cubic) | 0.40 |",
            "The limit: iperf3 -P 64 100 (50 %).",
            "python -m bench.wan",
            page.LATE_TEXT,
            "![Goodput over time](200-mbit-s-100-ms-0.1-loss.svg)",
        ):
            self.assertIn(f"\n{line}\n", text)
        self.assertEqual(1, len(list(folder.glob("*.svg"))))

    def test_the_table(self) -> None:
        output = io.StringIO()
        Console(file=output, width=140).print(page.table(LOSSY, sample().of(LOSSY)))
        self.assertIn("160 (80 %)", output.getvalue())
        self.assertNotIn("storescu", output.getvalue())

    def test_nothing_was_measured(self) -> None:
        folder = Path(self.mktemp())
        page.render(folder, Results())
        self.assertEqual([folder / "README.md"], list(folder.iterdir()))


class PlotTests(SynchronousTestCase):
    def test_a_line_for_each_that_has_samples(self) -> None:
        root = ElementTree.fromstring(plot.svg(LOSSY, "A & B", sample().results))
        space = "{http://www.w3.org/2000/svg}"
        self.assertEqual(3, len(root.findall(f"{space}polyline")))
        texts = [each.text or "" for each in root.iter(f"{space}text")]
        for text in ("A & B", "txtransfers-push-none, 3.8 s", "orthanc, > 60 s"):
            self.assertIn(text, texts)

    def test_no_samples_no_picture(self) -> None:
        self.assertEqual("", plot.svg(LOSSY, "nothing", [result("rsync", 5.0)]))

    def test_round_steps(self) -> None:
        self.assertEqual([0, 50, 100, 150, 200], plot.steps(220))
        self.assertEqual([0, 1, 2, 3, 4, 5], plot.steps(5.5))

    def test_everybody_looks_different(self) -> None:
        looks = [plot.look(each.name) for each in everybody(lossy=True)]
        self.assertEqual(len(looks), len(set(looks)))
